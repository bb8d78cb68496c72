"""What grows with what: unit costs of clients, rounds, memories and the start.

    python -m tests.benchmarks.scale [populations] [rounds] [memories] [start]

``populations``: `fedtl run million` with ever more clients, a thousand of them a round. ``rounds``: a thousand
clients of 100,180 parameters that compute nothing. ``memories``: pFedMe's, of 100,000 clients of a logistic
model, on disk. ``start``: from the command to the first round. Without words all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedtl.assemble.parts import make_strategy, make_worker
from fedtl.clients.contract import ClientUpdate, Gradient, State
from fedtl.clients.settings import Settings
from fedtl.config.read import build
from fedtl.data.federation import Federation, Shards
from fedtl.disk.memories import MemoryStore
from fedtl.grid.ray import RayGrid
from fedtl.losses.term import Batch
from fedtl.models import build_model
from fedtl.models.vector import Layout
from fedtl.strategies.contract import Strategy
from fedtl.wire import messages as m

SHAPE, CLASSES = (1, 28, 28), 10


class Idle(ClientUpdate[Settings]):
    """Uploads what it was sent."""

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        return state


class IdleMethod(Strategy):
    """Averages what it had sent."""

    client_update = Idle


def one_sample_each(clients: int) -> Federation:
    rng = np.random.default_rng(0)
    x = rng.integers(256, size=(clients, *SHAPE), dtype=np.uint8)
    each = Shards.from_sizes(np.arange(clients), np.ones(clients, np.int64))
    none = Shards.from_sizes(np.arange(0), np.zeros(clients, np.int64))
    one = np.ones((), np.float32)
    return Federation(x, rng.integers(CLASSES, size=clients), CLASSES, one, 0 * one, each, none, np.arange(0))


def empty_rounds(clients: int, hidden: int, actors: int, rounds: int) -> dict[str, float]:
    """Rounds of ``clients`` that compute nothing: medians in ms, of the round and of the driver's own CPU time."""
    tables: dict[str, Any] = {
        "name": "empty",
        "rounds": 10**6,
        "data": {"name": "digits", "clients": 2 * clients},
        "model": {"name": "mlp", "hidden": [hidden]},
        "strategy": {
            "name": "tests.benchmarks.scale:IdleMethod",
            "lr": 0.1,
            "batch_size": 1,
            "clients_per_round": clients,
        },
        "evaluate": {"every": 10**6},
    }
    config = build(tables)
    module = build_model(config.model, SHAPE, CLASSES, 0)
    layout = Layout.of(module)
    times: list[tuple[float, float]] = []

    class Done(Exception):
        pass

    before = time.process_time()

    def on_round(report: Any, w: Any) -> None:
        nonlocal before
        now = time.process_time()
        times.append((report.seconds, now - before))
        before = now
        if report.round == rounds + 3:
            raise Done

    with tempfile.TemporaryDirectory() as folder:
        federation = one_sample_each(2 * clients)
        grid = RayGrid(make_worker, (tables, federation, folder, "cpu"), federation.clients, actors=actors)
        strategy = make_strategy(config, federation.clients, layout.parameters)
        with contextlib.suppress(Done):
            strategy.start(grid, m.pack(layout.flatten(module).numpy()), 10**6, on_round=on_round)
        grid.close()
    whole, driver = (1000 * statistics.median(column) for column in zip(*times[3:]))
    return {"parameters": layout.size, "round": whole, "driver": driver}


def tree(root: int) -> list[int]:
    """A process and all below it."""
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                below.setdefault(parent, []).append(int(entry.name))
    pids = [root]
    for process in pids:
        pids += below.get(process, [])
    return pids


def pss(process: int) -> float:
    """Proportional set size in MiB: memory that processes share counts once."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
    return 0.0


@dataclass
class Watched:
    """A run from outside: seconds until its first round begins, the rounds' seconds, and the peak of its memory."""

    start: float
    rounds: list[float]
    peak: float


