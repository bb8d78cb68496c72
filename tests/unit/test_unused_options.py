"""An option that does nothing under a method, or to a model, says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from fedtl.assemble.driver import Silent
from fedtl.config.read import read_config
from fedtl.data.federate import federate
from fedtl.experiment import Place, open_run
from fedtl.losses.terms.unlabelled import AdaBN
from fedtl.models.sharing import freeze


def tables(method: str = "fedavg", strategy: dict[str, Any] | None = None, **other: Any) -> dict[str, Any]:
    return {
        "name": "unused",
        "data": {"name": "digits", "clients": 4, "samples": 100},
        "model": {"name": "mlp"},
        "strategy": {"name": method, "lr": 0.1, **(strategy or {})},
        **({} if "phases" in other else {"rounds": 2}),
        **other,
    }


def notes(*args: Any, **other: Any) -> list[str]:
    return read_config(tables(*args, **other))[1]


def test_what_local_training_does_not_use() -> None:
    why = "under local clients upload nothing that could be averaged"
    assert notes("local", {"weighting": "uniform"}) == [f"strategy.weighting has no effect: {why}"]
    assert notes("local", {"weighting": "samples"}) == [f"strategy.weighting has no effect: {why}"]
    assert notes("local") == notes("fedavg", {"weighting": "uniform"}) == []
    assert notes("local", {"private": ["head"]}) == [
        "strategy.private has no effect: under local the whole model stays at the client"
    ]
    phases = [{"rounds": 1}, {"rounds": 1, "restart": True, "strategy": {"weighting": "uniform"}}]
    assert notes("local", phases=phases) == [
        f"phases[1].strategy.weighting has no effect: {why}",
        "phases[1].restart has no effect: under local no global model could begin anew",
    ]
    assert notes("fedavg", phases=phases) == []


def test_how_a_share_that_stays_would_move() -> None:
    asked = {"alpha_lr": 0.1, "alpha_steps": "first"}
    why = "has no effect: α stays: adaptive = false"
    assert notes("apfl", asked) == [f"strategy.alpha_lr {why}", f"strategy.alpha_steps {why}"]
    assert notes("apfl", {"adaptive": True, **asked}) == []


def test_a_resolved_config_did_not_ask_for_its_defaults(tmp_path: Path) -> None:
    config, _ = read_config(tables("local"))
    (tmp_path / "config.toml").write_text(config.toml())
    assert read_config(tmp_path)[1] == []


def test_how_feddf_would_distil_without_steps() -> None:
    public = {"name": "digits", "clients": 4, "public": {"name": "digits", "samples": 20}}
    all_notes = notes("feddf", {"distill_steps": 0, "temperature": 2.0, "distill_lr": 0.1}, data=public)
    why = "has no effect: there are no steps: distill_steps = 0"
    assert [note for note in all_notes if "distill_steps" in note] == [
        f"strategy.distill_lr {why}",
        f"strategy.temperature {why}",
    ]
    assert notes("feddf", {"temperature": 2.0}, data=public) == []


@pytest.mark.parametrize(("drawn", "has_note"), [(3, False), (4, True), (50, True)])
def test_a_sample_of_all_clients(drawn: int, has_note: bool) -> None:
    why = f"evaluate.clients = {drawn} has no effect: there are 4 clients, and all are scored"
    assert notes(evaluate={"clients": drawn}) == ([why] if has_note else [])


def normed(**options: Any) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, **options), nn.Linear(4, 2))


def test_statistics_that_cannot_follow_the_target() -> None:
    term = AdaBN(term="adabn")
    without = "the model has no batch-norm layer with running statistics"
    assert term.idle(nn.Linear(3, 2)) == without
    assert term.idle(normed(track_running_stats=False)) == without
    assert term.idle(normed()) is None
    frozen = normed()
    freeze(frozen, ["batch-norm"])
    assert term.idle(frozen.train()) == "all batch-norm layers are frozen"


def test_a_run_tells_of_a_term_that_can_do_nothing(tmp_path: Path) -> None:
    data = {"name": "digits", "clients": 2, "samples": 60, "target": {"name": "digits", "samples": 60}}
    config, _ = read_config(tables(data=data, objective=[{"term": "cross_entropy"}, {"term": "adabn"}]))
    server = open_run(config, federate(config.data, 0), Place(tmp_path / "run"), Silent())
    assert server.about["notes"] == [
        "the term 'adabn' has no effect: the model has no batch-norm layer with running statistics"
    ]
