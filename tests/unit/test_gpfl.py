"""GPFL (Zhang et al. 2023): class embeddings guide global features, and personal ones make the logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedtl.choice import ConfigError
from fedtl.config.read import build
from fedtl.engine import OneByOne
from tests.parted import Parted
from tests.parts import EACH_ENGINE, EngineKind, federation_of

SIZES = [4, 6, 9]
LR, LAM, MU = 0.2, 0.3, 0.05
Parameters = dict[str, list[Tensor]]


class Relu(nn.Module):
    """A body whose features are not negative, and a head."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(input_shape[0], 4), nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.body(x)))
        return logits


def parted(table: dict[str, Any], sampled: list[list[int]], kind: EngineKind = OneByOne, **more: Any) -> Parted:
    return Parted({"name": "gpfl", "lam": LAM, "mu": MU, **table}, federation_of(SIZES), sampled, kind, **more)


def shared_of(run: Parted, whole: Tensor) -> Parameters:
    """W^fe, V and C in a model ``[d]``."""
    body = [p.detach().clone() for p in run.module(whole).body.parameters()]  # type: ignore[union-attr]
    return {"body": body, "valve": run.extra(whole, "gpfl_valve"), "C": run.extra(whole, "gpfl_embeddings")}


def head_of(run: Parted, whole: Tensor) -> list[Tensor]:
    return [p.detach().clone() for p in run.module(whole).head.parameters()]  # type: ignore[union-attr]


def valve(f: Tensor, condition: Tensor, numbers: list[Tensor]) -> Tensor:
    gamma, beta = (
        F.layer_norm(F.linear(condition, weight, bias).relu(), (4,), scale, shift)
        for weight, bias, scale, shift in (numbers[:4], numbers[4:])
    )
    return ((gamma + 1) * f + beta).relu()


