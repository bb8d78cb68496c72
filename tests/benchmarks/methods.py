"""Speed of every method of the registry: its gradients a second as a share of FedAvg's, in turns of one run.

    python -m tests.benchmarks.methods [METHOD ...] [--blocks 8] [--models mlp cnn]

For each method two processes train the same model on digits, one with FedAvg; they take turns of a few rounds, as in
``tests.benchmarks.paired``, and their CPU time is compared, which other work on the machine disturbs less. Gradients of
mini-batches are counted in an eager run. Beside that: what a client receives and sends in a round, and the
size of its memory on disk, in models (of the method's own kind, so batch-norm's for FedBN).
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import fedtl
from fedtl.runs.history import Run
from fedtl.strategies import STRATEGIES
from tests.benchmarks.paired import BLOCK, LONGER, ROOT, WARM_UP, experiment, ratios, shown
from tests.parts import METHODS as OPTIONS

OTHER_MODELS: dict[str, dict[str, dict[str, Any]]] = {"fedbn": {"cnn": {"name": "cnn-bn"}}}
"""Models in place of the common ones, for a method and for FedAvg beside it."""

UNSUITED = {("fedbn", "mlp")}
"""There is no batch-norm in it."""


def config(method: str, model: str, rounds: int, model_of: str) -> dict[str, Any]:
    """A run of one method; ``model_of`` names the method that it is compared with, whose model it has."""
    strategy = {**OPTIONS[method], "name": method, "lr": 0.01, "local_steps": LONGER[model]}
    if method == "central":  # it has all samples in one place
        strategy["local_steps"] *= 10
    tables = experiment(model, strategy, rounds)
    tables["model"] = OTHER_MODELS.get(model_of, {}).get(model, tables["model"])
    if method == "central":
        del tables["strategy"]["clients_per_round"]
    return tables


def gradients(tables: dict[str, Any], folder: Path) -> tuple[int, Run]:
    """How many gradients a run's second round of three evaluates, counted in an eager engine, and the run."""
    count, evaluated, ends = [0], torch.autograd.grad, list[int]()

    def counted(*args: Any, **options: Any) -> Any:
        count[0] += 1
        return evaluated(*args, **options)

    class Rounds:
        """Looks at the count where a round ends."""

        def begin(self, *about: Any) -> None:
            """Nothing is counted yet."""

        def round(self, report: Any) -> None:
            """A round has ended; the last one's scores may need training, of clients' own models."""
            ends.append(count[0])

    eager = {**tables, "rounds": 3, "simulation": {"grid": "in-process", "stacked": False, "traced": False}}
    with patch("torch.autograd.grad", counted):
        run = fedtl.run(eager, out=folder, listener=Rounds())
    return ends[1] - ends[0], run


def of_client(run: Run) -> tuple[float, float, float]:
    """What a client receives and sends in a round, and its memory, in bytes."""
    last = run.rounds[-1]
    clients = len(last["clients"])
    sizes: dict[str, tuple[int, int]] = {}
    for file in run.path.glob("memories/*/*.safetensors"):
        client, written = re.fullmatch(r"(\d+)-(\d+)\.safetensors", file.name).groups()  # type: ignore[union-attr]
        sizes[client] = max(sizes.get(client, (0, 0)), (int(written), file.stat().st_size))
    memory = statistics.mean(size for _, size in sizes.values()) if sizes else 0.0
    return last["bytes_down"] / clients, last["bytes_up"] / clients, memory


def main() -> None:
    """Measure, and print a table's rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", default=sorted(STRATEGIES), metavar="METHOD")
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--models", nargs="+", default=["mlp", "cnn"])
    options = parser.parse_args()
    rounds = WARM_UP + BLOCK * options.blocks + 1
    columns = "method | model | gradients a step | speed, of FedAvg's | models down | models up | memory in models"
    print(f"| {columns} |\n|{' --- |' * 7}", flush=True)
    for method in options.methods:
        for model in options.models:
            if (method, model) not in UNSUITED:
                print(measured(method, model, rounds, options.blocks), flush=True)


def measured(method: str, model: str, rounds: int, blocks: int) -> str:
    """A row of the table."""
    tables, plain = config(method, model, rounds, method), config("fedavg", model, rounds, method)
    with tempfile.TemporaryDirectory() as folder:
        mine, run = gradients(tables, Path(folder) / "mine")
        theirs, fedavg = gradients(plain, Path(folder) / "fedavg")
        size = of_client(fedavg)[0]
        down, up, memory = (each / size for each in of_client(run))
    seen = ratios((ROOT, tables), (ROOT, plain), blocks, "process_time")
    speed = shown([mine / theirs * ratio for ratio in seen])
    return f"| {method} | {model} | {mine / theirs:.2f} | {speed} | {down:.2f} | {up:.2f} | {memory:.2f} |"


if __name__ == "__main__":
    main()
