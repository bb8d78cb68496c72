"""FedCP (Zhang et al. 2023): a policy shares features out to a global head and to a personal one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fedtl
from fedtl.choice import ConfigError
from fedtl.config.read import build
from fedtl.engine import OneByOne
from tests.parted import Parted
from tests.parts import EACH_ENGINE, ENGINES, EngineKind, federation_of

SIZES = [4, 6, 9]
LR, LAM = 0.2, 0.7
Parameters = dict[str, list[Tensor]]


class Bare(nn.Module):
    """A body, and a head without biases."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(input_shape[0], 4), nn.Linear(4, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.body(x)))
        return logits


class Called(nn.Module):
    """A head by another name."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(input_shape[0], 4), nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(torch.tanh(self.body(x)))
        return logits


class Deep(nn.Module):
    """A body and a head of two layers, or one of another kind."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, bilinear: bool = False) -> None:
        super().__init__()
        self.body, last = nn.Linear(input_shape[0], 4), nn.Linear(5, classes)
        self.head: nn.Module = Squares(classes) if bilinear else nn.Sequential(nn.Linear(4, 5), nn.ReLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.body(x)))
        return logits


class Squares(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.form = nn.Bilinear(4, 4, classes)

    def forward(self, h: Tensor) -> Tensor:
        logits: Tensor = self.form(h, h)
        return logits


def parted(table: dict[str, Any], sampled: list[list[int]], kind: EngineKind = OneByOne, **more: Any) -> Parted:
    return Parted({"name": "fedcp", **table}, federation_of(SIZES), sampled, kind, **more)


def first(run: Parted) -> Parameters:
    """W^fe, W^hd and Θ as they begin."""
    model = run.begun()
    body, head = ([p.detach().clone() for p in part.parameters()] for part in (model.body, model.head))  # type: ignore[union-attr]
    return {"body": body, "head": head, "policy": run.extra(run.initial, "fedcp_policy")}


def predicted(x: Tensor, body: list[Tensor], policy: list[Tensor], own: list[Tensor], head: list[Tensor]) -> Tensor:
    """What a client's predictor says, v_i being of the head that it has kept."""
    return outputs(x, {"body": body, "policy": policy, "own": own}, head, own[0].sum(0))


def outputs(x: Tensor, moving: Parameters, head: list[Tensor], v: Tensor) -> Tensor:
    h = torch.tanh(F.linear(x, *moving["body"]))
    weight, bias, scale, shift = moving["policy"]
    a = F.layer_norm(F.linear(v / v.norm() * h, weight, bias), (8,), scale, shift).relu().reshape(-1, 2, 4).exp()
    s = a[:, 0] / a.sum(1)
    return F.linear(s * h, *moving["own"]) + F.linear((1 - s) * h, *head)


def discrepancy(a: Tensor, b: Tensor) -> Tensor:
    """Of the kernels Σ exp(-‖x - y‖² / 2σ²), pair by pair."""

    def k(x: Tensor, y: Tensor) -> Tensor:
        apart = (x[:, None] - y[None]).square().sum(-1)
        return torch.stack([(-apart / (2 * square)).exp() for square in (10, 15, 20, 50)]).sum(0).mean()

    return k(a, a) + k(b, b) - 2 * k(a, b)


def by_hand(x: Tensor, y: Tensor, shared: Parameters, own: list[Tensor], steps: int) -> Parameters:
    """Steps of a client on all of its samples: what it has trained."""
    v = own[0].sum(0)
    begin = {"body": shared["body"], "policy": shared["policy"], "own": own}
    moving = {name: [p.clone().requires_grad_() for p in part] for name, part in begin.items()}
    still = torch.tanh(F.linear(x, *shared["body"]))
    for _ in range(steps):
        h = torch.tanh(F.linear(x, *moving["body"]))
        loss = F.cross_entropy(outputs(x, moving, shared["head"], v), y) + LAM * discrepancy(h, still)
        every = [p for part in moving.values() for p in part]
        gradients = torch.autograd.grad(loss, every)
        with torch.no_grad():
            for p, gradient in zip(every, gradients):
                p -= LR * gradient
    return {name: [p.detach() for p in part] for name, part in moving.items()}


def held_out(run: Parted, client: int) -> tuple[Tensor, Tensor]:
    """A client's test samples and their labels."""
    index = run.federation.test[client]
    return torch.from_numpy(run.federation.x[index]), torch.from_numpy(run.federation.y[index])


@EACH_ENGINE
def test_two_rounds_worked_out_by_hand(kind: EngineKind) -> None:
    sampled = [[0, 2], [0, 1]]
    run = parted({"lam": LAM, "local_epochs": 2}, sampled, kind)
    sent, shared = run.rounds()[-1], first(run)
    heads = [[p.clone() for p in shared["head"]] for _ in SIZES]
    for clients in sampled:
        sums = {name: [torch.zeros_like(p) for p in part] for name, part in shared.items()}
        for client in clients:
            trained = by_hand(*run.samples(client), shared, heads[client], steps=2)
            heads[client] = trained.pop("own")
            trained["head"] = [(p + q) / 2 for p, q in zip(heads[client], shared["head"])]
            for name, part in trained.items():
                for total, p in zip(sums[name], part):
                    total += SIZES[client] / sum(SIZES[c] for c in clients) * p
        shared = sums
    whole = run.task.whole(sent, run.initial)
    body, head = ([p.detach() for p in getattr(run.module(whole), part).parameters()] for part in ("body", "head"))
    ours = {"body": body, "head": head, "policy": run.extra(whole, "fedcp_policy")}
    torch.testing.assert_close(ours, shared, rtol=1e-4, atol=1e-6)
    for client, own in enumerate(heads):
        torch.testing.assert_close(run.extra(run.own(client, sent), "fedcp_head"), own, rtol=1e-4, atol=1e-6)
        x, y = held_out(run, client)
        said = predicted(x, shared["body"], shared["policy"], own, shared["head"])
        score = run.score_of(client)
        assert score["personal/loss_sum"] == pytest.approx(float(F.cross_entropy(said, y, reduction="sum")), rel=1e-4)
        assert score["personal/correct"] == int((said.argmax(1) == y).sum())
        plain = F.cross_entropy(F.linear(torch.tanh(F.linear(x, *shared["body"])), *shared["head"]), y, reduction="sum")
        assert score["global/loss_sum"] == pytest.approx(float(plain), rel=1e-4)


@EACH_ENGINE
def test_an_even_policy_is_fedavg_whose_head_learns_at_a_quarter_of_the_rate(kind: EngineKind) -> None:
    """Of clients that train for the first time, to rounding.

    Then r = s = ½, and out_i = U h with U = (W^hd + W_i^hd) / 2; W_i^hd sees half of U's gradient, and U half of its
    step. The policy's own gradients are 1e-8 of the others.
    """
    model = {"name": "tests.unit.test_fedcp:Bare"}
    run = parted({"lam": 0.0, "tau": 1e8, "local_epochs": 3}, [[0, 1, 2]], kind, model=model)
    plain = {"name": "fedavg", "lr_scale": {"head": 0.25}, "local_epochs": 3}
    fedavg = Parted(plain, federation_of(SIZES), [[0, 1, 2]], kind, model=model)
    ours, theirs = run.global_model(run.rounds()[0]), fedavg.global_model(fedavg.rounds()[0])
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-5, atol=1e-6)


