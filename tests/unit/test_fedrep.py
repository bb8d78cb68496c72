"""FedRep (Collins et al. 2021): the head's steps, then the representation's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedtl.choice import ConfigError
from fedtl.config.read import build
from fedtl.data.federation import Federation, Shards
from fedtl.losses.term import Term, TermContext
from tests.parted import Parted, assert_same, descend, mean
from tests.parts import EACH_ENGINE, ENGINES, EngineKind, federation_of

SIZES = [4, 6, 9]


@EACH_ENGINE
@pytest.mark.parametrize("weighting", ["uniform", "samples"])
def test_a_round_worked_out_by_hand(kind: EngineKind, weighting: str) -> None:
    """Two steps of h_i with φ frozen, one of φ_i with h_i frozen, and φ is the mean over S."""
    table = {"name": "fedrep", "head_epochs": 2} | ({} if weighting == "uniform" else {"weighting": weighting})
    run = Parted(table, federation_of(SIZES), [[0, 2]], kind)
    (sent,) = run.rounds()
    trained = {client: run.begun() for client in (0, 2)}
    for client, module in trained.items():
        for part in (module.head, module.head, module.body):
            descend(module, [*part.parameters()], *run.samples(client), lr=0.2)
    body = mean(
        [module.body for module in trained.values()], [1, 1] if weighting == "uniform" else [SIZES[0], SIZES[2]]
    )
    assert_same(run.global_model(sent).body, body)
    for client in range(3):
        own = run.served(client)
        assert_same(own.body, body)
        assert_same(own.head, trained.get(client, run.begun()).head, exactly=client not in trained)


STRONG: dict[str, dict[str, Any]] = {
    "momentum and weight decay": {"momentum": 0.9, "weight_decay": 0.1},
    "sgd": {"optimizer": {"name": "sgd", "momentum": 0.9, "weight_decay": 0.1}},
    "adam": {"optimizer": {"name": "adam", "lr": 0.05, "weight_decay": 0.1}},
    "adamw": {"optimizer": {"name": "adamw", "lr": 0.05}, "clip_norm": 0.1, "lr_scale": {"head": 2.0}},
}
TORCH: dict[str, Any] = {
    "momentum and weight decay": lambda p: torch.optim.SGD(p, 0.2, momentum=0.9, weight_decay=0.1),
    "sgd": lambda p: torch.optim.SGD(p, 0.2, momentum=0.9, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, 0.05, weight_decay=0.1),
}


@EACH_ENGINE
@pytest.mark.parametrize("name", STRONG)
def test_what_is_frozen_keeps_its_bits(name: str, kind: EngineKind) -> None:
    """Of what an optimiser remembers and decays nothing reaches it."""
    run = Parted(
        {"name": "fedrep", "head_steps": 0, "local_epochs": 3, **STRONG[name]}, federation_of(SIZES), [[0]], kind
    )
    run.rounds()
    assert_same(run.served(0).head, run.begun().head, exactly=True)


@EACH_ENGINE
@pytest.mark.parametrize("name", TORCH)
def test_parts_step_as_torchs_optimisers_step_parameters_without_gradients(name: str, kind: EngineKind) -> None:
    table = {"name": "fedrep", "head_steps": 3, "local_steps": 4, **STRONG[name]}
    run = Parted(table, federation_of(SIZES), [[1]], kind)
    (sent,) = run.rounds()
    module, (x, y) = run.begun(), run.samples(1)
    optimizer = TORCH[name](module.parameters())
    for part, other, steps in ((module.head, module.body, 3), (module.body, module.head, 4)):
        part.requires_grad_(True)
        other.requires_grad_(False)
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(module(x), y).backward()
            optimizer.step()
    assert_same(run.global_model(sent).body, module.body)
    assert_same(run.served(1), module)


def test_a_gradient_is_clipped_by_the_norm_of_the_part() -> None:
    table = {"name": "fedrep", "head_steps": 1, "local_steps": 1, "clip_norm": 1e-3}
    run = Parted(table, federation_of(SIZES), [[0]])
    run.rounds()
    for part in ("head", "body"):
        before, after = (
            nn.utils.parameters_to_vector(m.get_submodule(part).parameters()) for m in (run.begun(), run.served(0))
        )
        assert float((after - before).norm().detach()) == pytest.approx(0.2 * 1e-3, rel=1e-2)


def test_an_optimiser_is_kept_for_each_part() -> None:
    """A round of Adam that goes on is one of twice the steps, where nobody else takes part."""
    adam = {"name": "adam", "lr": 0.05, "keep": True}
    runs = [
        Parted(
            {"name": "fedrep", "head_steps": 0, "local_steps": steps, "optimizer": adam},
            federation_of(SIZES),
            [[1]] * rounds,
        )
        for steps, rounds in ((2, 2), (4, 1))
    ]
    assert_same(*(run.global_model(run.rounds()[-1]).body for run in runs))


@pytest.mark.parametrize(
    ("strategy", "says"),
    [
        ({"head_epochs": 1, "head_steps": 2}, "head_epochs = 1 and head_steps = 2 exclude each other: remove one"),
        ({"private": []}, "private = []: FedRep fits what stays at a client before all else; name it, as ['head']"),
        ({"head_epochs": -1}, "strategy.head_epochs = -1"),
    ],
)
def test_options_that_do_not_go_together(strategy: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(
            {
                "name": "x",
                "data": {"name": "digits", "clients": 4},
                "model": {"name": "mlp"},
                "strategy": {"name": "fedrep", "lr": 0.1, **strategy},
            }
        )
    assert says in str(error.value)


def test_the_head_has_ten_epochs_if_nothing_is_said() -> None:
    run = Parted({"name": "fedrep"}, federation_of(SIZES), [[0]])
    head, body = run.worker.update.round_loops
    assert (head.budget.epochs, body.budget.epochs) == (10, 1)


# The paper's linear representation: y = ⟨w*_i, B*ᵀ x⟩ at client i.

DIM, RANK, CLIENTS = 6, 2, 4


class LinearRepresentation(nn.Module):
    """The samples have y beside x, ``[DIM + 1]``; the features are Bᵀ x, and the output is ⟨w, Bᵀ x⟩."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(DIM, RANK, bias=False), nn.Linear(RANK, classes, bias=False)
        nn.init.orthogonal_(self.body.weight)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.body(x[:, :DIM]))
        return output


