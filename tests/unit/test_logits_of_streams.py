"""Methods that change logits, with terms that read those of further streams or look at parameters."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedtl.data.federation import Domain, Federation, Shards
from tests.parted import Parted, assert_same
from tests.parts import EACH_ENGINE, EngineKind, federation_of

LR, STEPS, PULL, DECAY = 0.2, 3, 2.0, 0.3
OBJECTIVE: list[dict[str, Any]] = [
    {"term": "cross_entropy"},
    {"term": "entropy"},
    {"term": "proximal", "weight": PULL},
    {"term": "l2", "weight": DECAY},
]


def with_target(sizes: Sequence[int] = (5, 7)) -> Federation:
    """Two clients that hold unlabelled samples of a target, too, of labelled ones so many."""
    base, rng = federation_of(sizes), np.random.default_rng(3)
    x = np.concatenate([base.x, 1 + rng.normal(size=(14, 6)).astype(np.float32)])
    places = np.arange(len(base.x), len(x))
    train, test = Shards.from_sizes(places[:12], np.array([6, 6])), Shards.from_sizes(places[12:], np.array([1, 1]))
    target = Domain(train, test, np.empty(0, np.int64))
    return replace(base, x=x, y=np.concatenate([base.y, np.zeros(14, np.int64)]), target=target)


def run_of(
    strategy: dict[str, Any], sampled: list[list[int]], kind: EngineKind, sizes: Sequence[int] = (5, 7)
) -> Parted:
    table, data = {"lr": LR, "local_steps": STEPS, **strategy}, {"target": {"name": "digits"}}
    return Parted(table, with_target(sizes), sampled, kind, objective=OBJECTIVE, data=data)


def rounds_of(run: Parted) -> list[Tensor]:
    """What travels after each round, of steps that are replayed where they are traced."""
    sent = run.rounds()
    assert run.engine.tracer is None or run.engine.tracer.replays_all, "a step ran eagerly"
    return sent


def target_of(run: Parted, client: int) -> Tensor:
    assert run.federation.target is not None
    return torch.from_numpy(run.federation.x[run.federation.target.train[client]])


def entropy(logits: Tensor) -> Tensor:
    return -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()


def on_parameters(module: nn.Module, received: nn.Module) -> Tensor:
    """The proximal term and the l2 one."""
    pairs = [*zip(module.parameters(), received.parameters())]
    near = sum((0.5 * (p - q.detach()).square().sum() for p, q in pairs), torch.zeros(()))
    return PULL * near + DECAY * 0.5 * sum((p.square().sum() for p, _ in pairs), torch.zeros(()))


def descend(loss: Tensor, along: list[Any]) -> None:
    gradients = torch.autograd.grad(loss, along)
    with torch.no_grad():
        for parameter, gradient in zip(along, gradients):
            parameter -= LR * gradient


@EACH_ENGINE
def test_feddbe(kind: EngineKind) -> None:
    """z̄_i^p is in the target's logits as well, and terms on parameters pull neither it nor what W has of it."""
    run = run_of({"name": "feddbe", "kappa": 0.0}, [[0, 1]], kind)
    (sent,) = rounds_of(run)
    trained = []
    for client in (0, 1):
        module, own, (x, y) = run.begun(), torch.zeros(4, requires_grad=True), run.samples(client)
        for _ in range(STEPS):
            logits, of_target = (module.head(torch.tanh(module.body(s)) + own) for s in (x, target_of(run, client)))  # type: ignore[operator]
            loss = F.cross_entropy(logits, y) + entropy(of_target) + on_parameters(module, run.begun())
            descend(loss, [*module.parameters(), own])
        torch.testing.assert_close(run.memory(client)["own"], own.detach(), rtol=1e-5, atol=1e-6)
        trained.append(module)
    rows = zip(*(module.parameters() for module in trained))
    assert_same(run.global_model(sent), [(5 * a + 7 * b) / 12 for a, b in rows])


@EACH_ENGINE
def test_apfl_whose_outputs_are_mixed(kind: EngineKind) -> None:
    """Those of the target as well."""
    alpha_lr, table = 0.5, {"name": "apfl", "mixing": "outputs", "alpha": 0.3, "adaptive": True, "alpha_steps": "all"}
    run = run_of({**table, "alpha_lr": alpha_lr}, [[0, 1]], kind)
    rounds_of(run)
    for client in (0, 1):
        w, v, first, alpha, (x, y) = run.begun(), run.begun(), run.begun(), 0.3, run.samples(client)
        other = target_of(run, client)

        def loss(of_w: float, of_v: float, moving: nn.Module) -> Tensor:
            own, more = (of_w * w(s) + of_v * v(s) for s in (x, other))  # noqa: B023
            return F.cross_entropy(own, y) + entropy(more) + on_parameters(moving, first)  # noqa: B023

        for _ in range(STEPS):
            descend(loss(1, 0, w), [*w.parameters()])
            gradients = [torch.autograd.grad(loss(1 - alpha, alpha, each), [*each.parameters()]) for each in (v, w)]
            with torch.no_grad():
                for p, g in zip(v.parameters(), gradients[0]):
                    p -= LR * g
                apart = [p - q for p, q in zip(v.parameters(), w.parameters())]
                along = [alpha * g + (1 - alpha) * h for g, h in zip(*gradients)]
                slope = float(sum((d * g).sum() for d, g in zip(apart, along))) + 0.02 * alpha
            alpha = min(max(alpha - alpha_lr * slope, 0), 1)
        assert 0 < alpha < 1
        torch.testing.assert_close(run.memory(client)["alpha"], torch.tensor([alpha]), rtol=1e-5, atol=1e-6)
        assert_same(run.module(run.memory(client)["v"]), v)


@EACH_ENGINE
def test_fedrod(kind: EngineKind) -> None:
    """Logits of labelled samples alone are balanced, and terms on parameters leave φ_m alone.

    Client 1 has no labelled samples, and client 0 none of some class.
    """
    run = run_of({"name": "fedrod"}, [[0], [1]], kind, sizes=(2, 0))
    sent = rounds_of(run)
    module = run.begun()
    for client, travelled in enumerate(sent):
        received = deepcopy(module)
        phi = [torch.zeros_like(p).requires_grad_() for p in module.head.parameters()]  # type: ignore[union-attr]
        (x, y), other = run.samples(client), target_of(run, client)
        counts = torch.bincount(y, minlength=3)
        prior = torch.where(counts > 0, counts.clamp(min=1).log(), torch.tensor(-1e4))

        def personal(samples: Tensor) -> Tensor:
            z = torch.tanh(module.body(samples)).detach()  # type: ignore[operator]
            return module(samples).detach() + F.linear(z, *phi)  # noqa: B023

        for _ in range(STEPS):
            generic = entropy(module(other)) + on_parameters(module, received)
            own = entropy(personal(other))
            if len(y):
                generic = generic + F.cross_entropy(module(x) + prior, y)
                own = own + F.cross_entropy(personal(x), y)
            descend(own, phi)  # of the model before its step, as ``own`` is made already
            descend(generic, [*module.parameters()])
        kept = torch.cat([p.detach().flatten() for p in phi])
        torch.testing.assert_close(run.memory(client)["phi"], kept, rtol=1e-5, atol=1e-6)
        assert_same(run.global_model(travelled), module)
