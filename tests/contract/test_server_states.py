"""Methods whose servers remember more than the model go on where they were, and give the same bits in any cohort."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import fedtl
from fedtl.choice import ConfigError
from fedtl.strategies.afl import AFL
from tests.interrupted import contents
from tests.parts import METHODS

STATEFUL = ["afl", "fedadam", "feddc", "feddyn", "fednova", "qfedavg", "scaffold"]


def tables(method: str, rounds: int) -> dict[str, Any]:
    return {
        "name": "stateful",
        "rounds": rounds,
        "device": "cpu",
        "data": {"name": "digits", "clients": 6, "samples": 300},
        "model": {"name": "logistic"},
        "strategy": {"name": method, "clients_per_round": 3, "local_steps": 2, "batch_size": 10, **METHODS[method]},
        "evaluate": {"every": 2},
        "simulation": {"grid": "in-process"},
    }


@pytest.mark.parametrize(
    ("method", "options"),
    [("fedcp", {"global_parts": "last"}), ("gpfl", {}), ("gpfl", {"inputs": "own"})],
    ids=["fedcp, last parts", "gpfl", "gpfl, own inputs"],
)
def test_what_a_server_remembers_of_parts_of_the_model_goes_on(
    method: str, options: dict[str, Any], tmp_path: Path
) -> None:
    def shorter_or_longer(rounds: int) -> dict[str, Any]:
        table = tables(method, rounds)
        return {**table, "model": {"name": "mlp", "hidden": [6]}, "strategy": {**table["strategy"], **options}}

    fedtl.run(shorter_or_longer(4), out=tmp_path / "once")
    fedtl.run(shorter_or_longer(2), out=tmp_path / "twice")
    fedtl.run(shorter_or_longer(4), out=tmp_path / "twice", resume=True)
    assert contents(tmp_path / "twice") == contents(tmp_path / "once")


def test_a_run_of_a_version_that_remembered_less_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of AFL, whose output was the last model."""
    with monkeypatch.context() as patch:
        patch.setattr(AFL, "first_state", lambda self, w: {"w": w, "mixture": torch.ones(self.numbered)})
        patch.setattr("fedtl.strategies.iterates.trained", lambda state, averages: state["w"])
        patch.setattr(AFL, "update", lambda self, state, uploads, round: {**state, "w": uploads.mean("w")})
        fedtl.run(tables("afl", 2), out=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"^the checkpoint lacks 'averaged', 'trained', which the server of AFL rem"):
        fedtl.run(tables("afl", 4), out=tmp_path / "run", resume=True)


@pytest.mark.parametrize("method", STATEFUL)
def test_a_run_that_is_lengthened_is_the_longer_run(method: str, tmp_path: Path) -> None:
    fedtl.run(tables(method, 4), out=tmp_path / "once")
    fedtl.run(tables(method, 2), out=tmp_path / "twice")
    fedtl.run(tables(method, 4), out=tmp_path / "twice", resume=True)
    assert contents(tmp_path / "twice") == contents(tmp_path / "once")
