"""The work that every contestant does, and what it hands back. Needs numpy and torch alone.

FedAvg, plain SGD without momentum, one epoch of every sampled client's data, nothing scored within the rounds.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

CLASSES = 10


@dataclass(frozen=True)
class Work:
    """What a contestant is asked to do; travels as a JSON file.

    Attributes:
        model: "logistic" (784-10), "mlp" (784-100-10) or "cnn" (16 and 32 channels of 5x5; 64).
        data: the .npz that :func:`load` reads.
        outcome: where the :class:`Outcome` is to be written.
        folder: an empty folder to work in.
        rounds: all of them, warm-up included.
        clients: N.
        sampled: clients a round.
        batch: samples a step.
        lr: η.
        seed: of the initial model, of who is sampled and in which order samples come.
        processes: worker processes, where the contestant can have several.
        threads: torch's, in each process.
        variant: for contestants that share a script.
    """

    model: str
    data: str
    outcome: str
    folder: str
    rounds: int
    clients: int
    sampled: int
    batch: int
    lr: float
    seed: int
    processes: int
    threads: int
    variant: str = ""

    @classmethod
    def read(cls) -> Work:
        """The work in the file that the command line names."""
        return cls(**json.loads(Path(sys.argv[1]).read_text()))

    def write(self, file: Path) -> None:
        """As :meth:`read` reads it."""
        file.write_text(json.dumps(asdict(self)))


@dataclass
class Outcome:
    """What a contestant did.

    Attributes:
        ends: the time at which each round ended, in seconds since the epoch.
        accuracy: of the final global model on the test set, 0 to 1.
        versions: by package.
        inside: the rounds' seconds by the contestant's own account, where it gives one.
    """

    ends: list[float] = field(default_factory=list)
    accuracy: float = float("nan")
    versions: dict[str, str] = field(default_factory=dict)
    inside: list[float] = field(default_factory=list)

    def round_ended(self) -> None:
        """Note the time."""
        self.ends.append(time.time())

    def finish(self, work: Work, model: nn.Module, *packages: str) -> None:
        """Score the final global model and write everything down."""
        self.accuracy = accuracy(model, load(work.data))
        self.versions = {name: metadata.version(name) for name in ("torch", *packages)}
        self.versions["python"] = platform.python_version()
        Path(work.outcome).write_text(json.dumps(asdict(self)))


@dataclass(frozen=True)
class Data:
    """Images as bytes; a client's are normalised when it asks for them.

    Shapes: train_x ``[N, n, 1, 28, 28]``, train_y ``[N, n]``, test_x ``[m, 1, 28, 28]``, test_y ``[m]``.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    scale: float
    shift: float

    def normalised(self, x: Tensor) -> Tensor:
        """Bytes as float32 of about mean 0 and variance 1."""
        return x.to(torch.float32).mul_(self.scale).add_(self.shift)

    def client(self, i: int) -> tuple[Tensor, Tensor]:
        """Client i's images, normalised, and labels."""
        return self.normalised(self.train_x[i]), self.train_y[i]


@lru_cache(maxsize=1)
def load(file: str) -> Data:
    """Read the data, once per process."""
    with np.load(file) as arrays:
        tensors = {name: torch.from_numpy(arrays[name]) for name in ("train_x", "train_y", "test_x", "test_y")}
        return Data(**tensors, scale=float(arrays["scale"]), shift=float(arrays["shift"]))


def make_model(name: str, seed: int) -> nn.Module:
    """The same plain module for every peer, with torch's default initialisation."""
    torch.manual_seed(seed)
    if name == "logistic":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, CLASSES))
    if name == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, CLASSES))
    if name == "cnn":
        first = [nn.Conv2d(1, 16, 5), nn.ReLU(), nn.MaxPool2d(2)]
        second = [nn.Conv2d(16, 32, 5), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, CLASSES))
    raise ValueError(f"there is no model {name!r}")


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    """The share of the test set that the model gets right."""
    model.eval()
    right = 0
    for x, y in zip(data.test_x.split(1000), data.test_y.split(1000)):
        right += int((model(data.normalised(x)).argmax(1) == y).sum())
    return right / len(data.test_y)
