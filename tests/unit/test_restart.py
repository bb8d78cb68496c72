"""A phase that restarts is a run that begins with its model: nothing remembered of the old model moves the new one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fedtl
from fedtl.clients.contract import Vectors
from fedtl.engine import Failed
from fedtl.engine.task import PRIVATE
from fedtl.server.scoring import Evaluation
from fedtl.strategies import strategy_type
from tests.interrupted import contents, stopped_and_resumed, tables
from tests.parted import Parted
from tests.parts import EACH_ENGINE, METHODS, EngineKind, OneByOne, federation_of

BEFORE: list[list[int]] = [[0, 1, 2], [0, 1, 2]]
AFTER: list[list[int]] = [[0], [0, 1], [1]]
"""The rounds since the restart: client 1 comes late, and client 2 not at all."""

GLOBAL = [
    method
    for method, kind in ((method, strategy_type(method)) for method in METHODS)
    if kind.has_global_model()
    and not kind.pools
    and not kind.settings_type(name=method, **METHODS[method]).private
    and method != "fedcp"
]
"""Those of which no part of the model stays at the client, as a classifier does under ``fedcp``."""

KEEPS = {"name": "fedavg", "optimizer": {"name": "adam", "keep": True}}
OPTIONS: dict[str, dict[str, Any]] = {
    **{method: {"name": method, **METHODS[method]} for method in GLOBAL},
    "an optimiser's state": KEEPS,
    "a personal model that began as received": {"name": "ditto", "personal_start": "received"},
    "a server's optimiser": {"name": "fedavg", "server": {"name": "adam", "bias_correction": "keras"}},
}
FEDERATION = federation_of([5, 7, 6])


def pair(strategy: dict[str, Any], kind: EngineKind = OneByOne, norm: bool = False) -> tuple[Parted, Parted]:
    """A run with a restart, and one that begins with the restart's model, each with personal models as they are."""
    phases = {"phases": [{"rounds": len(BEFORE)}, {"rounds": len(AFTER), "restart": True}]}
    strategy, model = {"local_steps": 2, "lr": 0.1, **strategy}, {"norm": norm}
    run = Parted(strategy, FEDERATION, BEFORE + AFTER, kind, model, more=phases)
    fresh = Parted(strategy, FEDERATION, AFTER, kind, model)
    begun = run.worker.stages[1].engine.task.begun
    assert begun is not None
    fresh.initial = fresh.worker.initial = fresh.engine._initial = fresh.engine._begun = begun
    for each in (run, fresh):
        each.server.evaluation = Evaluation(personal="stored", clients=0)
    return run, fresh


def own(run: Parted, client: int) -> Tensor | None:
    """A client's own model after the last round; None if it has none."""
    number = len(run.sampled)
    content, which = run.server.about_scoring([client], number), run.server.which_personal()
    (model,) = run.worker.personal_models(content, [client], number, which)
    assert not isinstance(model, Failed), model
    return model


def assert_alike(run: Parted, fresh: Parted) -> None:
    torch.testing.assert_close(torch.stack(run.rounds()[len(BEFORE) :]), torch.stack(fresh.rounds()))
    assert run.server.state.keys() == fresh.server.state.keys()
    for name, tensor in fresh.server.state.items():
        torch.testing.assert_close(run.server.state[name], tensor, msg=lambda text, name=name: f"{name}: {text}")
    if run.server.personalises:
        for client in range(3):
            models = own(run, client), own(fresh, client)
            assert (models[0] is None) == (models[1] is None)
            if models[0] is not None:
                torch.testing.assert_close(*models)


@pytest.mark.parametrize("name", OPTIONS)
def test_nothing_of_the_old_model_counts(name: str) -> None:
    assert_alike(*pair(OPTIONS[name]))


@EACH_ENGINE
def test_whichever_engine_trains(kind: EngineKind) -> None:
    """With clients in one stack that remember something of the new model, and others that do not."""
    assert_alike(*pair({"name": "scaffold"}, kind))


@pytest.mark.parametrize("method", ["apfl", "ditto", "moon", "scaffold"])
def test_nor_do_batch_norm_statistics_of_a_clients_own(method: str) -> None:
    assert_alike(*pair({"name": method, **METHODS[method]}, norm=True))


@pytest.mark.parametrize("start", ["initial", "received"])
def test_private_parts_stay(start: str, tmp_path: Path) -> None:
    """Also of a client that has not trained since, whose personal model is forgotten."""
    phases = {"phases": [{"rounds": 2}, {"rounds": 2, "restart": True}]}
    strategy = {"name": "ditto", "personal_start": start, "private": ["head"], "lr": 0.1}
    sampled = [[0, 1, 2], [0, 1, 2], [0], [0, 1]]
    run = Parted(strategy, FEDERATION, sampled, path=tmp_path, more=phases)
    run.server.evaluation = Evaluation(personal="stored", clients=0)
    train, given = run.worker.stages[1].engine.train, dict[int, Vectors]()

    def watched(assignment: Any) -> Any:
        given.update(zip(assignment.clients, assignment.memories))
        return train(assignment)

    run.worker.stages[1].engine.train = watched  # type: ignore[method-assign]
    run.rounds()
    kept = run.store.load(1, 3)
    assert {*kept} == {PRIVATE, "v"}
    assert given[1].keys() == {PRIVATE}
    assert torch.equal(given[1][PRIVATE], kept[PRIVATE])
    model = own(run, 2)
    if start == "received":
        assert model is None
    else:  # v begins with the model of the restart
        assert model is not None
        torch.testing.assert_close(model, run.worker.stages[1].engine.task.begun)


@pytest.mark.parametrize("rounds", [3, 4])
def test_a_run_that_is_resumed_around_the_restart_is_the_same(rounds: int, tmp_path: Path) -> None:
    config = tables("scaffold", 6, phases=[{"rounds": 3}, {"rounds": 3, "restart": True}])
    fedtl.run(config, out=tmp_path / "once")
    stopped_and_resumed(config, tmp_path / "twice", rounds)
    assert contents(tmp_path / "twice") == contents(tmp_path / "once")
