"""Rounds of this checkout against those of another one, by turns in one run.

Two processes run the same experiment, each with its own checkout's code. They take turns of a few rounds, so that
whatever else the machine does meets both. ``python -m tests.benchmarks.paired OTHER [--blocks 20]`` prints, for each
experiment, the median of the ratios other / this with its standard error: above 1, this checkout is faster.
Without OTHER, methods of this checkout take turns: FedAvg against SCAFFOLD, in short rounds and in long ones, and
FedAvg against FedAvg whose models travel as rows, 20 clients of 10^5 parameters; FedAvg's time / the method's, above 1
the method is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WARM_UP, BLOCK = 6, 5
"""Rounds before anything is counted, and rounds of a turn."""

CHILD = """
import json, sys, time, fedtl
block, warm_up, now = int(sys.argv[3]), int(sys.argv[4]), getattr(time, sys.argv[5])
class Turns:  # a listener by its methods, whatever module has the contract of such
    def begin(self, *about):
        pass
    began = now()
    def round(self, report):
        if report.round >= warm_up and (report.round - warm_up) % block == 0:
            print(now() - self.began, flush=True)
            sys.stdin.readline()
            self.began = now()
fedtl.run(json.loads(sys.argv[1]), out=sys.argv[2], listener=Turns())
"""

MODELS: dict[str, dict[str, Any]] = {
    "logistic": {"name": "logistic"},
    "mlp": {"name": "mlp", "hidden": [100]},
    "cnn": {"name": "cnn"},
}
METHODS: dict[str, dict[str, Any]] = {
    "fedavg": {"name": "fedavg", "lr": 0.05},
    "pfedme": {"name": "pfedme", "lr": 0.05, "lam": 15.0, "inner_steps": 5, "inner_lr": 0.05},
}
STEPS = {"logistic": 60, "mlp": 30, "cnn": 4}
LONGER = {"logistic": 240, "mlp": 120, "cnn": 30}
"""A memory is read and written once a client's round, whatever its length."""


def experiment(model: str, strategy: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Twenty clients of digits, ten of them in a round, on one core in one process."""
    return {
        "name": "paired",
        "rounds": rounds,
        "device": "cpu",
        "data": {"name": "digits", "clients": 20, "partition": {"name": "dirichlet", "alpha": 1.0}},
        "model": MODELS[model],
        "strategy": {"clients_per_round": 10, "local_steps": STEPS[model], "batch_size": 20, **strategy},
        "evaluate": {"every": 10**6},
        "simulation": {"grid": "in-process"},
    }


def with_rows(strategy: dict[str, Any], rounds: int, grid: str) -> dict[str, Any]:
    """Twenty clients in each round, with a model of 10^5 parameters."""
    return {
        **experiment("mlp", {**strategy, "clients_per_round": 20, "local_steps": 30}, rounds),
        "model": {"name": "mlp", "hidden": [1333]},
        "simulation": {"grid": grid, **({"actors": 2} if grid == "ray" else {})},
    }


class Side:
    """One of the two processes."""

    def __init__(self, checkout: Path, config: dict[str, Any], folder: str, clock: str) -> None:
        words = [sys.executable, "-c", CHILD, json.dumps(config), folder, str(BLOCK), str(WARM_UP), clock]
        environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(words, cwd=checkout, env=environment, stdin=pipe, stdout=pipe, text=True)

    def seconds(self) -> float:
        """Of the turn that has ended."""
        assert self._process.stdout is not None
        return float(self._process.stdout.readline())

    def go(self) -> None:
        """Begin the next turn."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """No more turns."""
        self._process.kill()
        self._process.wait()


def ratios(
    this: tuple[Path, dict[str, Any]], other: tuple[Path, dict[str, Any]], blocks: int, clock: str = "perf_counter"
) -> list[float]:
    """other / this, turn by turn."""
    with tempfile.TemporaryDirectory() as folder:
        sides = [Side(*side, f"{folder}/{i}", clock) for i, side in enumerate((this, other))]
        try:
            for side in sides:
                side.seconds()
            seen = []
            for turn in range(blocks):
                times = [0.0, 0.0]
                for i in (0, 1) if turn % 2 else (1, 0):
                    sides[i].go()
                    times[i] = sides[i].seconds()
                seen.append(times[1] / times[0])
            return seen
        finally:
            for side in sides:
                side.end()


def main() -> None:
    """Measure, and print a table's rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, nargs="?", help="the other checkout")
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--cpu", action="store_true", help="CPU time in place of time: less noise on a busy machine")
    parser.add_argument("--only", default="", help="a method, a model, or rows")
    options = parser.parse_args()
    rounds = WARM_UP + BLOCK * options.blocks + 1
    clock = "process_time" if options.cpu else "perf_counter"
    if options.other is None:
        between_methods(rounds, options.blocks, clock, options.only)
        return
    for method, strategy in METHODS.items():
        for model in MODELS:
            if options.only not in (method, model, ""):
                continue
            config = experiment(model, strategy, rounds)
            seen = ratios((ROOT, config), (options.other.resolve(), config), options.blocks, clock)
            print(f"| {method} | {model} | {shown(seen)} |", flush=True)


def shown(seen: list[float]) -> str:
    """A median with its standard error."""
    return f"{statistics.median(seen):.3f} ± {statistics.stdev(seen) / len(seen) ** 0.5:.3f}"


def between_methods(rounds: int, blocks: int, clock: str, only: str) -> None:
    """Methods of this checkout against its FedAvg."""
    plain, scaffold = METHODS["fedavg"], {"name": "scaffold", "lr": 0.05}
    for model in MODELS:
        for local_steps in (STEPS[model], LONGER[model]):
            if only not in ("scaffold", model, ""):
                continue
            steps = {"local_steps": local_steps}
            both = [(ROOT, experiment(model, {**strategy, **steps}, rounds)) for strategy in (scaffold, plain)]
            seen = ratios(both[0], both[1], blocks, clock)
            print(f"| SCAFFOLD, {local_steps} local steps | {model} | {shown(seen)} |", flush=True)
    if only not in ("rows", ""):
        return
    for grid in ("in-process", "ray"):
        rows = {"name": "tests.methods.rows:FedAvgInRows", "lr": 0.05}
        both = [(ROOT, with_rows(strategy, rounds, grid)) for strategy in (rows, {**plain, "weighting": "uniform"})]
        print(f"| rows both ways | {grid} | {shown(ratios(both[0], both[1], blocks, clock))} |", flush=True)


if __name__ == "__main__":
    main()
