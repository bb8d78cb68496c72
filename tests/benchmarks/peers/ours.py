"""fedtl through its command line, timed from outside: a round ends when its line is in ``rounds.jsonl``."""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import tomli_w

from tests.benchmarks.peers.work import Outcome, Work

IN_MODIFY = 0x2
"""From <sys/inotify.h>."""

MODELS: dict[str, dict[str, Any]] = {
    "logistic": {"name": "logistic"},
    "mlp": {"name": "mlp", "hidden": [100]},
    "cnn": {"name": "cnn"},
}
DATA = {"name": "fashion-mnist", "clients": 100, "partition": {"name": "iid"}, "test_share": 0.0}
PFEDME = {
    "name": "pfedme",
    "local_steps": 20,
    "inner_steps": 5,
    "lam": 15.0,
    "lr": 0.01,
    "inner_lr": 0.03,
}


def command(work: Work) -> list[str]:
    """``fedtl run`` on a config for this work; variants: "ray", "in-process", "pfedme"."""
    fedavg = {"name": "fedavg", "local_epochs": 1, "lr": work.lr}
    tables = {
        "name": "speed",
        "seed": work.seed,
        "rounds": work.rounds,
        "device": "cpu",
        "data": DATA | {"clients": work.clients},
        "model": MODELS[work.model],
        "strategy": (PFEDME if work.variant == "pfedme" else fedavg)
        | {"batch_size": work.batch, "clients_per_round": work.sampled},
        "evaluate": {"every": 10**6},  # the last round is scored, and not timed
        "simulation": {"grid": "in-process"}
        if work.variant == "in-process"
        else {"grid": "ray", "actors": work.processes},
    }
    config = Path(work.folder) / "speed.toml"
    config.write_text(tomli_w.dumps(tables))
    return [str(Path(sys.executable).with_name("fedtl")), "run", str(config), "--out", str(run_folder(work))]


def run_folder(work: Work) -> Path:
    """Where ``fedtl run`` writes."""
    return Path(work.folder) / "run"


class Clock(threading.Thread):
    """Notes when the run's rounds end; the kernel wakes it, so it takes no time from the run."""

    def __init__(self, work: Work) -> None:
        super().__init__(daemon=True)
        self.file = run_folder(work) / "rounds.jsonl"
        self.rounds, self.ends = work.rounds, list[float]()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """The run has ended, perhaps before it began."""
        self._stopped.set()

    def run(self) -> None:
        """Watch until the last round has ended."""
        while not self.file.exists():  # it is there long before the first round
            if self._stopped.wait(0.05):
                return
        libc = ctypes.CDLL(None, use_errno=True)
        watch = libc.inotify_init()
        if watch < 0 or libc.inotify_add_watch(watch, os.fsencode(self.file), IN_MODIFY) < 0:
            raise OSError(ctypes.get_errno(), "inotify")
        with self.file.open("rb") as lines:
            while len(self.ends) < self.rounds:
                os.read(watch, 4096)
                now = time.time()
                self.ends += [now] * lines.read().count(b"\n")
        os.close(watch)


def outcome(work: Work, clock: Clock) -> Outcome:
    """The finished run's outcome."""
    clock.join(timeout=10)
    rounds = [json.loads(line) for line in (run_folder(work) / "rounds.jsonl").read_text().splitlines()]
    score = rounds[-1]["scores"]["global/server-test"]["accuracy"]
    about = json.loads((run_folder(work) / "environment.json").read_text())
    versions = {name: about["versions"][name] for name in ("fedtl", "torch", "flwr", "ray")}
    commit = about["commit"] or ""
    commit = commit[:9] + "+" * commit.endswith("+")  # "+": files differed from the commit
    versions |= {"python": about["python"], "commit": commit, "engine": about["engine"]}
    return Outcome(clock.ends, score, versions, [round["seconds"] for round in rounds])
