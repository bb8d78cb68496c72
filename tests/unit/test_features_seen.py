"""What a method sees of features: a mini-batch's in a step, and sums over all of a client's samples."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedtl.clients.contract import ClientUpdate, Count, Gradient, Memory, Probe, State, Vectors
from fedtl.clients.settings import Settings
from fedtl.engine import Trained
from fedtl.engine import engine as engines
from fedtl.losses.batch import Batch
from tests.parted import Net
from tests.parts import EACH_ENGINE, EngineKind, engine_of, federation_of, train_cohort

SIZES = [3, 8]
FEATURES = 4


class Sees(ClientUpdate[Settings]):
    """Plain SGD that notes what it sees."""

    rows: ClassVar[tuple[str, ...]] = ("seen", "logits", "sums")

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        def of(features: Tensor, labels: Tensor) -> Tensor:
            by_class = features.new_zeros(3, FEATURES).index_add_(0, labels, features)
            return torch.cat([features.new_full((1,), len(features)), by_class.flatten()])

        w = received["w"]
        nothing = {"seen": w.new_zeros(*w.shape[:-1], FEATURES), "logits": w.new_zeros(*w.shape[:-1], 3)}
        return {"w": w, **nothing, "sums": probe.sums(w, of)}

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        w = state["w"]
        seen, logits = grad.features(w, batch).sum(-2), grad.logits(w, batch).sum(-2)
        return {**state, "w": w - 0.5 * grad(w, batch), "seen": state["seen"] + seen, "logits": logits}

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        return {**state}, {}


def hidden(module: nn.Module, x: Tensor) -> Tensor:
    return torch.tanh(module.norm(module.body(x)))  # type: ignore[operator]


@EACH_ENGINE
@pytest.mark.parametrize("norm", [False, True])
def test_features_are_what_the_head_receives(norm: bool, kind: EngineKind, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training mode in a step, which moves batch-norm's statistics once all the same; in evaluation in sums."""
    monkeypatch.setattr(engines, "STATISTIC_BLOCK", 3)  # so that there are several blocks
    torch.manual_seed(0)
    federation, module = federation_of(SIZES), Net((6,), 3, norm)
    began = deepcopy(module)
    engine = engine_of(federation, deepcopy(module), kind)
    settings = Settings(name="sees", lr=0.5, batch_size=0, local_steps=2)
    w = engine.task.layout.flatten(module)
    outcomes: list[Any] = train_cohort(engine, Sees(settings, engine.task.layout), w, [0, 1], [{}, {}], 1)
    for client, outcome in enumerate(outcomes):
        assert isinstance(outcome, Trained), outcome
        own = federation.train[client]
        x, y = torch.from_numpy(federation.x[own]), torch.from_numpy(federation.y[own])
        model, seen = deepcopy(began).eval(), torch.zeros(FEATURES)
        by_class = torch.stack([hidden(model, x)[y == k].sum(0) for k in range(3)]).detach()
        expected = torch.cat([torch.tensor([float(len(own))]), by_class.flatten()])
        torch.testing.assert_close(outcome.uploads["sums"], expected, rtol=1e-5, atol=1e-6)
        model.train()
        for _ in range(2):
            gradients = torch.autograd.grad(F.cross_entropy(model(x), y), [*model.parameters()])
            twin = deepcopy(model)
            seen, logits = seen + hidden(twin, x).sum(0).detach(), deepcopy(model)(x).sum(0).detach()
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients):
                    parameter -= 0.5 * gradient
        torch.testing.assert_close(outcome.uploads["seen"], seen, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(outcome.uploads["logits"], logits, rtol=1e-5, atol=1e-5)
        whole = outcome.uploads["w"]
        torch.testing.assert_close(whole, engine.task.layout.flatten(model), rtol=1e-5, atol=1e-5)


def test_a_look_at_a_trial_client_has_vectors_of_the_same_lengths() -> None:
    samples = torch.ones(2, 1)
    probe = Probe.of_trial(samples, 3, lambda: FEATURES)
    sums = probe.sums(torch.zeros(2, 5), lambda features, labels: torch.cat([features.sum(0), labels.float()]))
    assert sums.shape == (2, FEATURES + 3)
