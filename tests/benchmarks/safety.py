"""What a round pays for files that are checked: checksums, the lock, and waiting for the disk.

    python -m tests.benchmarks.safety

The same run in turns, as it is and with all three left out, in one process; the ratio is of the wall time of all
rounds, records included. Prints the table of ``results/safety.md``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest import mock

from fedtl import durable, record, tensors
from fedtl.config import read_config
from fedtl.data.federate import federate
from fedtl.experiment import Place, Silent, one_thread, open_run
from fedtl.lock import RunLock
from fedtl.strategies.strategy import Round

QUICKSTART = ["simulation.grid=in-process", "device=cpu", "evaluate.every=1000000"]
FEDAVG = [*QUICKSTART, "strategy.name=fedavg"]

RUNS = {
    "pFedMe, MLP of 4,810, R = 10, K = 5, 10 clients a round": (400, QUICKSTART),
    "FedAvg, MLP of 4,810, 10 steps, 10 clients a round": (1500, FEDAVG),
    "FedAvg, logistic of 650, 2 steps, 2 clients a round": (
        2500,
        [
            *QUICKSTART,
            "strategy.name=fedavg",
            "model.name=logistic",
            "strategy.local_steps=2",
            "strategy.clients_per_round=2",
        ],
    ),
    "local, MLP of 55,050, 20 steps, 10 clients a round": (
        100,
        [*QUICKSTART, "strategy.name=local", "model.hidden=[200,200]", "strategy.local_steps=20"],
    ),
}


def _zero(*_: object) -> int:
    return 0


def _nothing(_: object) -> None:
    return None


@contextmanager
def unchecked() -> Iterator[None]:
    """Without checksums, without a look at the lock, and without waiting for the disk."""
    with (
        mock.patch.object(tensors, "checksum", _zero),
        mock.patch.object(RunLock, "check", _nothing),
        mock.patch.object(durable.Settler, "due", False),
        mock.patch.object(durable, "settle_all", _nothing),
        mock.patch.object(record, "settle", _nothing),
    ):
        yield


class LastRound(Silent):
    """Looks at the clock when a round is on disk."""

    now = 0.0

    def round(self, report: Round) -> None:
        """Look at it."""
        self.now = time.perf_counter()


def seconds(rounds: int, overrides: list[str], checked: bool) -> tuple[float, float]:
    """A run's wall time from its first round to its last, and from there until the disk has it all."""
    config, _ = read_config("quickstart", [*overrides, f"rounds={rounds}"])
    clock = LastRound()
    with tempfile.TemporaryDirectory() as folder, one_thread("cpu"):
        server = open_run(config, federate(config.data, config.seed), Place(Path(folder) / "run"), clock)
        began = time.perf_counter()
        with nullcontext() if checked else unchecked():
            server.run()
        return clock.now - began, time.perf_counter() - clock.now


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=7)
    pairs = parser.parse_args().pairs
    print("| run | ms a round | with / without, median | of all pairs | ms more at the run's end |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, (rounds, overrides) in RUNS.items():
        ratios, each, ends = [], [], []
        for pair in range(pairs):
            order = (True, False) if pair % 2 else (False, True)
            took = {checked: seconds(rounds, overrides, checked) for checked in order}
            ratios.append(took[True][0] / took[False][0])
            each.append(1000 * took[True][0] / rounds)
            ends.append(1000 * (took[True][1] - took[False][1]))
        print(
            f"| {name} | {statistics.median(each):.2f} | {statistics.median(ratios):.3f} "
            f"| {min(ratios):.3f} to {max(ratios):.3f} | {statistics.median(ends):.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
