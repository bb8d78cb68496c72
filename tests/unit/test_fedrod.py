"""FedRoD (Chen and Chao 2022): balanced softmax for all, and a personal head beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedtl.choice import ConfigError
from fedtl.data.federation import Federation
from fedtl.models.vector import Layout
from tests.parted import Parted, assert_same, mean
from tests.parts import EACH_ENGINE, EngineKind, federation_of, update_of

SIZES = [4, 6, 9]
LR = 0.2


def skewed() -> Federation:
    """Client 0 has no samples of class 0, and the data set's first sample, which pads stacks, is of it."""
    federation = federation_of(SIZES)
    y = federation.y.copy()
    own = federation.train[0]
    y[own] = 1 + y[own] % 2
    y[0] = 0 if 0 not in own else y[0]
    return replace(federation, y=y)


def log_counts(y: Tensor) -> Tensor:
    return torch.bincount(y, minlength=3).log()


def by_hand(run: Parted, client: int, generic: nn.Module, phi: list[Tensor], steps: int, gamma: float = 1.0) -> None:
    """Steps of θ, ψ and φ on all of a client's samples, in place."""
    x, y = run.samples(client)
    for _ in range(steps):
        parameters = [*generic.parameters()]
        logits = generic(x)
        of_generic = torch.autograd.grad(
            F.cross_entropy(logits + gamma * log_counts(y), y), parameters, retain_graph=True
        )
        z = torch.tanh(generic.body(x)).detach()  # type: ignore[operator]
        weight, bias = (part.clone().requires_grad_() for part in phi)
        of_personal = torch.autograd.grad(
            F.cross_entropy(logits.detach() + F.linear(z, weight, bias), y), [weight, bias]
        )
        with torch.no_grad():
            for parameter, gradient in zip([*parameters, *phi], [*of_generic, *of_personal]):
                parameter -= LR * gradient


def assert_serves(run: Parted, client: int, generic: nn.Module, phi: list[Tensor], exactly: bool = False) -> None:
    own = run.served(client)
    assert_same(own.body, generic.body, exactly)  # type: ignore[arg-type]
    head = [a.detach() + b for a, b in zip(generic.head.parameters(), phi)]  # type: ignore[union-attr]
    assert_same(own.head, head, exactly)  # type: ignore[arg-type]


@EACH_ENGINE
@pytest.mark.parametrize(("start", "gamma"), [("zeros", 1.0), ("generic", 1.0), ("zeros", 0.5)])
def test_two_rounds_worked_out_by_hand(start: str, gamma: float, kind: EngineKind) -> None:
    federation = skewed()
    table = {"name": "fedrod", "local_epochs": 2, "personal_start": start} | ({} if gamma == 1 else {"gamma": gamma})
    run = Parted(table, federation, [[0, 2], [0, 1]], kind)
    sent = run.rounds()[-1]
    first = [p.detach().clone() for p in run.begun().head.parameters()]  # type: ignore[union-attr]
    phi = [[p.clone() if start == "generic" else torch.zeros_like(p) for p in first] for _ in SIZES]
    shared = run.begun()
    for clients in ([0, 2], [0, 1]):
        trained = []
        for client in clients:
            module = run.begun()
            module.load_state_dict(shared.state_dict())
            by_hand(run, client, module, phi[client], steps=2, gamma=gamma)
            trained.append(module)
        with torch.no_grad():
            for parameter, value in zip(shared.parameters(), mean(trained, [SIZES[c] for c in clients])):
                parameter.copy_(value)
    assert_same(run.global_model(sent), shared)
    for client in range(3):
        assert_serves(run, client, shared, phi[client])


def test_who_has_never_trained_is_served_by_the_generic_predictor() -> None:
    run = Parted({"name": "fedrod"}, skewed(), [[0, 2]])
    (sent,) = run.rounds()
    assert_same(run.served(1), run.global_model(sent), exactly=True)


