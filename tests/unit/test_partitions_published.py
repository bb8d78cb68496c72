"""Partitions of published tables, beside what their authors' code gives.

The numbers "by their code" are of PFLlib at d832e76's ``separate_data``, easyFL (FLGo) at ea07f1d's
``DirichletPartitioner`` and NIID-Bench at 61b901a's ``partition_data``, run on 60,000 labels of 10 balanced classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.data import read_data
from fedtl.data.federate import federate
from fedtl.data.federation import Federation, Shards
from fedtl.data.partitions import read_partition
from fedtl.data.partitions.client_dirichlet import ClientDirichlet
from fedtl.data.partitions.contract import Partition
from fedtl.data.partitions.label_noise import LabelNoise
from fedtl.data.partitions.label_quantity import LabelQuantity
from fedtl.data.partitions.pfllib_pathological import PFLlibPathological

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 6000))


def counts(partition: Partition, clients: int, seed: int = 0, labels: NDArray[np.int64] = LABELS) -> NDArray[np.int64]:
    """Samples of each label, ``[clients, classes]``."""
    shards = partition.assign(labels, None, clients, np.random.default_rng(seed))
    assert np.array_equal(np.sort(shards.order), np.arange(len(labels)))
    return np.array([np.bincount(labels[shards[i]], minlength=labels.max() + 1) for i in range(clients)])


# --- PFLlib's pathological ---


def test_pfllibs_clients_hold_the_same_pairs() -> None:
    """By their code: clients 0 to 3 have classes 0 and 1, 4 to 7 have 2 and 3, and so on."""
    holds = counts(PFLlibPathological(), 20) > 0
    for client in range(20):
        assert np.flatnonzero(holds[client]).tolist() == [client // 4 * 2, client // 4 * 2 + 1]


def test_pfllibs_holders_where_the_classes_do_not_come_out_even() -> None:
    """By their code: 10 clients of 3 classes; class 0 is for clients 0 to 2, ..., class 9 for client 9 alone."""
    holders = [
        np.flatnonzero(column).tolist() for column in (counts(PFLlibPathological(classes_per_client=3), 10) > 0).T
    ]
    assert holders == [[0, 1, 2]] * 3 + [[3, 4, 5]] * 3 + [[6, 7, 8]] * 3 + [[9]]


@pytest.mark.parametrize("clients", [20, 100])
def test_pfllibs_sizes(clients: int) -> None:
    mean = 6000 * 10 // (clients * 2)
    drawn = np.concatenate([counts(PFLlibPathological(), clients, seed) for seed in range(20)])
    drawn = drawn.reshape(20, clients, 10)
    per_class = clients // 5
    small, last = [], []
    for table in drawn:
        for label in range(10):
            sizes = table[table[:, label] > 0, label]
            assert len(sizes) == per_class
            small += sizes[:-1].tolist()
            last.append(sizes[-1])
    assert min(small) >= mean // 10
    assert max(small) < mean
    assert min(last) > mean
    assert abs(np.mean(small) - 0.55 * mean) < 0.05 * mean  # uniform from m / 10 to m
    equal = counts(PFLlibPathological(balance=True), clients)
    assert set(equal[equal > 0].tolist()) == {mean}


@pytest.mark.parametrize(
    ("options", "clients", "samples", "message"),
    [
        ({"classes_per_client": 11}, 20, 6000, "classes_per_client = 11: there are only 10 classes"),
        ({}, 3, 6000, r"clients = 3: all of them have .* before class 6"),
        ({}, 20, 5, r"share the 5 samples of class 0, too few for data\.partition\.least_samples = 40"),
    ],
)
def test_what_pfllibs_rule_cannot_divide(options: dict[str, Any], clients: int, samples: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        counts(PFLlibPathological(**options), clients, labels=np.repeat(np.arange(10), samples))


# --- FLGo's Dirichlet ---


@pytest.mark.parametrize(("alpha", "clients"), [(0.1, 100), (1.0, 100), (10.0, 100), (0.5, 7), (0.1, 1)])
def test_every_client_has_the_same_size(alpha: float, clients: int) -> None:
    for seed in range(3):
        sizes = counts(ClientDirichlet(alpha=alpha), clients, seed).sum(axis=1)
        assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize(
    ("alpha", "by_their_code"),
    [(0.1, (0.899, 0.094, 0.007)), (1.0, (0.687, 0.201, 0.076)), (10.0, (0.297, 0.199, 0.146))],
)
def test_shares_of_a_clients_labels_are_those_of_the_distribution(
    alpha: float, by_their_code: tuple[float, ...]
) -> None:
    """The mean share of a client's first, second and third label, of 100 clients and several seeds."""

    def largest(shares: NDArray[np.float64]) -> NDArray[np.float64]:
        ordered: NDArray[np.float64] = np.sort(shares, axis=1)[:, :-4:-1].mean(axis=0)
        return ordered

    ours = np.mean([largest(counts(ClientDirichlet(alpha=alpha), 100, seed) / 600) for seed in range(4)], axis=0)
    drawn = largest(np.random.default_rng(1).dirichlet(np.full(10, alpha / 10), 20_000))
    # 400 clients' mean has a standard error of 0.01 at most; that draws must add up takes as much at 0.1.
    assert abs(ours - drawn).max() < 0.04
    assert abs(ours - by_their_code).max() < 0.06