def watch(*words: str) -> Watched:
    """Run ``fedtl run`` with these arguments."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-c", "from fedtl.cli import main; main()", "run", *words, "--out", str(out), "-q"]
        began = time.time()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        start, peak, next_look = 0.0, 0.0, began
        while process.poll() is None:
            record = out / "rounds.jsonl"
            if not start and record.is_file() and (line := record.read_text().partition("\n")[0]):
                start = record.stat().st_mtime - began - json.loads(line)["seconds"]
            if time.time() >= next_look:
                peak, next_look = max(peak, sum(map(pss, tree(process.pid)))), time.time() + 0.5
            time.sleep(0.02)
        if process.returncode:
            raise SystemExit(process.returncode)
        lines = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
        return Watched(start, [line["seconds"] - line["seconds_scoring"] for line in lines], peak)


def populations(repeats: int) -> None:
    """The same rounds out of ever more clients, in turn."""
    sizes = (10_000, 100_000, 1_000_000)
    results: dict[int, list[Watched]] = {size: [] for size in sizes}
    for _ in range(repeats):
        for size in sizes:
            results[size].append(watch("million", f"data.clients={size}", "rounds=30"))
    print(f"\n{'clients':>10}{'first round begins after, s':>30}{'round, s':>10}{'peak of all processes, MiB':>28}")
    for size, runs in results.items():
        rounds = [second for run in runs for second in run.rounds[1:]]
        start, peak = min(run.start for run in runs), max(run.peak for run in runs)
        print(f"{size:10,}{start:30.1f}{statistics.median(rounds):10.3f}{peak:28,.0f}")


def rounds(repeats: int) -> None:
    """A thousand clients that compute nothing."""
    print(f"\n{'clients':>8}{'parameters':>12}{'round, ms':>11}{'CPU of the driver, ms':>23}")
    for clients in (100, 1000):
        for hidden in (1, 126):
            runs = [empty_rounds(clients, hidden, 2, 30) for _ in range(repeats)]
            whole, driver = (min(run[key] for run in runs) for key in ("round", "driver"))
            print(f"{clients:8,}{runs[0]['parameters']:12,.0f}{whole:11.1f}{driver:23.1f}")


def memories(clients: int = 100_000, parameters: int = 7850, again: int = 5000) -> None:
    """One vector per client."""
    print(f"\nmemories of {clients:,} clients, {parameters:,} numbers each{'ms a client':>20}{'of it CPU':>12}")
    memory = {"theta": torch.randn(parameters)}
    folder = Path(tempfile.mkdtemp())
    store, some = MemoryStore(folder / "memories"), random.Random(0).sample(range(clients), again)

    def clock(what: str, count: int, work: Callable[[], object]) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(f"  {what:50}{1000 * wall / count:16.3f}{1000 * cpu / count:12.3f}")

    def save(who: Iterable[int], round: int) -> None:
        for client in who:
            store.save(client, round, memory)

    try:
        clock("first version", clients, lambda: save(range(clients), 1))
        on_disk = [file.stat() for file in store.folder.rglob("*")]
        clock("load", again, lambda: [store.load(client, 2) for client in some])
        clock("second version", again, lambda: save(some, 2))
        clock("third version, the first deleted", again, lambda: save(some, 3))
        clock("going back to an earlier round, over all clients", clients, lambda: store.forget_after(2))
    finally:
        clock("deleting everything", clients, lambda: shutil.rmtree(folder))
    used = sum(file.st_blocks for file in on_disk) * 512
    print(
        f"  a version: {4 * parameters:,} bytes are {used / clients:,.0f} on disk, {len(on_disk) / clients:.2f} inodes"
    )


def start(repeats: int) -> None:
    """From the command to the first round."""
    print(f"\n{'quickstart':12}{'first round begins after, s':>30}{'peak, MiB':>11}")
    results: dict[str, list[Watched]] = {"in-process": [], "ray": []}
    for _ in range(repeats):
        for grid, runs in results.items():
            runs.append(watch("quickstart", "rounds=1", f"simulation.grid={grid}"))
    for grid, runs in results.items():
        seconds = sorted(run.start for run in runs)
        cell = f"{seconds[0]:.2f} (median {statistics.median(seconds):.2f})"
        print(f"{grid:12}{cell:>30}{max(run.peak for run in runs):11,.0f}")


PARTS: dict[str, Callable[[int], None]] = {
    "start": start,
    "rounds": rounds,
    "memories": lambda repeats: memories(),
    "populations": populations,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all if none is given")
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many; 3 if not given")
    options = parser.parse_args()
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"{part!r} is none of {', '.join(PARTS)}")
    torch.set_num_threads(1)  # as `fedtl run` has it
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the beginning")
    for part in options.parts or PARTS:
        PARTS[part](options.repeats)


if __name__ == "__main__":
    main()
