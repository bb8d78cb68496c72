"""What tracking costs a run: quickstart with a tracker and with none, in turns.

    python -m tests.benchmarks.tracking [--trackers tensorboard mlflow wandb] [--repeats 5] [--rounds 200]

Rounds are the sum of the record's ``seconds`` without the first round's. The whole is a process from its start to its
end, imports and the wait for the tracker included. Processor-seconds are those of the run and of the tracker's process;
on a busy machine they alone say something. Then the tracker's process alone, on records of no round and of 1000.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import NamedTuple

import tomli_w

from fedtl.tracking.place import PLACE


class Cost(NamedTuple):
    """Of one run."""

    rounds: float
    whole: float
    cpu: float


def cost(tracker: str | None, rounds: int) -> Cost:
    with tempfile.TemporaryDirectory() as name:
        return cost_at(Path(name) / "run", tracker, rounds)


def cost_at(folder: Path, tracker: str | None, rounds: int) -> Cost:
    words = ["quickstart", f"rounds={rounds}", "simulation.grid=in-process"]
    words += [f"tracking={tracker}"] if tracker else []
    code = "from fedtl.cli import main; main()"
    command = [sys.executable, "-c", code, "run", *words, "-q", "--out", str(folder)]
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    whole = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    notes = json.loads((folder / "environment.json").read_text()).get("notes", [])
    assert not any("tracking" in note for note in notes), notes
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    return Cost(sum(line["seconds"] for line in lines[1:]), whole, usage.ru_utime + usage.ru_stime)


def alone(tracker: str, rounds: int) -> float:
    """Processor-seconds of the tracker's process on a record of so many rounds that is there already."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        cost_at(folder, None, 2)
        config = tomllib.loads((folder / "config.toml").read_text())
        (folder / "config.toml").write_text(tomli_w.dumps({**config, "tracking": [{"name": tracker}]}))
        last = json.loads((folder / "rounds.jsonl").read_text().splitlines()[-1])
        lines = [json.dumps({**last, "round": number + 1}) + "\n" for number in range(rounds)]
        (folder / "rounds.jsonl").write_text("".join(lines))
        (folder / PLACE).mkdir()
        command = [sys.executable, "-m", "fedtl.tracking", str(folder)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, input=b"finished\n", check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Run in turns, print ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trackers", nargs="+", default=["tensorboard"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    columns = (
        "tracker",
        "rounds' seconds, ratio",
        "the whole's seconds, ratio",
        "processor-seconds, without and with",
        "of its process alone to start, and of each round",
    )
    print(f"| {' | '.join(columns)} |")
    print("| --- " + "| ---: " * (len(columns) - 1) + "|")
    for tracker in options.trackers:
        turns = [[cost(each, options.rounds) for each in (None, tracker)] for _ in range(options.repeats)]
        ratios = [[b / a for a, b in zip(*turn)] for turn in turns]
        spread = [f"{statistics.median(x):.2f} ({min(x):.2f} to {max(x):.2f})" for x in zip(*ratios)]
        without, with_it = (statistics.median(turn[i].cpu for turn in turns) for i in (0, 1))
        start, thousand = (alone(tracker, count) for count in (0, 1000))
        process = f"{start:.2f}, {(thousand - start) / 1000:.4f}"
        print(f"| {tracker} | {spread[0]} | {spread[1]} | {without:.2f}, {with_it:.2f} | {process} |", flush=True)


if __name__ == "__main__":
    main()
