"""A term may make the logits of a client's own predictor: training, methods and scores see them."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedtl.clients.contract import Count, Gradient, Memory, Probe, State, Vectors
from fedtl.clients.sgd import SGD
from fedtl.losses.batch import Batch, Sizes
from fedtl.losses.context import Layers, Net
from fedtl.losses.term import Term, TermContext
from tests.parted import Parted
from tests.parts import EACH_ENGINE, EngineKind, federation_of


class Gate(Term):
    """Features times a gate of the client's own."""

    needs: ClassVar[frozenset[str]] = frozenset({"samples", "features"})

    def modules(self, sizes: Sizes) -> dict[str, nn.Module]:
        assert sizes.model is not None
        return {"gate": nn.Linear(sizes.layers["features"], sizes.layers["features"])}

    def private(self) -> frozenset[str]:
        return frozenset({"gate"})

    def logits(self, net: Net, layers: Layers) -> Tensor:
        h = layers["features"]
        logits: Tensor = net.head()(torch.sigmoid(net.module("gate_gate")(h)) * h)
        return logits

    def value(self, context: TermContext) -> Tensor:
        return 0 * context.features.sum()


class Watch(SGD):
    """Keeps what its model makes of the first mini-batch, and what the objective's gradient is there."""

    def first_memory(self, received: Vectors) -> Memory:
        return {"logits": received["w"].new_zeros(12), "g": torch.zeros_like(received["w"])}

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        return {**super().start(received, memory, probe), **memory}

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        seen = grad.logits(state["w"], batch).flatten(-2)
        g = grad(state["w"], batch)
        return {**self.move(state, g.clone()), "logits": seen, "g": g}

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        return {"w": state["w"]}, {"logits": state["logits"], "g": state["g"]}


TERMS = [{"term": "cross_entropy"}, {"term": "tests.unit.test_own_predictors:Gate", "name": "gate"}]


def gated(run: Parted, vector: Tensor, x: Tensor) -> Tensor:
    model, (weight, bias) = run.module(vector), run.extra(vector, "gate_gate")
    h = torch.tanh(model.body(x))  # type: ignore[operator]
    logits: Tensor = model.head(torch.sigmoid(F.linear(h, weight, bias)) * h)  # type: ignore[operator]
    return logits


@EACH_ENGINE
def test_methods_and_terms_see_its_logits(kind: EngineKind) -> None:
    table = {"name": "tests.unit.test_own_predictors:Watch"}
    run = Parted(table, federation_of([4, 4]), [[0, 1]], kind, objective=TERMS)
    run.rounds()
    assert run.engine.tracer is None or run.engine.tracer.replays_all
    for client in range(2):
        x, y = run.samples(client)
        logits, memory = gated(run, run.initial, x), run.memory(client)
        # Its order is drawn; the sum over samples is not.
        torch.testing.assert_close(memory["logits"].view(4, 3).sum(0), logits.detach().sum(0))
        head = list(run.begun().head.parameters())  # type: ignore[union-attr]
        h = torch.tanh(run.begun().body(x))  # type: ignore[operator]
        weight, bias = run.extra(run.initial, "gate_gate")
        shut = F.linear(torch.sigmoid(F.linear(h, weight, bias)) * h, *head)
        expected = torch.autograd.grad(F.cross_entropy(shut, y), head)
        ours = [memory["g"][place] for place in run.task.layout.part("head")]
        for a, b in zip(ours, expected):
            torch.testing.assert_close(a, b.reshape(-1), rtol=1e-4, atol=1e-6)


@EACH_ENGINE
def test_who_has_trained_is_scored_by_it_and_others_by_the_global_model(kind: EngineKind) -> None:
    run = Parted({"name": "fedavg"}, federation_of([4, 6]), [[0]], kind, objective=TERMS)
    (sent,) = run.rounds()
    for client in range(2):
        index = run.federation.test[client]
        x, y = torch.from_numpy(run.federation.x[index]), torch.from_numpy(run.federation.y[index])
        with torch.no_grad():
            plain = float(F.cross_entropy(run.global_model(sent)(x), y, reduction="sum"))
            own = float(F.cross_entropy(gated(run, run.own(client, sent), x), y, reduction="sum"))
        score = run.score_of(client)
        assert score["global/loss_sum"] == pytest.approx(plain, rel=1e-5)
        assert score["personal/loss_sum"] == pytest.approx(plain if client else own, rel=1e-5)
    assert own != pytest.approx(plain, rel=1e-3)
