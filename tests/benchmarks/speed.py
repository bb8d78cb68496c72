"""FedAvg's speed and memory: ours, every installed peer, bare loops and the machine's limit, on the same work.

    python -m tests.benchmarks.peers.install          once; see its --help
    FEDTL_DATA=<folder> python -m tests.benchmarks.speed

Fashion-MNIST, 100 clients of 600 samples (IID), 20 clients a round, one epoch of batches of 20 (30 steps of plain
SGD a client), lr 0.02, nothing scored within the timed rounds. A repeat lets every contestant run once, in an order
that rotates from repeat to repeat; ratios are taken within a repeat. Each runs in processes of its own: two workers,
one thread each, where it can have two. Measured are

    client-steps per second   of the rounds after the warm-up; start-up does not count
    peak memory               PSS of the whole tree of processes, from first to last, in a run before all repeats
    accuracy                  of the final global model on the 10,000 test images: the check that the work is the same

and, for ours, pFedMe (R = 20, K = 5): its gradients per second against FedAvg's.

Writes speed.md (tables), speed.png (bars) and speed.json (all numbers) into --out. A peer that is not installed is
left out, and the table says why.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.benchmarks.peers import report
from tests.benchmarks.peers.contestants import CONTESTANTS, missing
from tests.benchmarks.peers.machine import describe
from tests.benchmarks.peers.race import Plan, Run, as_json, race, write_data

ROUNDS = {"logistic": 40, "mlp": 20, "cnn": 10}
"""Timed rounds: some seconds of every contestant's time, and as many as that takes of the fastest's."""

BUSY = 0.5
"""The load average above which a warning is printed."""
MEMORY_ROUNDS = 5
"""Rounds of the run that memory is taken from."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for option, metavar, names in (("--models", "MODEL", [*ROUNDS]), ("--contestants", "NAME", [*CONTESTANTS])):
        text = f"of {', '.join(names)}; all if not given"
        parser.add_argument(option, nargs="+", default=names, choices=names, metavar=metavar, help=text)
    parser.add_argument("--repeats", type=int, default=5, help="5 if not given")
    rounds = ", ".join(f"{n} ({model})" for model, n in ROUNDS.items())
    parser.add_argument("--rounds", type=int, help=f"timed rounds; {rounds} if not given")
    parser.add_argument("--warm-up", type=int, default=3, help="rounds before them; 3 if not given")
    parser.add_argument("--no-memory", action="store_true", help="leave out the runs that memory is taken from")
    parser.add_argument("--lr", type=float, default=Plan.lr, help=f"{Plan.lr} if not given")
    parser.add_argument(
        "--peer-python",
        action="append",
        default=[],
        metavar="PEER=PATH",
        help="the Python of a peer's environment; $FEDTL_PEERS/PEER/bin/python if not given; repeatable",
    )
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="results/benchmarks if not given")
    parser.add_argument(
        "--redraw", action="store_true", help="measure nothing: tables and bars from --out's speed.json"
    )
    options = parser.parse_args()
    if min(options.repeats, options.warm_up, options.rounds or 1) < 1:
        parser.error("--repeats, --rounds and --warm-up must be at least 1")
    return options


def measure(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Run everything; what is found is on disk after every run."""
    chosen = {peer: Path(path) for peer, _, path in (text.partition("=") for text in options.peer_python)}
    wanted = [CONTESTANTS[name] for name in options.contestants]
    absent = {c.name: why for c in wanted if (why := missing(c, chosen))}
    present = [c for c in wanted if c.name not in absent]
    for name, why in absent.items():
        console.print(f"{name}: {why}")
    runs: list[Run] = []

    def add(run: Run) -> None:
        runs.append(run)
        console.print(report.line(run))
        results["runs"] = [as_json(run) for run in runs]
        write(options.out, results)

    results: dict[str, Any] = {
        "about": describe() | {"command": shlex.join(["python", "-m", "tests.benchmarks.speed", *sys.argv[1:]])},
        "work": {
            "rounds": {model: options.rounds or ROUNDS[model] for model in options.models},
            "warm_up": options.warm_up,
            "lr": options.lr,
            "repeats": options.repeats,
        },
        "absent": absent,
    }
    if results["about"]["load_before"] > BUSY:
        console.print(
            f"load average {results['about']['load_before']}: others are at work here, so the numbers say little"
        )
    with tempfile.TemporaryDirectory(prefix="fedtl-speed-") as place:
        plan = Plan(Path(place) / "data.npz", warm_up=options.warm_up, lr=options.lr)
        write_data(plan.data, plan)
        for model in [] if options.no_memory else options.models:
            for contestant in present:
                add(race(contestant, model, 0, MEMORY_ROUNDS, plan, chosen, sizes=True))
        for repeat in range(options.repeats):
            plan = replace(plan, seed=repeat)
            write_data(plan.data, plan)
            for model in options.models:
                first = repeat % max(len(present), 1)
                for contestant in present[first:] + present[:first]:
                    add(race(contestant, model, repeat, options.rounds or ROUNDS[model], plan, chosen))
    return results


def wide_console() -> Console:
    """At least as wide as the tables are, also in a pipe."""
    return Console(highlight=False, markup=False, soft_wrap=True, width=max(Console().width, 150))


def write(folder: Path, results: dict[str, Any]) -> None:
    """All numbers so far."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1)
    (folder / "speed.json").write_text(text + "\n")


def main() -> int:
    options, console = arguments(), wide_console()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing that it started goes on
    began = time.monotonic()
    if options.redraw:
        results = json.loads((options.out / "speed.json").read_text())
    else:
        results = measure(options, console)
        results["about"]["minutes"] = round((time.monotonic() - began) / 60, 1)
        write(options.out, results)
    runs = [Run(**table) for table in results["runs"]]
    report.show(console, results, runs)
    (options.out / "speed.md").write_text(report.markdown(results, runs))
    report.draw(options.out / "speed.png", results, runs)
    console.print(f"{options.out / 'speed.md'}, speed.png, speed.json")
    return 0 if any(run.failure is None for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
