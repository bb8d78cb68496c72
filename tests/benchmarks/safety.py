"""What a round pays for files that are checked: checksums, the lock, and waiting for the disk.

    python -m tests.benchmarks.safety

The same run in turns, as it is and with all three left out, in one process; the ratio is of the wall time of all
rounds, records included. As such ratios scatter by more than what is looked for, the processor time of the checks
themselves is counted too, and how long the disk was waited for beside the training. Prints the table of
``results/safety.md``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from fedtl import checkpoint, durable, record, tensors
from fedtl.config import read_config
from fedtl.data.federate import federate
from fedtl.experiment import Place, Silent, one_thread, open_run
from fedtl.lock import RunLock
from fedtl.strategies.strategy import Round

QUICKSTART = ["simulation.grid=in-process", "device=cpu", "evaluate.every=1000000"]
FEDAVG = [*QUICKSTART, "strategy.name=fedavg"]

RUNS = {
    "pFedMe, MLP of 4,810, R = 10, K = 5, 10 clients a round": (250, QUICKSTART),
    "FedAvg, MLP of 4,810, 10 steps, 10 clients a round": (600, FEDAVG),
    "FedAvg, logistic of 650, 2 steps, 2 clients a round": (
        1500,
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


class Spent:
    """Where the time of checks went.

    Attributes:
        checks: seconds of processor time.
        waits: seconds for which a thread beside the training waited for the disk.
    """

    checks = 0.0
    waits = 0.0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count both in the ``with`` block."""
        with (
            self._timed(tensors, "checksum"),
            self._timed(RunLock, "check"),
            self._timed(checkpoint, "_checksum"),
            self._timed(checkpoint.Extent, "and_then"),
            mock.patch.object(record.Recorder, "_settle", self._settle),
        ):
            yield

    def _timed(self, owner: object, name: str) -> Any:
        original = getattr(owner, name)

        def timed(*arguments: Any) -> Any:
            began = time.thread_time()
            result = original(*arguments)
            self.checks += time.thread_time() - began
            return result

        return mock.patch.object(owner, name, timed)

    def _settle(self, mark: checkpoint.Mark) -> None:
        assert self.recorder is not None
        began = time.perf_counter()
        SETTLE(self.recorder, mark)
        self.waits += time.perf_counter() - began

    recorder: record.Recorder | None = None


SETTLE = record.Recorder._settle


class LastRound(Silent):
    """Looks at the clock when a round is on disk."""

    now = 0.0

    def round(self, report: Round) -> None:
        """Look at it."""
        self.now = time.perf_counter()


def seconds(rounds: int, overrides: list[str], checked: bool, spent: Spent) -> tuple[float, float]:
    """A run's wall time from its first round to its last, and from there until the disk has it all."""
    config, _ = read_config("quickstart", [*overrides, f"rounds={rounds}"])
    clock = LastRound()
    with tempfile.TemporaryDirectory() as folder, one_thread("cpu"):
        server = open_run(config, federate(config.data, config.seed), Place(Path(folder) / "run"), clock)
        spent.recorder = server.recorder
        began = time.perf_counter()
        with spent.counted() if checked else unchecked():
            server.run()
        return clock.now - began, time.perf_counter() - clock.now


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=7)
    pairs = parser.parse_args().pairs
    columns = (
        "run",
        "ms a round",
        "checks, %",
        "waits beside, %",
        "with / without",
        "of all pairs",
        "ms more at the end",
    )
    print(f"| {' | '.join(columns)} |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, (rounds, overrides) in RUNS.items():
        ratios, each, ends, checks, waits = [], [], [], [], []
        for pair in range(pairs):
            order = (True, False) if pair % 2 else (False, True)
            spent = Spent()
            took = {checked: seconds(rounds, overrides, checked, spent) for checked in order}
            checks.append(100 * spent.checks / took[True][0])
            waits.append(100 * spent.waits / took[True][0])
            ratios.append(took[True][0] / took[False][0])
            each.append(1000 * took[True][0] / rounds)
            ends.append(1000 * (took[True][1] - took[False][1]))
        print(
            f"| {name} | {statistics.median(each):.2f} | {statistics.median(checks):.2f} "
            f"| {statistics.median(waits):.2f} | {statistics.median(ratios):.3f} "
            f"| {min(ratios):.3f} to {max(ratios):.3f} | {statistics.median(ends):.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
