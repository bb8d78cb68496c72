"""Per-FedAvg: which samples are D, D' and D'', its meta-steps by hand, and its degenerate settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedtl.data.batches import Budget
from fedtl.data.federation import Federation, Shards
from fedtl.engine import Engine, Trained
from tests.parts import EACH_ENGINE, EngineKind, QuadraticTerm, engine_of, quadratic, train_cohort, update_of

A = np.random.default_rng(2).normal(size=(3, 4)).astype(np.float32)
W = torch.linspace(-1, 2, 4)


class Quartic(nn.Module):
    """f_i(θ) = ½‖θ² - x‖² for each sample x: its Hessian is 2(3θ² - x), and depends on both."""

    def __init__(self, d: int = 4) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(d))

    def forward(self, x: Tensor) -> Tensor:
        return x - self.theta.square()


def of_samples(sizes: list[int], kind: EngineKind) -> Engine:
    """Clients whose samples are all different."""
    x = np.random.default_rng(4).normal(size=(sum(sizes), 4)).astype(np.float32)
    one, none = np.ones((), np.float32), np.empty(0, np.int64)
    train = Shards.from_sizes(np.arange(sum(sizes)), np.array(sizes))
    federation = Federation(x, np.zeros(sum(sizes), np.int64), 4, one, 0 * one, train, Shards.none(len(sizes)), none)
    return engine_of(federation, Quartic(), kind, [QuadraticTerm(term="quadratic")])


def gradient(w: np.ndarray[Any, Any], x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return 2 * w * (w * w - x.mean(0))


@EACH_ENGINE
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("hessian", ["none", "free"])
def test_meta_steps_by_hand(kind: EngineKind, hessian: str, size: int) -> None:
    """D, D' and D'' are the next mini-batches of a pass; what is left at the round's end takes no part."""
    alpha, beta, delta, sizes = 0.05, 0.02, 0.01, [8, 5, 8, 1]
    engine = of_samples(sizes, kind)
    own: dict[str, Any] = {"lr": beta, "alpha": alpha, "delta": delta, "hessian": hessian, "batch_size": size}
    update = update_of("per-fedavg", **own, local_epochs=1)
    plans = [engine.plans(update, client, 1)[0] for client in range(4)]
    outcomes = train_cohort(engine, update, W, range(4), [{}] * 4, 1)
    for plan, outcome in zip(plans, outcomes):
        assert isinstance(outcome, Trained)
        w, parts = W.double().numpy(), 2 if hessian == "none" else 3
        assert outcome.steps == len(plan.sizes) == max(-(-plan.samples // size) // parts, 1) * parts
        batches = np.split(plan.order, plan.sizes.cumsum()[:-1])
        for d, d1, *d2 in zip(*(batches[part::parts] for part in range(parts))):
            x = engine.task.samples.federation.x.astype(np.float64)
            g = gradient(w - alpha * gradient(w, x[d]), x[d1])
            if d2:
                ahead, behind = gradient(w + delta * g, x[d2[0]]), gradient(w - delta * g, x[d2[0]])
                exact = 2 * (3 * w * w - x[d2[0]].mean(0)) * g
                np.testing.assert_allclose((ahead - behind) / (2 * delta), exact, rtol=1e-2, atol=1e-2)
                g = g - alpha * (ahead - behind) / (2 * delta)
            w = w - beta * g
        np.testing.assert_allclose(outcome.uploads["w"], w, atol=2e-5)


@EACH_ENGINE
def test_a_client_is_served_the_adapted_global_model(kind: EngineKind) -> None:
    update = update_of("per-fedavg", lr=0.5, alpha=0.1, adapt_steps=2, batch_size=0)
    scoring = update.for_scoring()
    assert update.makes_for_scoring()
    for a, outcome in zip(A, train_cohort(quadratic(A, kind), scoring, W, range(3), [{}] * 3, 1)):
        assert isinstance(outcome, Trained)
        assert not outcome.uploads
        np.testing.assert_allclose(outcome.memory["u"], a + 0.81 * (W.numpy() - a), atol=1e-6)


@EACH_ENGINE
@pytest.mark.parametrize("hessian", ["none", "free"])
def test_without_alpha_it_is_fedavg_bit_for_bit(kind: EngineKind, hessian: str) -> None:
    """On the samples of D', which are all of the client's one; a meta-step counts as two mini-batches, or three."""
    parts = 2 if hessian == "none" else 3
    ours = update_of("per-fedavg", lr=0.1, alpha=0.0, hessian=hessian, local_steps=3 * parts)
    fedavg = update_of("fedavg", lr=0.1, local_steps=3)
    for mine, theirs in zip(
        train_cohort(quadratic(A, kind), ours, W, range(3), [{}] * 3, 1),
        train_cohort(quadratic(A, kind), fedavg, W, range(3), [{}] * 3, 1),
    ):
        assert isinstance(mine, Trained)
        assert isinstance(theirs, Trained)
        assert torch.equal(mine.uploads["w"], theirs.uploads["w"])


@pytest.mark.parametrize(
    ("budget", "n", "sizes"),
    [
        (Budget(4, epochs=1, multiple=2), 12, [4, 4]),
        (Budget(4, epochs=2, multiple=2), 10, [4, 4, 2, 4, 4, 2]),
        (Budget(4, epochs=1, multiple=3), 3, [3, 3, 3]),
        (Budget(4, steps=7, multiple=3), 10, [4, 4, 2, 4, 4, 2]),
        (Budget(0, steps=1, multiple=2), 10, [10, 10]),
    ],
)
def test_a_budget_of_whole_groups(budget: Budget, n: int, sizes: list[int]) -> None:
    assert budget.step_sizes(n).tolist() == sizes
    order, same = budget.order(n, np.random.default_rng(0))
    assert (len(order), same.tolist()) == (sum(sizes), sizes)
