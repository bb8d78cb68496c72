"""APFL against a step by hand, and other methods in its degenerate settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fedtl.clients.contract import Memory
from fedtl.engine import Trained
from fedtl.engine.assignment import Assignment, Received
from fedtl.engine.task import RoundContext
from fedtl.models.vector import inner
from tests.parts import ENGINES, EngineKind, engine_of, federation_of, quadratic, small_module, train_cohort, update_of
from tests.unit.test_ditto import three_rounds

A = np.random.default_rng(5).normal(size=(3, 5)).astype(np.float32)
W = torch.linspace(-1, 2, 5)
SIZES = [20, 12, 20, 7]
each_engine = pytest.mark.parametrize("kind", ENGINES.values(), ids=ENGINES.keys())


@each_engine
@pytest.mark.parametrize("adaptive", [False, True])
def test_a_round_by_hand(kind: EngineKind, adaptive: bool) -> None:
    """All three move from where they were before the step; α stays within its bounds."""
    eta, alphas, v0 = 0.1, (0.3, 0.02, 0.9), 3.0
    update = update_of("apfl", lr=eta, adaptive=adaptive, alpha_lr=0.05, local_steps=3)
    memories = [{"v": torch.full((5,), v0), "alpha": torch.tensor([alpha])} for alpha in alphas]
    bounds = set()
    for a, alpha, outcome in zip(A, alphas, train_cohort(quadratic(A, kind), update, W, range(3), memories, 1)):
        assert isinstance(outcome, Trained)
        w, v = W.double().numpy(), np.full(5, v0)
        for _ in range(3):
            at_mixture = alpha * v + (1 - alpha) * w - a
            moved = float(np.clip(alpha - 0.05 * (v - w) @ at_mixture, 0, 1)) if adaptive else alpha
            w, v, alpha = w - eta * (w - a), v - eta * alpha * at_mixture, moved
        bounds |= {alpha} & {0.0, 1.0}
        np.testing.assert_allclose(outcome.uploads["w"], w, atol=1e-6)
        np.testing.assert_allclose(outcome.memory["v"], v, atol=1e-6)
        np.testing.assert_allclose(outcome.memory["alpha"], [alpha], atol=1e-6)
        mine = update.personal({"w": W}, outcome.memory)
        np.testing.assert_allclose(mine, alpha * v + (1 - alpha) * W.numpy(), atol=1e-6)
    assert bounds or not adaptive


@pytest.mark.parametrize("name", ENGINES)
def test_with_alpha_1_it_is_training_alone_bit_for_bit(name: str) -> None:
    """To rounding where steps are traced: plain steps are then taken along each parameter's gradient, ours along α's
    product with all of them."""
    kind, close = ENGINES[name], {"rtol": 1e-5, "atol": 1e-6} if "traced" in name else {"rtol": 0.0, "atol": 0.0}
    options: dict[str, Any] = {"lr": 0.1, "batch_size": 10, "local_epochs": 2}
    update = update_of("apfl", alpha=1.0, **options)
    for (_, memory), (_, own) in zip(three_rounds(kind, update), three_rounds(kind, update_of("local", **options))):
        torch.testing.assert_close(memory["v"], own["w"], **close)
        assert torch.equal(update.personal({"w": torch.randn_like(own["w"])}, memory), memory["v"])


@each_engine
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_what_travels_is_fedavgs_bit_for_bit(kind: EngineKind, alpha: float) -> None:
    """Whatever α; with α = 0 the personalised model is the global one, and v stays where it began."""
    options: dict[str, Any] = {"lr": 0.1, "batch_size": 10, "local_epochs": 2}
    update = update_of("apfl", alpha=alpha, **options)
    ours, fedavg = three_rounds(kind, update), three_rounds(kind, update_of("fedavg", **options))
    for (upload, memory), (theirs, _) in zip(ours, fedavg):
        assert upload is not None
        assert theirs is not None
        assert torch.equal(upload, theirs)
        if not alpha:
            assert torch.equal(update.personal({"w": upload}, memory), upload)
            engine = engine_of(federation_of(SIZES), small_module())
            assert torch.equal(memory["v"], engine.task.layout.flatten(engine.task.module))


@each_engine
def test_alpha_follows_the_schedule(kind: EngineKind) -> None:
    moved = []
    for factor in (1.0, 0.5):
        schedule = {"name": "exponential", "gamma": 0.5}
        update = update_of("apfl", lr=0.01, adaptive=True, local_steps=1, schedule=schedule)
        memory: Memory = {"v": W + 1, "alpha": torch.tensor([0.5])}
        context = RoundContext(lr_factor=factor)
        engine = quadratic(A, kind)
        (outcome,) = engine.train(Assignment(update, Received({"w": W}), [0], [memory], 1, context))
        assert isinstance(outcome, Trained)
        moved.append(float(outcome.memory["alpha"]) - 0.5)
    assert moved[0]
    assert moved[1] == pytest.approx(0.5 * moved[0], rel=1e-3)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 64, 1001])
def test_an_inner_product_does_not_depend_on_the_stack(length: int) -> None:
    a, b = torch.randn(2, 5, length, generator=torch.Generator().manual_seed(0))
    expected = (a.double() * b.double()).sum(-1, keepdim=True)
    torch.testing.assert_close(inner(a, b).double(), expected, rtol=0, atol=1e-6 * length)
    for row in range(5):
        assert torch.equal(inner(a, b)[row], inner(a[row], b[row]))
