"""What a run takes until its first round is on disk, and who holds the memory while it trains; checkouts in turns.

    python -m tests.benchmarks.start BEFORE AFTER --repeats 3

Processor-seconds are those of the whole tree of processes, so other work on the machine changes them little; seconds
are only good for ratios of turns, or on a quiet machine. Memory is the sum of what is anonymous, what is shared (a
process's proportional part), and each mapped file's pages once, as if no other process of the machine had mapped it.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

from tests.benchmarks.peers import ours
from tests.benchmarks.peers.memory import descendants

TICK = os.sysconf("SC_CLK_TCK")
MLP: dict[str, Any] = {
    "name": "start",
    "rounds": 4,
    "device": "cpu",
    "data": ours.DATA,
    "model": ours.MODELS["mlp"],
    "strategy": {"name": "fedavg", "local_epochs": 1, "lr": 0.02, "batch_size": 20, "clients_per_round": 20},
    "evaluate": {"every": 10**6},
    "simulation": {"grid": "ray", "actors": 2},
}
"""The work of the speed tables, on two actors."""

FIRST_ROUND = {
    "quickstart, in-process": ["quickstart", "rounds=1", "simulation.grid=in-process"],
    "quickstart, Ray, 2 actors": ["quickstart", "rounds=1", "simulation.actors=2"],
}


class Start(NamedTuple):
    """Until the first round is on disk, and until the process has ended."""

    cpu: float
    seconds: float
    whole: float


class Memory(NamedTuple):
    """MiB of a tree of processes."""

    anonymous: float
    shared: float
    files: float
    processes: dict[str, float]  # what is anonymous


def run(checkout: str, words: list[str], folder: Path) -> subprocess.Popen[bytes]:
    code = "from fedtl.cli import main; main()"
    command = [sys.executable, "-c", code, "run", *words, "-q", "--out", str(folder / "run")]
    environment = {**os.environ, "PYTHONPATH": checkout}
    return subprocess.Popen(command, cwd=checkout, env=environment, stdout=subprocess.DEVNULL)


def rounds(folder: Path) -> int:
    file = folder / "run" / "rounds.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


def start(checkout: str, words: list[str]) -> Start:
    with tempfile.TemporaryDirectory() as name:
        folder, began = Path(name), time.monotonic()
        process = run(checkout, words, folder)
        while not rounds(folder) and process.poll() is None:
            time.sleep(0.02)
        seconds, cpu = time.monotonic() - began, sum(map(processor_seconds, descendants(process.pid)))
        assert process.wait() == 0
        return Start(cpu, seconds, time.monotonic() - began)


def processor_seconds(pid: int) -> float:
    """Of a process and what it has waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / TICK


def memory(checkout: str) -> Memory:
    """After the second round of the MLP's work."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "mlp.toml").write_text(tomli_w.dumps(MLP))
        process = run(checkout, [str(folder / "mlp.toml")], folder)
        while rounds(folder) < 2 and process.poll() is None:
            time.sleep(0.02)
        seen = of_tree(process.pid)
        assert process.wait() == 0
        return seen


def of_tree(root: int) -> Memory:
    shared, files, processes = 0.0, dict[tuple[str, str], float](), dict[str, float]()
    for pid in descendants(root):
        try:
            lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
            words = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").split(" -c ")
        except OSError:
            continue
        anonymous, place, values = 0.0, ("", ""), dict[str, float]()
        for line in lines:
            if mapping := re.match(r"^[0-9a-f]+-[0-9a-f]+ \S+ (\S+) \S+ \S+\s*(.*)$", line):
                place, values = (mapping[2], mapping[1]), {}
            elif match := re.match(r"^(Rss|Pss|Anonymous):\s+(\d+)", line):
                values[match[1]] = int(match[2]) / 1024
                if match[1] == "Anonymous":
                    anonymous += values["Anonymous"]
                    if place[0].startswith("/") and "/shm/" not in place[0] and "/memfd" not in place[0]:
                        files[place] = max(files.get(place, 0.0), values["Rss"] - anonymous_of(values))
                    else:
                        shared += max(0.0, values["Pss"] - anonymous_of(values))
        program = "driver" if pid == root else re.sub(r"\S*/", "", words[0]).replace("python -u ", "").split()[0]
        name = program if program not in processes else f"{program} ({pid})"
        processes[name] = anonymous
    return Memory(sum(processes.values()), shared, sum(files.values()), processes)


def anonymous_of(values: dict[str, float]) -> float:
    return values.get("Anonymous", 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkouts", nargs=2, help="before and after")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    checkouts = [str(Path(folder).resolve()) for folder in options.checkouts]
    print("| | CPU seconds to the first round | ratio | seconds' ratio | with the end, seconds' ratio |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, words in FIRST_ROUND.items():
        turns = [[start(checkout, words) for checkout in checkouts] for _ in range(options.repeats)]
        before, after = (statistics.median(turn[i].cpu for turn in turns) for i in (0, 1))
        ratios = [[b / a for a, b in zip(*turn)] for turn in turns]
        spread = [f"{statistics.median(x):.2f} ({min(x):.2f} to {max(x):.2f})" for x in zip(*ratios)]
        print(f"| {name} | {before:.2f}, {after:.2f} | {' | '.join(spread)} |", flush=True)
    for title, checkout in zip(("before", "after"), checkouts):
        seen = memory(checkout)
        total = seen.anonymous + seen.shared + seen.files
        print(f"\n{title}: {total:.0f} MiB = anonymous {seen.anonymous:.0f} + shared {seen.shared:.0f} + ", end="")
        print(f"files {seen.files:.0f}; anonymous: ", end="")
        print(", ".join(f"{name} {size:.0f}" for name, size in sorted(seen.processes.items(), key=lambda x: -x[1])))


if __name__ == "__main__":
    main()
