"""FedPAC (Xu, Tong and Huang 2023): features aligned with class means, heads combined for each client."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fedtl.choice import ConfigError
from fedtl.data.federation import Federation
from fedtl.strategies.fedpac import combination
from tests.parted import Parted, assert_same, mean
from tests.parts import EACH_ENGINE, EngineKind, federation_of

SIZES = [4, 6, 9]
LR, HEAD_LR, LAM = 0.2, 0.3, 2.0


def objective(h: NDArray[Any], V: NDArray[Any], i: int) -> NDArray[Any]:
    """diag(V) + D_i with D_i[j, k] = ⟨h_i - h_j, h_i - h_k⟩, entry by entry."""
    S = len(V)
    D = np.array([[(h[i] - h[j]) @ (h[i] - h[k]) for k in range(S)] for j in range(S)])
    return np.diag(V) + D


def by_supports(Q: NDArray[Any]) -> NDArray[Any]:
    """The least α'Qα on the simplex: of all sets of clients the best one whose own minimum is not negative."""
    best, S = (np.inf, np.zeros(len(Q))), len(Q)
    for size in range(1, S + 1):
        for support in map(list, combinations(range(S), size)):
            inner = np.linalg.solve(Q[np.ix_(support, support)], np.ones(size))
            alpha = np.zeros(S)
            alpha[support] = inner / inner.sum()
            if (alpha >= 0).all():
                best = min(best, (float(alpha @ Q @ alpha), alpha), key=lambda one: one[0])
    return best[1]


