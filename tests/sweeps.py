"""Small studies, and what is compared of them: everything but times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedtl.config.read import is_run
from tests.interrupted import contents

ALPHA, SHARE, LR = "data.partition.alpha", "data.validation_share", "strategy.lr"

BASE: dict[str, Any] = {
    "name": "tiny",
    "rounds": 2,
    "data": {
        "name": "digits",
        "clients": 3,
        "samples": 150,
        "partition": {"name": "dirichlet", "alpha": 1.0},
        "validation_share": 0.2,
    },
    "model": {"name": "logistic"},
    "strategy": {"name": "fedavg", "lr": 0.1, "batch_size": 10, "local_steps": 2},
    "simulation": {"grid": "in-process", "traced": False},
}

METHODS: list[dict[str, Any]] = [{"strategy.name": "fedavg"}, {"strategy.name": "local"}]


def study_of(**more: Any) -> dict[str, Any]:
    """Two methods under two seeds, with whatever is to be otherwise."""
    return {"name": "tiny", "config": BASE, "seeds": 2, "variants": METHODS, **more}


def left_of(folder: Path) -> dict[str, Any]:
    """All that a study leaves but times, and who asked for it."""
    table: dict[str, Any] = json.loads((folder / "study.json").read_text())
    del table["command"]
    for run in table["runs"]:
        del run["seconds"]
    finished = [run["folder"] for run in table["runs"] if run["state"] == "finished"]
    return {**table, "contents": {name: contents(folder / name) for name in finished if is_run(folder / name)}}