def test_proportions_follow_how_common_a_label_is() -> None:
    labels = np.repeat(np.arange(3), (9000, 900, 100))
    table = counts(ClientDirichlet(alpha=50.0), 20, labels=labels)
    assert abs(table[:, 0] / 500 - 0.9).max() < 0.2
    few = counts(ClientDirichlet(alpha=1e-300), 100)
    assert ((few > 0).sum(axis=1) == 1).mean() > 0.9


# --- NIID-Bench's #C = k ---


@pytest.mark.parametrize(("clients", "k"), [(10, 2), (10, 3), (100, 2), (15, 10)])
def test_each_client_has_k_labels_and_one_is_its_own(clients: int, k: int) -> None:
    for seed in range(5):
        table = counts(LabelQuantity(labels_per_client=k), clients, seed)
        assert set((table > 0).sum(axis=1).tolist()) == {k}
        assert all(table[client, client % 10] > 0 for client in range(clients))
        for column in table.T:  # divided equally among the holders
            assert column.max() - column[column > 0].min() <= 1


def test_labels_have_unlike_numbers_of_holders() -> None:
    """By their code: the number of a label's holders has a standard deviation of 0.93, of 10 clients with 2 labels."""
    spread = [(counts(LabelQuantity(), 10, seed) > 0).sum(axis=0).std() for seed in range(30)]
    assert abs(np.mean(spread) - 0.93) < 0.2
    # The second label is any of the 9 others: the sum of 9 draws with probability 1/9, but for what all share.
    assert abs(np.mean(np.square(spread)) - 8 / 9) < 0.3


def test_a_label_that_nobody_holds() -> None:
    with pytest.raises(ConfigError, match=r"data\.clients = 3: nobody would hold class \d; have at least 10 clients"):
        counts(LabelQuantity(), 3)
    with pytest.raises(ConfigError, match="labels_per_client = 11: there are only 10 classes"):
        counts(LabelQuantity(labels_per_client=11), 20)


# --- wrong labels ---


def relabelled(seed: int = 0, clients: int = 20, **options: Any) -> tuple[NDArray[np.int64], Shards]:
    train = Shards.from_sizes(np.arange(40_000), np.full(clients, 40_000 // clients))
    return LabelNoise(**options).relabel(LABELS, 10, train, seed), train


def test_so_many_of_each_clients_training_samples_have_another_label() -> None:
    y, train = relabelled(share=0.25)
    wrong = y != LABELS
    assert {int(wrong[train[client]].sum()) for client in range(20)} == {500}
    assert not wrong[40_000:].any()
    steps = np.bincount((y - LABELS)[wrong] % 10, minlength=10)
    assert steps[0] == 0
    assert abs(steps[1:] / wrong.sum() - 1 / 9).max() < 0.02
    assert np.array_equal(y, relabelled(share=0.25)[0])
    assert not np.array_equal(y, relabelled(share=0.25, seed=1)[0])


def test_kinds_of_noise() -> None:
    y, _ = relabelled(share=0.5, kind="pair")
    assert set(((y - LABELS) % 10).tolist()) == {0, 1}
    y, train = relabelled(share=1.0, kind="uniform")
    assert abs((y == LABELS)[train.order].mean() - 0.1) < 0.01


def test_fedcorrs_noise() -> None:
    """A client is noisy with probability rho, at a level from tau to 1."""
    y, train = relabelled(clients=2000, share=1.0, least=0.5, clients_share=0.6)
    level = np.array([(y != LABELS)[train[client]].mean() for client in range(2000)])
    noisy = level > 0
    assert abs(noisy.mean() - 0.6) < 0.05
    assert level[noisy].min() >= 0.5
    assert abs(level[noisy].mean() - 0.75) < 0.02


def digits(**partition: Any) -> Federation:
    return federate(read_data({"name": "digits", "clients": 5, "partition": partition or "iid"}), 0)


def test_test_data_keep_their_labels_and_clients_their_samples() -> None:
    clean, noisy = digits(), digits(name="label-noise", share=0.3)
    assert np.array_equal(clean.train.order, noisy.train.order)
    changed = clean.y != noisy.y
    assert abs(changed[noisy.train.order].mean() - 0.3) < 0.01
    assert changed.sum() == changed[noisy.train.order].sum()
    twice = digits(name="label-noise", share=0.3, base={"name": "rotated", "angles": [90]})
    assert np.array_equal(twice.y, noisy.y)
    assert not np.array_equal(twice.x, noisy.x)
    turned = digits(name="rotated", angles=[90], base={"name": "label-noise", "share": 0.3})
    assert np.array_equal(turned.x, twice.x)
    assert np.array_equal(turned.y, noisy.y)


def test_noise_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"data\.partition\.least = 0\.5: should be at most share = 0\.2"):
        read_partition({"name": "label-noise", "least": 0.5})
    with pytest.raises(ConfigError, match="there is one class"):
        LabelNoise().relabel(np.zeros(4, np.int64), 1, Shards.from_sizes(np.arange(4), np.array([4])), 0)
