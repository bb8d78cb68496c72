"""What a term costs: seconds of CPU a client-step, as ratios to cross-entropy alone, measured in turns.

    python -m tests.benchmarks.terms [--repeats 5]

A term on the target adds one forward and backward pass of as many target samples, a teacher one forward pass; "passes"
are these, a forward and backward pass of the source counted as 1 and a forward pass alone as a third. What a ratio is
above its passes is the term's own arithmetic.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch

from fedtl.assemble.parts import make_tasks
from fedtl.config.read import build
from fedtl.data.federate import federate
from fedtl.engine import OneByOne
from tests.parts import train_cohort, update_of

# The passes that each needs besides the source's own.
TERMS: dict[str, float] = {
    "l2": 0,
    "entropy": 1,
    "mcc": 1,
    "bnm": 1,
    "coral": 1,
    "cmd": 1,
    "mmd": 1,
    "joint_mmd": 1,
    "local_mmd": 1,
    "dann": 1,
    "cdan": 1,
    "distillation": 1 / 3,
    "moon": 2 / 3,
    "barlow_twins": 2,
    "simclr": 2,
}
MODELS: dict[str, dict[str, Any]] = {"mlp": {"name": "mlp", "hidden": [200]}, "lenet5": {"name": "lenet5"}}
STEPS, BATCH = 20, 32


def config(model: Mapping[str, Any], term: str | None) -> dict[str, Any]:
    """Two clients of digits, brought to MNIST's size, that train on one term beside cross-entropy."""
    return {
        "name": "terms",
        "rounds": 1,
        "data": {
            "name": "digits",
            "clients": 2,
            "size": 28,
            "target": {"name": "digits", "transform": {"invert": True}},
        },
        "model": dict(model),
        "strategy": {"name": "fedavg", "lr": 0.01, "local_steps": STEPS, "batch_size": BATCH},
        "objective": [{"term": "cross_entropy"}, *([{"term": term, "weight": 0.1}] if term else [])],
        "views": {"transforms": [{"name": "RandomHorizontalFlip"}], "per_image": False},
    }


class Contestant:
    """One objective, ready to train."""

    def __init__(self, model: Mapping[str, Any], term: str | None) -> None:
        read = build(config(model, term))
        (task,) = make_tasks(read, federate(read.data, 0))
        self.engine = OneByOne(task, traced=True)
        self.w = task.layout.flatten(task.module)
        self.update = update_of("fedavg", lr=0.01, local_steps=STEPS, batch_size=BATCH)
        self.seconds()  # records the step

    def seconds(self) -> float:
        """Of CPU, a client-step."""
        began = time.process_time()
        train_cohort(self.engine, self.update, self.w, [0, 1], [{}, {}], 1)
        return (time.process_time() - began) / (2 * STEPS)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    print(f"| beside cross-entropy | passes | {' | '.join(MODELS)} |\n| --- | --- |{' --- |' * len(MODELS)}")
    rows: dict[str, list[str]] = {term: [] for term in TERMS}
    for model in MODELS.values():
        bare = Contestant(model, None)
        for term in TERMS:
            other = Contestant(model, term)
            ratios = [other.seconds() / bare.seconds() for _ in range(repeats)]
            rows[term].append(f"{statistics.median(ratios):.2f}")
    for term, passes in TERMS.items():
        print(f"| {term} | {1 + passes:.2f} | {' | '.join(rows[term])} |")


if __name__ == "__main__":
    main()
