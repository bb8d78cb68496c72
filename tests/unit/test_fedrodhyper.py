"""FedRoD (Chen and Chao 2022) whose personal heads a hypernetwork makes of class distributions."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedtl.choice import ConfigError
from tests.parted import Parted, assert_same, mean
from tests.parts import EACH_ENGINE, EngineKind
from tests.unit.test_fedrod import LR, SIZES, log_counts, skewed

HIDDEN = 5
TABLE = {"name": "fedrod-hyper", "hyper_hidden": HIDDEN}


def hypernetwork(run: Parted, nu: Tensor) -> nn.Sequential:
    """With the numbers of ν: A, b, W, c; it gives the head's weight, row by row, and its bias."""
    head = sum(p.numel() for p in run.begun().head.parameters())  # type: ignore[union-attr]
    network = nn.Sequential(nn.Linear(3, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, head))
    nn.utils.vector_to_parameters(nu.clone(), network.parameters())
    return network


def head_of(run: Parted, numbers: Tensor) -> list[Tensor]:
    """A head's weight and bias out of its numbers as the vector has them."""
    module, vector = deepcopy(run.task.module), torch.zeros(run.task.layout.size)
    places = torch.cat([torch.arange(own.start, own.stop) for own in run.task.layout.part("head")])
    vector = vector.index_put((places,), numbers.detach())
    run.task.layout.load(module, vector)
    return [p.detach().clone() for p in module.head.parameters()]  # type: ignore[union-attr]


def distribution(y: Tensor) -> Tensor:
    return torch.bincount(y, minlength=3) / len(y)


def logits_of(run: Parted, z: Tensor, numbers: Tensor) -> Tensor:
    """h(z; φ), differentiable in φ's numbers: the head is linear in them."""
    ways = torch.eye(len(numbers))
    basis = torch.stack([F.linear(z, *head_of(run, way)) for way in ways])
    return torch.einsum("h,hbk->bk", numbers, basis)


@EACH_ENGINE
def test_a_round_worked_out_by_hand(kind: EngineKind) -> None:
    run = Parted({**TABLE, "local_epochs": 2}, skewed(), [[0, 2]], kind)
    nu = run.server.first_state(run.task.sent(run.initial))["nu"]
    (sent,) = run.rounds()
    generics, hypers = [], []
    for client in (0, 2):
        generic, hyper, (x, y) = run.begun(), hypernetwork(run, nu), run.samples(client)
        for _ in range(2):
            logits = generic(x)
            of_generic = torch.autograd.grad(F.cross_entropy(logits + log_counts(y), y), [*generic.parameters()])
            z = torch.tanh(generic.body(x)).detach()  # type: ignore[operator]
            personal = logits.detach() + logits_of(run, z, hyper(distribution(y)))
            of_hyper = torch.autograd.grad(F.cross_entropy(personal, y), [*hyper.parameters()])
            with torch.no_grad():
                for p, g in zip([*generic.parameters(), *hyper.parameters()], [*of_generic, *of_hyper]):
                    p -= LR * g
        generics.append(generic)
        hypers.append(hyper)
    weights = [SIZES[0], SIZES[2]]
    shared = run.global_model(sent)
    assert_same(shared, mean(generics, weights))
    expected = torch.cat([p.reshape(-1) for p in mean(hypers, weights)])
    torch.testing.assert_close(run.server.state["nu"], expected, rtol=1e-5, atol=1e-6)
    network = hypernetwork(run, expected)
    for client in range(3):  # also the one that has never trained
        own, (_, y) = run.served(client), run.samples(client)
        assert_same(own.body, shared.body)  # type: ignore[arg-type]
        more = head_of(run, network(distribution(y)))
        head = [a.detach() + b for a, b in zip(shared.head.parameters(), more)]  # type: ignore[union-attr]
        assert_same(own.head, head)  # type: ignore[arg-type]
        assert not run.memory(client)


@pytest.mark.parametrize("gamma", [1.0, 0.5])
def test_its_generic_predictor_is_that_of_linear_heads(gamma: float) -> None:
    """The personal loss reaches neither θ nor ψ."""
    own = {"local_epochs": 2, "gamma": gamma}
    runs = [Parted({**table, **own}, skewed(), [[0, 1], [1, 2]]) for table in (TABLE, {"name": "fedrod"})]
    assert all(map(torch.equal, *(run.rounds() for run in runs)))


def test_before_any_training_the_generic_predictor_speaks_alone() -> None:
    run = Parted(TABLE, skewed(), [[0]])
    numbers = run.server.first_state(run.task.sent(run.initial))["nu"]
    network = hypernetwork(run, numbers)
    assert not network(torch.tensor([0.2, 0.3, 0.5])).any()
    assert network[0].weight.any()


def test_its_hypernetwork_begins_with_numbers_of_its_own() -> None:
    """Not with those that the same seed gives the model."""
    run = Parted(TABLE, skewed(), [[0]])
    first = run.server.first_state(run.task.sent(run.initial))["nu"][:8]
    drawn = 2 * torch.rand(8, generator=torch.Generator().manual_seed(run.server.seed)) - 1
    assert not torch.allclose(first / first.norm(), drawn / drawn.norm())


def test_a_private_part_is_refused() -> None:
    with pytest.raises(ConfigError, match="FedRoD's personal heads are clients' own already; leave it out"):
        Parted({**TABLE, "private": ["head"]}, skewed(), [[0]])
