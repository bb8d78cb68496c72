"""What a round pays for files that are checked: checksums, the lock, and waiting for the disk.

    python -m tests.benchmarks.safety

One run in which blocks of a few rounds have all three or none of them, by turns; the ratio is the median over pairs of
neighbouring blocks, of wall time, records included. (Whole runs in turns scatter by more than what is looked for.) In a
run of its own the processor time of the checks is counted call by call, and how long the disk was waited for beside the
training. Prints the table of ``results/safety.md``.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from fedtl.assemble.driver import Server, Silent
from fedtl.assemble.parts import one_thread
from fedtl.config.read import read_config
from fedtl.data.federate import federate
from fedtl.disk import durable, tensors
from fedtl.experiment import Place, open_run
from fedtl.runs import checkpoint, record
from fedtl.runs.lock import RunLock
from fedtl.server.report import Round

QUICKSTART = ["simulation.grid=in-process", "device=cpu", "evaluate.every=1000000"]
FEDAVG = [*QUICKSTART, "strategy.name=fedavg"]

BLOCK = 10
"""Rounds."""

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


class Switch:
    """Whether checks are made."""

    on = True


@contextmanager
def switched(switch: Switch) -> Iterator[None]:
    """Where the switch is off, no checksums, no look at the lock, and no waiting for the disk."""
    due = durable.Settler.due.fget  # type: ignore[attr-defined]

    def only_if_on(owner: object, name: str, otherwise: Any = None) -> Any:
        original = getattr(owner, name)
        return mock.patch.object(owner, name, lambda *all: original(*all) if switch.on else otherwise)

    with (
        only_if_on(tensors, "checksum", 0),
        only_if_on(RunLock, "check"),
        only_if_on(durable, "settle_all"),
        only_if_on(record, "settle"),
        mock.patch.object(durable.Settler, "due", property(lambda self: switch.on and due(self))),
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


class Blocks(Silent):
    """Turns the checks on and off, a few rounds each: on, off, off, on, so that a slow drift cancels out.

    Attributes:
        seconds: of the blocks with checks, and of those without.
    """

    def __init__(self, switch: Switch) -> None:
        self.switch, self.seconds = switch, {True: list[float](), False: list[float]()}
        self._rounds, self._blocks, self._began = 0, 0, time.perf_counter()

    def round(self, report: Round) -> None:
        """A round is over; perhaps a block, too."""
        self._rounds += 1
        if self._rounds % BLOCK:
            return
        now = time.perf_counter()
        self.seconds[self.switch.on].append(now - self._began)
        self._blocks += 1
        self.switch.on, self._began = self._blocks % 4 in (0, 3), now


def counted(rounds: int, overrides: list[str]) -> tuple[Spent, float, float]:
    """What a run spends on checks; its seconds from the first round to the last, and until the disk has it all."""
    clock, spent = LastRound(), Spent()
    with _opened(rounds, overrides, clock) as server:
        spent.recorder = server.recorder
        began = time.perf_counter()
        with spent.counted():
            server.run()
        return spent, clock.now - began, time.perf_counter() - clock.now


def ratios(rounds: int, overrides: list[str]) -> list[float]:
    """Seconds with checks over seconds without, for each pair of neighbouring blocks of one run."""
    switch = Switch()
    blocks = Blocks(switch)
    with _opened(rounds, overrides, blocks) as server, switched(switch):
        server.run()
    # The first pair pays for what happens once.
    return [a / b for a, b in zip(blocks.seconds[True][1:], blocks.seconds[False][1:])]


@contextmanager
def _opened(rounds: int, overrides: list[str], listener: Silent) -> Iterator[Server]:
    config, _ = read_config("quickstart", [*overrides, f"rounds={rounds}"])
    with tempfile.TemporaryDirectory() as folder, one_thread("cpu"):
        yield open_run(config, federate(config.data, config.seed), Place(Path(folder) / "run"), listener)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=8, help="how many times as many rounds, for the ratio")
    times = parser.parse_args().times
    columns = (
        "run",
        "ms a round",
        "checks, %",
        "waits beside, %",
        "with / without",
        "± s.e.",
        "pairs",
        "ms at the end",
    )
    print(f"| {' | '.join(columns)} |")
    print("| --- |" + " ---: |" * (len(columns) - 1))
    for name, (rounds, overrides) in RUNS.items():
        spent, took, end = counted(rounds, overrides)
        each = ratios(times * rounds, overrides)
        low, _, high = statistics.quantiles(each)
        error = 1.2533 * (high - low) / 1.349 / math.sqrt(len(each))  # a median's, the middle half being normal
        print(
            f"| {name} | {1000 * took / rounds:.2f} | {100 * spent.checks / took:.2f} "
            f"| {100 * spent.waits / took:.2f} | {statistics.median(each):.3f} | {error:.3f} | {len(each)} "
            f"| {1000 * end:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