def inputs(C: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The conditional inputs g and p_i."""
    counts = torch.bincount(y, minlength=len(C)).float()
    return C.mean(0), counts @ C / len(y)


def predicted(x: Tensor, shared: Parameters, head: list[Tensor], p: Tensor) -> Tensor:
    f = torch.tanh(F.linear(x, *shared["body"]))
    return F.linear(valve(f, p, shared["valve"]), *head)


def by_hand(
    x: Tensor, y: Tensor, shared: Parameters, head: list[Tensor], g: Tensor, p: Tensor, steps: int, whole: bool = False
) -> Parameters:
    """Steps of a client on all of its samples: what it has trained."""
    moving = {name: [q.clone().requires_grad_() for q in part] for name, part in {**shared, "head": head}.items()}
    still = shared["C"][0][y]
    for _ in range(steps):
        f_G = valve(torch.tanh(F.linear(x, *moving["body"])), g, moving["valve"])
        cosines = F.normalize(f_G) @ F.normalize(moving["C"][0]).T
        angle = -(cosines[torch.arange(len(y)), y].exp() / cosines.exp().sum(1)).log().mean()
        magnitude = (f_G - still).norm() if whole else (f_G - still).norm(dim=1).mean()
        loss = F.cross_entropy(predicted(x, moving, moving["head"], p), y) + angle + LAM * magnitude
        every = [(name, q) for name, part in moving.items() for q in part]
        gradients = torch.autograd.grad(loss, [q for _, q in every])
        with torch.no_grad():
            for (name, q), gradient in zip(every, gradients):
                q -= LR * (gradient + MU * q if name in ("valve", "C") else gradient)
    return {name: [q.detach() for q in part] for name, part in moving.items()}


def mean_of(each: list[Parameters], clients: list[int]) -> Parameters:
    total = sum(SIZES[client] for client in clients)

    def mean(*parts: Tensor) -> Tensor:
        return torch.stack([SIZES[client] / total * part for client, part in zip(clients, parts)]).sum(0)

    return {name: [mean(*parts) for parts in zip(*(one[name] for one in each))] for name in each[0]}


def expected_loss(run: Parted, client: int, shared: Parameters, head: list[Tensor], C: Tensor) -> tuple[float, int]:
    """The sum of losses, and the number of right answers, of a client's own predictor whose inputs are made of C."""
    index = run.federation.test[client]
    x, y = torch.from_numpy(run.federation.x[index]), torch.from_numpy(run.federation.y[index])
    said = predicted(x, shared, head, inputs(C, run.samples(client)[1])[1])
    return float(F.cross_entropy(said, y, reduction="sum")), int((said.argmax(1) == y).sum())


@EACH_ENGINE
@pytest.mark.parametrize("magnitude", ["sample", "batch"])
def test_two_rounds_worked_out_by_hand(magnitude: str, kind: EngineKind) -> None:
    sampled = [[0, 2], [0, 1]]
    run = parted({"local_epochs": 2, "magnitude": magnitude}, sampled, kind)
    sent, shared = run.rounds()[-1], shared_of(run, run.initial)
    heads = [head_of(run, run.initial) for _ in SIZES]
    for clients in sampled:
        trained = []
        for client in clients:
            x, y = run.samples(client)
            own = by_hand(x, y, shared, heads[client], *inputs(shared["C"][0], y), 2, magnitude == "batch")
            heads[client] = own.pop("head")
            trained.append(own)
        shared = mean_of(trained, clients)
    whole = run.task.whole(sent, run.initial)
    torch.testing.assert_close(shared_of(run, whole), shared, rtol=1e-4, atol=1e-5)
    for client, head in enumerate(heads):
        torch.testing.assert_close(head_of(run, run.own(client, sent)), head, rtol=1e-4, atol=1e-5)
        loss, correct = expected_loss(run, client, shared, head, shared["C"][0])
        score = run.score_of(client)
        assert score["personal/loss_sum"] == pytest.approx(loss, rel=1e-4)
        assert score["personal/correct"] == correct
        assert "global/loss_sum" not in score  # without a head there is no global model


@EACH_ENGINE
@pytest.mark.parametrize("magnitude", ["sample", "batch"])
def test_padding_does_not_count(magnitude: str, kind: EngineKind) -> None:
    """Stacked clients of unlike sizes are padded, and train as each does alone."""
    ours, alone = (
        parted({"batch_size": 8, "magnitude": magnitude}, [[0, 1, 2]], each).rounds()[0] for each in (kind, OneByOne)
    )
    torch.testing.assert_close(ours, alone, rtol=1e-4, atol=1e-5)


@EACH_ENGINE
def test_a_still_valve_that_is_open_and_equal_embeddings_are_fedper(kind: EngineKind) -> None:
    """To rounding: the guidance's gradient is a sum of numbers that cancel, and is added to the others."""
    model = {"name": "tests.unit.test_gpfl:Relu"}
    still = {"extras.gpfl_valve": 1e-20, "extras.gpfl_embeddings": 1e-20}
    sampled = [[0, 2], [0, 1]]
    run = parted({"lam": 0.0, "mu": 0.0, "lr_scale": still, "local_epochs": 2}, sampled, kind, model=model)
    for part, value in (("gpfl_valve", 0.0), ("gpfl_embeddings", 1.0)):
        for place in run.task.layout.part(f"extras.{part}"):
            run.initial[place] = value
    run.worker.initial = run.initial
    plain = {"name": "fedper", "private_start": "common", "local_epochs": 2}
    fedper = Parted(plain, federation_of(SIZES), sampled, kind, model=model)
    ours, theirs = run.rounds()[-1], fedper.rounds()[-1]
    torch.testing.assert_close(ours[: len(theirs)], theirs, rtol=1e-5, atol=1e-6)
    for client in range(3):
        torch.testing.assert_close(
            head_of(run, run.own(client, ours)), head_of(fedper, fedper.own(client, theirs)), rtol=1e-5, atol=1e-6
        )
        loss = fedper.score_of(client)["personal/loss_sum"]
        assert run.score_of(client)["personal/loss_sum"] == pytest.approx(loss, rel=1e-4)


@EACH_ENGINE
def test_the_authors_inputs_are_those_of_the_round_before(kind: EngineKind) -> None:
    """Zeros at first; then of what a client trained in the round before, or held in it."""
    sampled = [[0], [0, 1], [1, 2]]
    run = parted({"inputs": "own"}, sampled, kind)
    sent, shared = run.rounds(), shared_of(run, run.initial)
    held = dict.fromkeys(range(3), torch.zeros(3, 4))
    heads = [head_of(run, run.initial) for _ in SIZES]
    for clients, after in zip(sampled, sent):
        now, trained = dict.fromkeys(range(3), shared["C"][0]), []
        for client in clients:
            x, y = run.samples(client)
            own = by_hand(x, y, shared, heads[client], *inputs(held[client], y), 1)
            heads[client], now[client] = own.pop("head"), own["C"][0]
            trained.append(own)
        held, shared = now, mean_of(trained, clients)
        whole = run.task.whole(after, run.initial)
        torch.testing.assert_close(shared_of(run, whole), shared, rtol=1e-4, atol=1e-5)
    for client in range(3):
        loss, _ = expected_loss(run, client, shared, heads[client], held[client])
        assert run.score_of(client)["personal/loss_sum"] == pytest.approx(loss, rel=1e-4)


def test_mu_is_a_decay_of_valve_and_embeddings_alone() -> None:
    none, some = (parted({"mu": mu, "lr": 1e-7, "lam": 0.0}, [[0]]) for mu in (0.0, 1e6))
    without, decayed = (shared_of(run, run.task.whole(run.rounds()[0], run.initial)) for run in (none, some))
    begun = shared_of(none, none.initial)
    torch.testing.assert_close(without, begun, rtol=1e-5, atol=1e-6)
    for name in ("C", "valve"):
        torch.testing.assert_close(decayed[name], [0.9 * p for p in begun[name]], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(decayed["body"], begun["body"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "own", [{"momentum": 0.9, "weight_decay": 0.1}, {"optimizer": {"name": "adam", "weight_decay": 0.1}}]
)
def test_the_inputs_stand_still_under_any_optimiser(own: dict[str, Any]) -> None:
    run = parted({"local_epochs": 3, **own}, [[0]])
    (sent,) = run.rounds()
    g, p = run.extra(run.own(0, sent), "gpfl_inputs")
    expected = inputs(run.extra(run.initial, "gpfl_embeddings")[0], run.samples(0)[1])
    torch.testing.assert_close((g, p), expected)


def test_what_travels_has_neither_head_nor_inputs() -> None:
    run = parted({}, [[0, 1]])
    (sent,) = run.rounds()
    body, valves, embeddings = 6 * 4 + 4, 2 * (4 * 4 + 4 + 8), 3 * 4
    assert len(sent) == body + valves + embeddings


@pytest.mark.parametrize(
    ("strategy", "match"),
    [({"private": []}, "GPFL's personal head stays"), ({"mu": -1.0}, "mu"), ({"magnitude": "all"}, "magnitude")],
)
def test_what_makes_no_sense_is_one_sentence(strategy: dict[str, Any], match: str) -> None:
    table = {
        "name": "gpfl",
        "rounds": 1,
        "data": {"name": "digits", "clients": 3},
        "model": {"name": "mlp"},
        "strategy": {"name": "gpfl", "lr": 0.1, **strategy},
    }
    with pytest.raises(ConfigError, match=match):
        build(table)
