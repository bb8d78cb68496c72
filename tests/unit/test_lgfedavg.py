"""LG-FedAvg (Liang et al. 2020): the head is shared, the body stays."""

from __future__ import annotations

import torch

from tests.parted import Parted, assert_same, descend, mean
from tests.parts import EACH_ENGINE, EngineKind, federation_of

SIZES = [4, 6, 9]


@EACH_ENGINE
def test_a_round_worked_out_by_hand(kind: EngineKind) -> None:
    """(ℓ_m, g_m) ← SGD_m(ℓ_m, g), and g ← Σ n_m / n g_m; who has not trained has the first ℓ and the present g."""
    run = Parted({"name": "lg-fedavg"}, federation_of(SIZES), [[0, 2]], kind)
    (sent,) = run.rounds()
    trained = {client: run.begun() for client in (0, 2)}
    for client, module in trained.items():
        descend(module, [*module.parameters()], *run.samples(client), lr=0.2)
    head = mean([module.head for module in trained.values()], [SIZES[0], SIZES[2]])
    assert len(sent) == sum(p.numel() for p in head)
    for client in range(3):
        own = run.served(client)
        assert_same(own.head, head)
        assert_same(own.body, trained.get(client, run.begun()).body, exactly=client not in trained)


def test_it_is_fedper_the_other_way_round() -> None:
    runs = [
        Parted(table, federation_of(SIZES), [[0, 1], [1, 2]])
        for table in ({"name": "lg-fedavg", "private_start": "own"}, {"name": "fedper", "private": ["body"]})
    ]
    assert all(map(torch.equal, *(run.rounds() for run in runs)))


def test_with_nothing_private_it_is_fedavg() -> None:
    rounds = [
        Parted(table, federation_of(SIZES), [[0, 1], [1, 2]]).rounds()
        for table in ({"name": "lg-fedavg", "private": []}, {"name": "fedavg"})
    ]
    assert all(map(torch.equal, *rounds))
