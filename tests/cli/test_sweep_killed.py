"""A sweep's processes killed at random instants, by hand: ``pytest -m slow tests/cli/test_sweep_killed.py``."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from tests.sweeps import LR, left_of, study_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

KILLS = 20
SPACE = {LR: {"low": 0.01, "high": 0.5, "log": True}}
SEARCHES: dict[str, dict[str, Any]] = {
    "random": {"by": "random", "budget": 3, "space": SPACE},
    "optuna": {
        "by": "optuna",
        "budget": 3,
        "space": SPACE,
        "sampler": {"name": "TPESampler", "n_startup_trials": 2},
        "pruner": {"name": "MedianPruner", "n_startup_trials": 1},
    },
}


def begin(folder: Path) -> subprocess.Popen[bytes]:
    command = "from fedtl.cli import main; main()"
    args = ["sweep", str(folder.parent / "study.toml"), "--out", str(folder), "--jobs", "2", "--quiet"]
    return subprocess.Popen([sys.executable, "-c", command, *args], stdout=subprocess.DEVNULL)


def tree(process: int) -> list[int]:
    """A process and all that it has begun, however deep."""
    children: dict[int, list[int]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(file.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(file.parent.name))
    processes = [process]
    for each in processes:
        processes += children.get(each, [])
    return processes


@pytest.mark.parametrize("by", SEARCHES)
def test_whatever_is_killed_when_the_study_is_the_same(by: str, tmp_path: Path) -> None:
    if by == "optuna":
        pytest.importorskip("optuna", reason="optuna, an extra, is not installed")
    study = study_of(search=SEARCHES[by], grid={"data.partition.alpha": [0.5, 5.0]}, set={"rounds": 4})
    (tmp_path / "study.toml").write_text(tomli_w.dumps(study))
    start = time.monotonic()
    assert begin(tmp_path / "whole").wait() == 0
    took, whole = time.monotonic() - start, left_of(tmp_path / "whole")
    rng, kills, attempt = random.Random(0), 0, 0
    while kills < KILLS:
        folder, attempt = tmp_path / f"killed-{attempt}", attempt + 1
        while True:
            running = begin(folder)
            try:
                code = running.wait(None if kills == KILLS else rng.uniform(1, 1.2 * took))
            except subprocess.TimeoutExpired:
                everybody = tree(running.pid)
                for process in everybody if rng.random() < 0.7 else [rng.choice(everybody)]:
                    try:
                        os.kill(process, signal.SIGKILL)
                    except ProcessLookupError:
                        continue
                kills += 1
                running.wait()
            else:
                assert code == 0
                break
        assert left_of(folder) == whole
