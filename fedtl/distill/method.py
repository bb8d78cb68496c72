"""What every way to distil has in common: what it is given, whom it tells, and how it is called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from fedtl.choice import Choice
from fedtl.data.samples import Samples
from fedtl.models.generators import seeded
from fedtl.models.modes import in_evaluation


class Observer(Protocol):
    """Somebody who watches a distillation; the command line's progress bar is one."""

    def step(self, phase: str, done: int, of: int, losses: Mapping[str, Tensor]) -> None:
        """``done`` of a phase's steps are finished; the losses are scalars of the last one."""

    def score(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """The student should be scored; it has made ``step`` steps."""

    def samples(self, x: Tensor, y: Tensor) -> None:
        """Synthesised samples ``[n, *shape]`` and what the teacher is meant to see in them ``[n]``."""


class SilentObserver:
    """Watches nothing."""

    def step(self, phase: str, done: int, of: int, losses: Mapping[str, Tensor]) -> None:
        """Nothing."""

    def score(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Nothing."""

    def samples(self, x: Tensor, y: Tensor) -> None:
        """Nothing."""


@dataclass
class Job:
    """One distillation.

    Attributes:
        teacher: a trained model; it stays as it is.
        student: an untrained one, which is trained in place.
        shape: of a sample.
        classes: k.
        seed: decides everything random.
        bounds: the smallest and largest model inputs, each broadcastable to a sample, where inputs have such.
        data: samples and which of them are for training, or None; only the method "data" looks at them.
        watch: is told of each step.
    """

    teacher: nn.Module
    student: nn.Module
    shape: tuple[int, ...]
    classes: int
    seed: int = 0
    bounds: tuple[Tensor, Tensor] | None = None
    data: tuple[Samples, NDArray[np.int64]] | None = None
    watch: Observer = field(default_factory=SilentObserver)

    @property
    def device(self) -> torch.device:
        """Where the teacher's parameters are."""
        return next(self.teacher.parameters()).device


class Method(Choice):
    """A way to distil; its fields are its options.

    Attributes:
        steps: of the student.
        batch_size: samples in each.
        lr: the student's learning rate (Adam).
        every: the student's steps between scores; the last one is always scored.
    """

    steps: PositiveInt = 10_000
    batch_size: PositiveInt = 256
    lr: PositiveFloat = 1e-3
    every: PositiveInt = 500

    def train(self, job: Job) -> None:
        """Train the job's student."""
        raise NotImplementedError


def distil(method: Method, job: Job) -> nn.Module:
    """Distil; the same job gives the same bits, and the caller's random state stays as it was.

    Returns:
        The job's student, in evaluation mode.
    """
    # Dropout draws from torch's own generator; a GPU's is not saved, as that would start CUDA everywhere.
    with seeded(job.seed), frozen(job.teacher):
        method.train(job)
    return job.student.eval()


@contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """The module in evaluation mode and without gradients of its parameters; afterwards as it was."""
    wanted = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    module.requires_grad_(False)
    try:
        with in_evaluation(module):
            yield module
    finally:
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)


def generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A random generator of its own, so that the caller's stays as it was."""
    return torch.Generator(device).manual_seed(seed)


def by_pixel(x: Tensor) -> Tensor:
    """Images with each pixel's channels side by side in memory, on a CPU; anything else as it is.

    Convolutions and poolings keep that order, and max-pooling is ten times as fast in it. A clone, as with one channel
    only the strides tell the orders apart.
    """
    return x.clone(memory_format=torch.channels_last) if x.ndim == 4 and x.device.type == "cpu" else x


def last_or_every(step: int, every: int, steps: int) -> bool:
    """Whether the student is to be scored after ``step`` of its ``steps``."""
    return step == steps or step % every == 0
