"""Methods with a model of one's own beside the global one, and the baselines, as whole runs: resumed, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fedtl
from tests.interrupted import CLIENTS, contents
from tests.parts import METHODS

OPTIONS: dict[str, dict[str, Any]] = {
    "afl": {"name": "afl", **METHODS["afl"]},
    "apfl": {"name": "apfl", **METHODS["apfl"]},
    "apfl, mixed outputs": {"name": "apfl", **METHODS["apfl"], "mixing": "outputs", "optimizer": {"name": "adam"}},
    "central": {"name": "central", **METHODS["central"]},
    "ditto": {"name": "ditto", **METHODS["ditto"], "optimizer": {"name": "adam", "lr": 0.01, "keep": True}},
    "fedlc": {"name": "fedlc", **METHODS["fedlc"]},
    "fedntd": {"name": "fedntd", **METHODS["fedntd"]},
    "fedsam": {"name": "fedsam", **METHODS["fedsam"], "swa_from": 2},
    "moon": {"name": "moon", **METHODS["moon"]},
    "per-fedavg": {"name": "per-fedavg", **METHODS["per-fedavg"]},
}


@pytest.mark.parametrize("which", OPTIONS)
def test_a_resumed_run_leaves_the_same_bits(which: str, tmp_path: Path) -> None:
    """With partial participation, so that memories are of different ages, and some clients have none."""
    makes = OPTIONS[which]["name"] == "per-fedavg"
    tables: dict[str, Any] = {
        "name": "own-models",
        "seed": 1,
        "rounds": 4,
        "device": "cpu",
        "data": {"name": "digits", "clients": CLIENTS, "partition": {"name": "dirichlet", "alpha": 1.0}},
        "model": {"name": "mlp", "hidden": [8]},
        "strategy": {"clients_per_round": 3, "local_steps": 3, "batch_size": 10, **OPTIONS[which]},
        "evaluate": {"every": 2, "personal": "adapted" if makes else "stored"},
        "simulation": {"grid": "in-process"},
    }
    fedtl.run(tables, out=tmp_path / "whole")
    fedtl.run({**tables, "rounds": 2}, out=tmp_path / "resumed")
    fedtl.run(tables, out=tmp_path / "resumed", resume=True)
    assert contents(tmp_path / "resumed") == contents(tmp_path / "whole")