def drawn(S: int, d: int, seed: int, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(spread * rng.normal(size=(S, d))), torch.from_numpy(rng.uniform(0.01, 2, size=S))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("spread", [1e-3, 0.3, 1.0, 1e3])
def test_weights_are_those_of_another_solver(seed: int, spread: float) -> None:
    S = 2 + seed
    h, V = drawn(S, d=1 + 2 * seed, seed=seed, spread=spread)
    alpha = combination(h, V).numpy()
    expected = np.stack([by_supports(objective(h.numpy(), V.numpy(), i)) for i in range(S)])
    np.testing.assert_allclose(alpha, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("S", "d"), [(40, 3), (40, 200), (1, 5)])
def test_no_weight_could_be_moved_to_gain(S: int, d: int) -> None:
    """The conditions of Karush, Kuhn and Tucker: where α_ij > 0 the slope is the least of all, elsewhere no less."""
    h, V = drawn(S, d, seed=0, spread=0.4)
    alpha = combination(h, V).numpy()
    np.testing.assert_allclose(alpha.sum(1), 1, rtol=1e-12)
    for i in range(S):
        slope = objective(h.numpy(), V.numpy(), i) @ alpha[i]
        least = alpha[i] @ slope
        assert (slope >= least - 1e-9 * slope.max()).all()
        np.testing.assert_allclose(slope[alpha[i] > 0], least, rtol=1e-8)


def test_where_clients_are_alike_weights_are_as_their_variances() -> None:
    V = torch.tensor([0.5, 1.0, 2.0])
    expected = (1 / V) / (1 / V).sum()
    torch.testing.assert_close(combination(torch.ones(3, 4), V), expected.double().expand(3, -1))


def test_where_clients_are_unlike_each_keeps_its_own_head() -> None:
    assert torch.equal(combination(1e3 * torch.eye(3), torch.full((3,), 0.1)).round(decimals=4), torch.eye(3).double())


def test_where_several_are_best_the_own_head_is_taken() -> None:
    """As of clients of one sample each, whose V_i is 0, or where all features are 0."""
    assert torch.equal(combination(torch.zeros(3, 4), torch.zeros(3)), torch.eye(3).double())


def test_small_weights_are_left_out_and_the_others_scaled_up() -> None:
    h, V = torch.zeros(3, 2), torch.tensor([1.0, 1.0, 100.0])
    kept = combination(h, V, smallest=0.01)
    torch.testing.assert_close(kept, torch.tensor([0.5, 0.5, 0.0]).double().expand(3, -1))
    assert torch.equal(combination(h, V, smallest=0.9), combination(h, V))  # rather than none


def skewed() -> Federation:
    """Client 0 has no samples of class 0."""
    federation = federation_of(SIZES)
    y, own = federation.y.copy(), federation.train[0]
    y[own] = 1 + y[own] % 2
    return replace(federation, y=y)


class ByHand:
    """FedPAC with torch's own modules, on all of a client's samples at once."""

    def __init__(self, run: Parted) -> None:
        self.run, self.shared = run, run.begun()
        self.heads = [run.begun().head for _ in SIZES]
        self.means: Tensor | None = None

    def features(self, module: nn.Module, x: Tensor) -> Tensor:
        return torch.tanh(module.body(x))  # type: ignore[operator]

    def statistics(self, module: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        z, n = self.features(module, x).detach().double(), len(y)
        h, V = torch.zeros(3, z.shape[1], dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for k in y.unique():
            p, own = (y == k).sum() / n, z[y == k]
            h[k] = p * own.mean(0)
            V += p * own.square().sum(1).mean() - p**2 * own.mean(0).square().sum()
        return h.flatten(), V / n

    def round(self, clients: list[int]) -> None:
        trained, statistics = [], []
        for client in clients:
            module, (x, y) = self.run.begun(), self.run.samples(client)
            module.body.load_state_dict(self.shared.body.state_dict())  # type: ignore[union-attr,arg-type]
            module.head.load_state_dict(self.heads[client].state_dict())  # type: ignore[union-attr,arg-type]
            statistics.append(self.statistics(module, x, y))
            self.step(module, module.head, HEAD_LR, F.cross_entropy(module(x), y))
            for _ in range(2):
                z = self.features(module, x)
                apart = 0.0 if self.means is None else (z - self.means[y]).square().mean()
                self.step(module, module.body, LR, F.cross_entropy(module(x), y) + LAM * apart)
            trained.append(module)
        h, V = (torch.stack(each) for each in zip(*statistics))
        alpha = np.stack([by_supports(objective(h.numpy(), V.numpy(), i)) for i in range(len(clients))])
        weights = [SIZES[client] for client in clients]
        x, y = (torch.cat(each) for each in zip(*(self.run.samples(client) for client in clients)))
        z = torch.cat([self.features(m, self.run.samples(c)[0]) for m, c in zip(trained, clients)]).detach()
        self.means = torch.stack([z[y == k].mean(0) for k in range(3)])
        with torch.no_grad():
            for parameter, value in zip(self.shared.parameters(), mean(trained, weights)):
                parameter.copy_(value)
            for own, client in zip(alpha, clients):
                combined = mean([module.head for module in trained], own.tolist())  # type: ignore[misc]
                self.heads[client] = self.run.begun().head
                for parameter, value in zip(self.heads[client].parameters(), combined):
                    parameter.copy_(value)

    def step(self, module: nn.Module, part: Any, lr: float, loss: Tensor) -> None:
        parameters = [*part.parameters()]
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients):
                parameter -= lr * gradient


TABLE = {"name": "fedpac", "lr": LR, "head_lr": HEAD_LR, "lam": LAM, "local_epochs": 2}


@EACH_ENGINE
def test_three_rounds_worked_out_by_hand(kind: EngineKind) -> None:
    """The second round knows of means, and the third of heads that are combined; the last has a client that skips."""
    rounds = [[0, 1], [0, 1], [1, 2]]
    run = Parted(TABLE, skewed(), rounds, kind)
    sent = run.rounds()[-1]
    expected = ByHand(run)
    for clients in rounds:
        expected.round(clients)
    assert_same(run.global_model(sent), expected.shared)
    for client in range(3):
        own = run.served(client)
        assert_same(own.body, expected.shared.body)  # type: ignore[arg-type]
        assert_same(own.head, expected.heads[client])  # type: ignore[arg-type]


def test_a_client_that_has_never_been_sampled_has_the_initial_head() -> None:
    run = Parted(TABLE, skewed(), [[0, 1], [1]])
    sent = run.rounds()[-1]
    own = run.served(2)
    assert_same(own.body, run.global_model(sent).body, exactly=True)  # type: ignore[arg-type]
    assert_same(own.head, run.begun().head, exactly=True)  # type: ignore[arg-type]


@EACH_ENGINE
@pytest.mark.parametrize("sampled", [[[0], [1], [0]], [[0, 1], [0, 2]]])
def test_without_alignment_and_collaboration_it_is_fedrep(sampled: list[list[int]], kind: EngineKind) -> None:
    """To the bit; and so it is with one client a round, whose head is all that there is to combine."""
    of_one = all(len(clients) == 1 for clients in sampled)
    common = {"local_epochs": 2, "momentum": 0.5, "weight_decay": 0.01}
    ours = Parted({"name": "fedpac", "lam": 0.0, "collaboration": of_one, **common}, skewed(), sampled, kind)
    fedrep = {"name": "fedrep", "head_epochs": 1, "weighting": "samples", **common}
    theirs = Parted(fedrep, skewed(), sampled, kind)
    bodies = [run.global_model(run.rounds()[-1]).body for run in (ours, theirs)]
    assert_same(bodies[0], bodies[1], exactly=True)  # type: ignore[arg-type]
    for client in range(3):
        assert_same(ours.served(client), theirs.served(client), exactly=True)


@EACH_ENGINE
def test_what_does_not_train_keeps_its_bits(kind: EngineKind) -> None:
    table = {"name": "fedpac", "head_epochs": 0, "local_epochs": 3, "momentum": 0.9, "weight_decay": 0.1}
    run = Parted(table, skewed(), [[0]], kind)
    run.rounds()
    assert_same(run.served(0).head, run.begun().head, exactly=True)  # type: ignore[arg-type]


def test_a_private_part_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"private = \['head'\]: FedPAC's heads are each client's own already"):
        Parted({"name": "fedpac", "private": ["head"]}, skewed(), [[0]])


def test_its_term_stands_in_no_objective_beside_it() -> None:
    with pytest.raises(ConfigError, match="'fedpac' has the term 'prototype' by itself; leave it out"):
        terms = [{"term": "cross_entropy"}, {"term": "prototype"}]
        Parted({"name": "fedpac"}, skewed(), [[0]], objective=terms)
