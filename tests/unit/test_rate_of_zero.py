"""A schedule that ends at 0: clients that estimate gradients by dividing by the learning rate learn nothing there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import fedtl
from fedtl.disk.memories import MemoryStore

DIVIDING: list[tuple[str, str, dict[str, Any]]] = [
    ("scaffold", "c_i", {"corrects": "step"}),
    ("scaffold", "c_i", {"corrects": "step", "mean_samples": 20.0}),
    ("feddc", "g", {"alpha": 0.1}),
    ("feddc", "g", {"alpha": 0.1, "correction": "scaffold"}),
]
"""The methods, with what a client remembers of its gradients, and the options with which that is a quotient."""


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize(("method", "name", "options"), DIVIDING)
def test_what_they_estimate_stays(
    method: str, name: str, options: dict[str, Any], stacked: bool, tmp_path: Path
) -> None:
    tables: dict[str, Any] = {
        "name": "zero",
        "data": {"name": "digits", "clients": 3, "samples": 60},
        "model": {"name": "logistic"},
        "strategy": {"name": method, "lr": 0.1, "schedule": {"name": "cosine", "rounds": 2}, **options},
        "simulation": {"grid": "in-process", "stacked": stacked},
        "evaluate": {"every": 4},
    }
    estimates = []
    for rounds in (2, 4):  # from the third on the rate is 0
        run = fedtl.run({**tables, "rounds": rounds}, out=tmp_path / str(rounds))
        assert not run.rounds[-1]["failures"]
        store = MemoryStore(run.path / "memories")
        estimates.append([store.load(client, rounds + 1)[name] for client in range(3)])
    for before, after in zip(*estimates):
        assert before.any()
        assert torch.equal(before, after)