@EACH_ENGINE
@pytest.mark.parametrize("part", ["head", "fc"])
def test_a_factor_of_the_heads_rate_is_the_personal_ones(part: str, kind: EngineKind) -> None:
    """In a first step, by whichever name the head has."""
    model = {"name": "tests.unit.test_fedcp:Called"}
    heads = []
    for own in ({}, {"lr_scale": {part: 3.0}}):
        run = parted({"local_steps": 1, **own}, [[0, 1]], kind, model=model)
        (sent,) = run.rounds()
        heads.append([p for client in (0, 1) for p in run.extra(run.own(client, sent), "fedcp_head")])
    began = [p.detach() for p in run.begun().fc.parameters()] * 2  # type: ignore[union-attr]
    for plain, scaled, first in zip(*heads, began, strict=True):
        torch.testing.assert_close(scaled - first, 3 * (plain - first), rtol=1e-4, atol=1e-6)


def test_without_lambda_nothing_is_asked_of_the_received_extractor() -> None:
    run = parted({"lam": 0.0}, [[0, 1]])
    run.rounds()
    assert run.losses[0]["fedcp"] == 0.0
    assert run.task.objective.outside == []


@pytest.mark.parametrize(
    "own", [{"momentum": 0.9, "weight_decay": 0.1}, {"optimizer": {"name": "adam", "weight_decay": 0.1}}]
)
def test_the_global_head_and_the_context_stand_still_under_any_optimiser(own: dict[str, Any]) -> None:
    run = parted({"local_epochs": 3, **own}, [[0]])
    (sent,) = run.rounds()
    whole = run.own(0, sent)
    begun, head = first(run)["head"], run.extra(whole, "fedcp_head")
    assert not torch.equal(head[0], begun[0])
    # What is sent is half the one head and half the other: the global one is what it was.
    uploaded = [p.detach() for p in run.module(whole).head.parameters()]  # type: ignore[union-attr]
    for mean, p, q in zip(uploaded, begun, head):
        torch.testing.assert_close(mean, (p + q) / 2, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(run.extra(whole, "fedcp_context")[0], head[0].sum(0))


def test_who_has_never_trained_is_served_by_the_present_parts_and_its_first_head() -> None:
    run = parted({"lam": LAM}, [[0, 2]])
    (sent,) = run.rounds()
    whole = run.task.whole(sent, run.initial)
    body, head = ([p.detach() for p in getattr(run.module(whole), part).parameters()] for part in ("body", "head"))
    x, y = held_out(run, 1)
    said = predicted(x, body, run.extra(whole, "fedcp_policy"), first(run)["head"], head)
    expected = float(F.cross_entropy(said, y, reduction="sum"))
    assert run.score_of(1)["personal/loss_sum"] == pytest.approx(expected, rel=1e-5)


@EACH_ENGINE
def test_with_the_last_global_parts_a_client_goes_on_with_those_of_its_last_round(kind: EngineKind) -> None:
    """Client 1 begins in round 2 with the first head and policy, and the extractor of round 1."""
    late = parted({"lam": LAM, "global_parts": "last"}, [[0], [1]], kind)
    rounds, shared = late.rounds(), first(late)
    shared["body"] = [p.detach() for p in late.global_model(rounds[0]).body.parameters()]  # type: ignore[union-attr]
    trained = by_hand(*late.samples(1), shared, shared["head"], steps=1)
    own = late.own(1, rounds[1])
    torch.testing.assert_close(late.extra(own, "fedcp_head"), trained["own"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(late.extra(own, "fedcp_policy"), trained["policy"], rtol=1e-4, atol=1e-6)
    present = parted({"lam": LAM}, [[0], [1]], kind)
    assert not torch.allclose(present.rounds()[1], rounds[1], rtol=1e-4, atol=1e-6)


def test_a_first_context_may_be_random() -> None:
    runs = [parted({"lam": LAM, **own}, [[0]]) for own in ({}, {"first_context": "random"})]
    of_head, random = (run.own(0, run.rounds()[0]) for run in runs)
    assert not torch.allclose(of_head, random)
    before = runs[1].extra(runs[1].initial, "fedcp_context")[0]
    assert float(before.min()) >= 0
    assert float(before.max()) < 1
    after = runs[1].extra(random, "fedcp_context")[0]  # from then on it is its head's
    torch.testing.assert_close(after, runs[1].extra(random, "fedcp_head")[0].sum(0))


def test_the_context_of_a_deep_head_is_that_of_the_product_of_its_weights() -> None:
    run = parted({"lam": LAM}, [[0]], model={"name": "tests.unit.test_fedcp:Deep"})
    own = run.own(0, run.rounds()[0])
    weights = [p for p in run.extra(own, "fedcp_head") if p.ndim == 2]
    torch.testing.assert_close(run.extra(own, "fedcp_context")[0], (weights[1] @ weights[0]).sum(0))


def test_a_head_of_other_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'fedcp'.*made of linear layers"):
        parted({}, [[0]], model={"name": "tests.unit.test_fedcp:Deep", "bilinear": True})


def test_gumbel_noise_is_the_clients_own_and_the_same_again() -> None:
    kinds = [ENGINES["one by one"], ENGINES["one by one"], ENGINES["one by one, traced"]]
    noisy = [parted({"gumbel": True, "batch_size": 3}, [[0, 1]], kind) for kind in kinds]
    once, again, traced = (run.rounds()[0] for run in noisy)
    assert torch.equal(once, again)
    torch.testing.assert_close(traced, once, rtol=1e-4, atol=1e-6)  # to rounding: the noise is the same
    assert noisy[2].engine.tracer is not None
    assert noisy[2].engine.tracer.replays_all
    assert not torch.allclose(parted({"batch_size": 3}, [[0, 1]]).rounds()[0], once, atol=1e-3)
    alone = parted({"gumbel": True, "batch_size": 3}, [[0]])
    sent = alone.rounds()[0]
    own = noisy[0].extra(noisy[0].own(0, once), "fedcp_head"), alone.extra(alone.own(0, sent), "fedcp_head")
    assert all(torch.equal(a, b) for a, b in zip(*own)), "another client's training changed this one's noise"
    assert noisy[0].score_of(0) == noisy[0].score_of(0)  # a policy that is scored has none


def tables(strategy: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "name": "fedcp",
        "rounds": 1,
        "device": "cpu",
        "data": {"name": "digits", "clients": 3, "samples": 90, "partition": {"name": "iid"}},
        "model": {"name": "mlp", "hidden": [5]},
        "strategy": {"name": "fedcp", "lr": 0.1, "local_steps": 2, **strategy},
        "simulation": {"grid": "in-process"},
        **more,
    }


def test_noise_is_not_for_stacks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"simulation\.stacked = true: .* the term 'fedcp' draws random numbers"):
        fedtl.run(tables({"gumbel": True}, simulation={"grid": "in-process", "stacked": True}), out=tmp_path / "a")
    run = fedtl.run(tables({"gumbel": True}), out=tmp_path / "b")
    assert "one by one" in str(run.environment["engine"])


@pytest.mark.parametrize(
    ("strategy", "more", "match"),
    [
        ({"private": ["head"]}, {}, "FedCP's personal head stays already"),
        ({"lam": -1.0}, {}, "lam"),
        ({}, {"objective": [{"term": "cross_entropy"}, {"term": "mutual"}]}, "'mutual'.*'fedcp'"),
        ({}, {"evaluate": {"personal": "stored"}}, "adapted"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(strategy: dict[str, Any], more: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        build(tables(strategy, **more))