@EACH_ENGINE
def test_with_as_many_samples_of_each_class_the_generic_predictor_is_fedavgs(kind: EngineKind) -> None:
    """To rounding: equal priors are a constant, which a softmax does not see, but its sums do."""
    federation = federation_of([6, 9])
    y = federation.y.copy()
    for client in range(2):
        y[federation.train[client]] = np.arange(len(federation.train[client])) % 3
    balanced = replace(federation, y=y)
    rounds = [
        Parted({"name": name, "momentum": 0.5, "local_epochs": 2}, balanced, [[0, 1], [0]], kind).rounds()
        for name in ("fedrod", "fedavg")
    ]
    for ours, theirs in zip(*rounds):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_without_gamma_the_generic_predictor_is_fedavgs() -> None:
    """Also where a client lacks a class."""
    rounds = [
        Parted({**table, "local_epochs": 2}, skewed(), [[0, 1], [0, 2]]).rounds()
        for table in ({"name": "fedrod", "gamma": 0.0}, {"name": "fedavg"})
    ]
    for ours, theirs in zip(*rounds):
        torch.testing.assert_close(ours, theirs)


def test_the_personal_head_has_a_rate_of_its_own() -> None:
    slow, fast = (Parted({"name": "fedrod", **own}, skewed(), [[1]]) for own in ({"personal_lr": 1e-3}, {}))
    assert torch.equal(slow.rounds()[0], fast.rounds()[0])
    sizes = [float(run.memory(1)["phi"].norm()) for run in (slow, fast)]
    assert sizes[0] == pytest.approx(sizes[1] * 1e-3 / LR, rel=1e-4)
    scaled = Parted({"name": "fedrod", "lr_scale": {"head": 0.5}}, skewed(), [[1]])
    scaled.rounds()
    assert float(scaled.memory(1)["phi"].norm()) == pytest.approx(sizes[1] / 2, rel=1e-4)


@EACH_ENGINE
def test_an_optimiser_steps_both(kind: EngineKind) -> None:
    table = {"name": "fedrod", "local_epochs": 3, "optimizer": {"name": "adam", "lr": 0.05}, "clip_norm": 1.0}
    run = Parted(table, skewed(), [[0, 1]], kind)
    (sent,) = run.rounds()
    other = Parted(table, skewed(), [[0, 1]])
    torch.testing.assert_close(sent, other.rounds()[0], rtol=1e-3, atol=1e-5)
    for client in (0, 1):
        assert float(run.memory(client)["phi"].abs().max()) == pytest.approx(3 * 0.05, rel=0.2)  # Adam's first steps
        torch.testing.assert_close(run.memory(client)["phi"], other.memory(client)["phi"], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("strategy", "says"),
    [
        ({"private": ["body"]}, "private = ['body']: FedRoD's personal heads are clients' own already; leave it out"),
        ({"frozen": ["head"]}, "no parameter of the part 'head' trains: strategy.frozen or model.adapter freezes it"),
    ],
)
def test_what_does_not_go_together(strategy: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        Parted({"name": "fedrod", **strategy}, skewed(), [[0]]).worker.update.round_loops  # noqa: B018
    assert says in str(error.value)


class TwoLayers(nn.Module):
    """Whose head is no linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(6, 4)
        self.head = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.base(x).relu())
        return out


@pytest.mark.parametrize("method", ["fedrod", "fedrod-hyper"])
def test_a_head_of_several_layers_is_refused(method: str) -> None:
    module = TwoLayers()
    layout = Layout.of(module)
    assert update_of(method, Layout.of(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))), lr=0.1).loops()
    own = frozenset(name for name, _ in module.named_parameters() if name.startswith("head"))
    several = replace(layout, parts=(("head", own),))
    with pytest.raises(ConfigError, match=r"its personal heads are linear, and the model's head has tensors of shapes"):
        update_of(method, several, lr=0.1).loops()