class Squares(Term):
    """½ (⟨w, Bᵀ x⟩ - y)², of the first output."""

    def value(self, context: TermContext) -> Tensor:
        stream = context.stream("samples")
        return context.mean(0.5 * (stream.logits[:, 0] - stream.x[:, DIM]).square())


def angle(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """The sine of the largest principal angle between two column spaces."""
    (qa, _), (qb, _) = np.linalg.qr(a), np.linalg.qr(b)
    return float(np.linalg.norm(qb - qa @ (qa.T @ qb), 2))


def test_the_principal_angle_to_the_true_subspace_falls_geometrically() -> None:
    """Theorem 1, where nothing is drawn: Σ_x = I, and every client takes part.

    With the exact h_i for B, the step is B ← B - η/n Σ_i (B w_i - B* w*_i) w_iᵀ, and near the end it leaves of what is
    outside the subspace the share 1 - η σ², σ² the smallest eigenvalue of Σ_i w_i w_iᵀ / n.
    """
    rng = np.random.default_rng(0)
    true, _ = np.linalg.qr(rng.normal(size=(DIM, RANK)))
    heads = math.sqrt(RANK) * np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])  # their mean square is I
    design = math.sqrt(DIM) * np.eye(DIM)  # mean of x xᵀ is I
    x = np.concatenate([np.column_stack([design, design @ true @ w]) for w in heads]).astype(np.float32)
    federation = rows(x)
    eta, rounds = 0.3, 12
    table = {"name": "fedrep", "lr": eta, "head_steps": 60, "local_steps": 1}
    model = {"name": "tests.unit.test_fedrep:LinearRepresentation"}
    run = Parted(
        table,
        federation,
        [range(CLIENTS)] * rounds,
        model=model,
        objective=[{"term": "tests.unit.test_fedrep:Squares"}],
    )
    B = run.begun().body.weight.detach().numpy().T.astype(np.float64)
    distances = [angle(B, true)]
    for sent in run.rounds():
        exact = np.linalg.solve(B.T @ B, B.T @ true @ heads.T)  # w_i in its columns
        B = B - eta * (B @ exact - true @ heads.T) @ exact.T / CLIENTS
        ours = run.global_model(sent).body.weight.detach().numpy().T
        np.testing.assert_allclose(ours, B, atol=1e-4)
        distances.append(angle(ours, true))
    ratios = np.divide(distances[1:], distances[:-1])
    assert distances[0] > 0.5
    assert (ratios < 1).all()
    rate = 1 - eta * np.linalg.eigvalsh(exact @ exact.T / CLIENTS).min()
    assert rate < 1 - eta / 2
    np.testing.assert_allclose(ratios[-5:], rate, atol=0.02)


def rows(x: np.ndarray[Any, Any]) -> Federation:
    """As many samples for each client, in their order; none to test on."""
    index = np.arange(len(x))
    train = Shards.from_sizes(index, np.full(CLIENTS, len(x) // CLIENTS))
    none = Shards.from_sizes(index[:0], np.zeros(CLIENTS, np.int64))
    one = np.ones((), np.float32)
    return Federation(x, np.zeros(len(x), np.int64), 2, one, 0 * one, train, none, index[:0])


@pytest.mark.parametrize("kind", ["one by one, traced", "stacked, traced"])
def test_a_traced_step_of_the_head_does_not_compute_the_bodys_gradient(kind: str) -> None:
    """Two products forward in either; back, the head's weight alone, or the features and the body's weight."""
    run = Parted({"name": "fedrep", "head_steps": 3, "local_steps": 3}, federation_of(SIZES), [[0, 1]], ENGINES[kind])
    run.rounds()
    assert run.engine.tracer is not None
    head, body = run.worker.update.round_loops
    products = {"head": set[int](), "body": set[int]()}
    for loop, name in ((head, "head"), (body, "body")):
        for key, program in run.engine.tracer.programs.items():
            if program is not None and loop.step in key:
                products[name].add(program.source.count("mm"))
    assert products["head"]
    assert products["body"]
    assert max(products["head"]) < min(products["body"])
