"""What a sweep costs besides its rounds: many short runs at once, against their rounds' own seconds.

    python -m tests.benchmarks.sweep [--seeds 8] [--jobs 2] [--rounds 60]

FedAvg, pFedMe and local training of the quickstart under 8 seeds: 24 runs. The time from the first run's beginning to
the last one's end is divided by the seconds that the rounds' records add up to, shared among the workers; both slow
down alike where others use the machine. Beside it the start (imports, reading and dividing the data), which is paid
once, and each worker's own memory: what it does not share with the process that it was forked from.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import fedtl
from fedtl.studies import Planned, Study
from fedtl.sweeps.conductor import Unwatched
from fedtl.sweeps.file import read_study
from fedtl.sweeps.plan import Plan
from fedtl.sweeps.pool import Scored
from fedtl.sweeps.study import default_jobs, sweep_asked

METHODS = "fedavg,pfedme,local"


class Stopwatch(Unwatched):
    """When the first run began, and how much memory workers have to themselves."""

    def __init__(self) -> None:
        self.began = 0.0
        self.own: dict[int, int] = {}
        self.whole: dict[int, int] = {}

    def begin(self, study: Study, plan: Plan, at_once: int) -> None:
        self.began = time.perf_counter()

    def scored(self, run: Planned, news: Scored) -> None:
        if news.round % 20 == 0:
            for process in _workers():
                self.own[process], self.whole[process] = _memory(process)


def _workers() -> list[int]:
    """The processes whose grandparent is this one."""
    parents = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(file.parent.name)] = int(file.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has just ended
    return [process for process, parent in parents.items() if parents.get(parent) == os.getpid()]


def _memory(process: int) -> tuple[int, int]:
    """Bytes of memory that are a process's alone, and all that it sees."""
    own = whole = 0
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0, 0
    for line in lines:
        size = int(line.split()[1]) * 1024 if line.endswith("kB") else 0
        own += size if line.startswith("Private") else 0
        whole += size if line.startswith("Rss") else 0
    return own, whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=max(2, default_jobs(0)))
    parser.add_argument("--rounds", type=int, default=60)
    asked = parser.parse_args()
    words = [f"strategy.name={METHODS}", f"seed=0:{asked.seeds}", f"rounds={asked.rounds}"]
    with tempfile.TemporaryDirectory() as folder:
        watch, start = Stopwatch(), time.perf_counter()
        done = sweep_asked(read_study("quickstart", words), folder, asked.jobs, watch)
        ended = time.perf_counter()
        elapsed = [fedtl.load(done.folder / run.folder).rounds[-1]["elapsed"] for run in done.finals]
    took, shared = ended - watch.began, sum(elapsed) / asked.jobs
    print(f"| runs | at once | their rounds' seconds / {asked.jobs} | took | ratio | start | own memory of a worker |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    own = max(watch.own.values(), default=0) / 2**20
    whole = max(watch.whole.values(), default=0) / 2**20
    print(
        f"| {len(elapsed)} | {asked.jobs} | {shared:.1f} | {took:.1f} | {took / shared:.3f} | "
        f"{watch.began - start:.1f} s | {own:.0f} of {whole:.0f} MiB |"
    )


if __name__ == "__main__":
    main()
