"""Ditto against a step by hand, other methods in its degenerate settings, and the front page's version of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fedtl
from fedtl.choice import ConfigError
from fedtl.clients.contract import Memory
from fedtl.engine import Trained
from fedtl.engine.task import BUFFERS
from fedtl.export.of_run import model_of_run
from fedtl.strategies import read_strategy
from tests.parts import (
    EACH_ENGINE,
    METHODS,
    EngineKind,
    engine_of,
    federation_of,
    quadratic,
    small_module,
    train_cohort,
    update_of,
)
from tests.unit.test_readme import block

A = np.random.default_rng(3).normal(size=(3, 5)).astype(np.float32)
W = torch.linspace(-1, 2, 5)
SIZES = [20, 12, 20, 7]


def normed_module() -> nn.Module:
    """With running statistics."""
    first, *others = small_module()
    return nn.Sequential(first, nn.BatchNorm1d(6), *others)


EACH_MODULE = pytest.mark.parametrize("module", [small_module, normed_module])


@EACH_ENGINE
@pytest.mark.parametrize("own", [{}, {"personal_steps": 3, "personal_lr": 0.2}])
def test_a_round_by_hand(kind: EngineKind, own: dict[str, Any]) -> None:
    """v_k is held to the w^t of the round's start, while w_k moves away."""
    eta, lam, w0 = 0.1, 0.5, W.double().numpy()
    update = update_of("ditto", lr=eta, lam=lam, local_steps=2, **own)
    memories = [{"v": torch.full((5,), 3.0)} for _ in A]
    for a, outcome in zip(A, train_cohort(quadratic(A, kind), update, W, range(3), memories, 1)):
        assert isinstance(outcome, Trained)
        w, v = w0, np.full(5, 3.0)
        for _ in range(2):
            w = w - eta * (w - a)
        for _ in range(own.get("personal_steps", 2)):
            v = v - own.get("personal_lr", eta) * ((v - a) + lam * (v - w0))
        np.testing.assert_allclose(outcome.uploads["w"], w, atol=1e-6)
        np.testing.assert_allclose(outcome.memory["v"], v, atol=1e-6)


def three_rounds(
    kind: EngineKind, update: Any, module: Callable[[], nn.Module] = small_module
) -> list[tuple[torch.Tensor | None, Memory]]:
    """What clients upload and keep; a client joins in each round, and the mean of the uploads is the next download."""
    engine = engine_of(federation_of(SIZES), module(), kind)
    w = engine.task.layout.flatten(engine.task.module)
    memories: list[Memory] = [{} for _ in SIZES]
    ends: list[tuple[torch.Tensor | None, Memory]] = []
    for round in range(1, 4):
        clients = range(round + 1)
        outcomes = train_cohort(engine, update, w, clients, [memories[c] for c in clients], round)
        assert all(isinstance(outcome, Trained) for outcome in outcomes), outcomes
        ends = [(outcome.uploads.get("w"), outcome.memory) for outcome in outcomes]  # type: ignore[union-attr]
        for client, (_, memory) in zip(clients, ends):
            memories[client] = memory
        w = w if ends[0][0] is None else torch.stack([upload for upload, _ in ends]).mean(0)  # type: ignore[misc]
    return ends


def same(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    """Whether two hold the same bits, or there is neither."""
    return one is other or (one is not None and other is not None and torch.equal(one, other))


@EACH_ENGINE
@EACH_MODULE
def test_without_lambda_it_is_fedavg_and_training_alone_bit_for_bit(
    kind: EngineKind, module: Callable[[], nn.Module]
) -> None:
    """Each by itself, running statistics and all: v_k begins at the run's initial model, whatever clients receive when
    they join."""
    options: dict[str, Any] = {"lr": 0.1, "batch_size": 10, "local_epochs": 2}
    ours = three_rounds(kind, update_of("ditto", lam=0.0, **options), module)
    for (upload, _), (fedavg, _) in zip(ours, three_rounds(kind, update_of("fedavg", **options), module)):
        assert upload is not None
        assert fedavg is not None
        assert torch.equal(upload, fedavg)
    alone = three_rounds(kind, update_of("local", **options), module)
    for (_, memory), (_, own) in zip(ours, alone):
        assert torch.equal(memory["v"], own["w"])
        assert same(memory.get(BUFFERS), own.get(BUFFERS))


@EACH_ENGINE
def test_it_is_the_front_pages_bit_for_bit(kind: EngineKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which takes the settings' weighting, and begins v_k at what a client received."""
    (tmp_path / "ditto_of_the_page.py").write_text(block("python", "class Ditto("))
    monkeypatch.syspath_prepend(tmp_path)
    options: dict[str, Any] = {"lr": 0.1, "lam": 0.7, "batch_size": 10, "local_epochs": 2}
    theirs = three_rounds(kind, update_of("ditto_of_the_page:Ditto", **options))
    ours = three_rounds(kind, update_of("ditto", personal_start="received", **options))
    for (upload, memory), (their_upload, their_memory) in zip(ours, theirs):
        assert upload is not None
        assert their_upload is not None
        assert torch.equal(upload, their_upload)
        assert torch.equal(memory["v"], their_memory["v"])


def test_each_model_has_an_optimizer_of_its_own() -> None:
    """At the rate of its own, which counts before the optimiser's."""
    update = update_of("ditto", lr=0.1, lam=0.0, personal_lr=0.01, optimizer={"name": "adam", "lr": 0.5}, local_steps=1)
    (outcome,) = train_cohort(quadratic(A), update, W, [0], [{"v": W.clone()}], 1)
    assert isinstance(outcome, Trained)
    sign = np.sign(W.numpy() - A[0])  # Adam's first step is its rate in each direction
    np.testing.assert_allclose(outcome.uploads["w"], W.numpy() - 0.5 * sign, atol=1e-5)
    np.testing.assert_allclose(outcome.memory["v"], W.numpy() - 0.01 * sign, atol=1e-6)


@pytest.mark.parametrize("method", ["ditto", "local"])
def test_an_adapted_model_is_the_one_that_the_next_round_stores(method: str, tmp_path: Path) -> None:
    few = ["data.clients=4", "data.partition.min_size=5", "strategy.clients_per_round=none", "strategy.local_steps=2"]
    few += ["simulation.grid=in-process", f"strategy.name={method}"]
    one, two = (fedtl.run("quickstart", [*few, f"rounds={n}"], out=tmp_path / str(n)).path for n in (1, 2))
    for client in range(4):
        now, next, before = (
            nn.utils.parameters_to_vector(model_of_run(path, client, personal).module.parameters())
            for path, personal in ((one, "adapted"), (two, "stored"), (one, "stored"))
        )
        assert torch.equal(now, next)
        assert not torch.equal(now, before)


@pytest.mark.parametrize("method", ["ditto", "local"])
def test_an_adapted_score_is_the_next_rounds_stored_one_under_a_ramp_and_a_schedule_too(
    method: str, tmp_path: Path
) -> None:
    tables: dict[str, Any] = {
        "name": "ramp",
        "rounds": 4,
        "data": {"name": "digits", "clients": 3, "samples": 90},
        "model": {"name": "logistic"},
        "strategy": {"name": method, **METHODS[method], "lr": 0.1, "schedule": {"name": "cosine"}},
        "objective": [{"term": "cross_entropy", "ramp": "linear"}, {"term": "l2", "weight": 0.01}],
        "simulation": {"grid": "in-process"},
    }
    adapted, stored = (
        [
            report["scores"]["personal/clients"]["loss"]["mean"]
            for report in fedtl.run({**tables, "evaluate": {"personal": personal}}, out=tmp_path / personal).rounds
        ]
        for personal in ("adapted", "stored")
    )
    assert adapted[:-1] == stored[1:]
    assert len({*stored}) == 4


def test_two_budgets_of_one_model_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="personal_steps = 2 and personal_epochs = 3 exclude each other"):
        read_strategy({"name": "ditto", "lr": 0.1, "personal_steps": 2, "personal_epochs": 3})
