"""What each partition means."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtl.choice import ConfigError
from fedtl.data.federation import Shards
from fedtl.data.partitions.contract import Partition, split_evenly, split_in_proportion
from fedtl.data.partitions.dirichlet import Dirichlet
from fedtl.data.partitions.iid import IID
from fedtl.data.partitions.label_shards import LabelShards
from fedtl.data.partitions.natural import Natural
from fedtl.data.partitions.noisy import Noisy
from fedtl.data.partitions.pathological import Pathological
from fedtl.data.partitions.pfedme import PFedMe
from fedtl.data.partitions.quantity import Quantity
from fedtl.data.partitions.rotated import Rotated, rotate

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 600))


def counts(partition: Partition, clients: int, labels: np.ndarray = LABELS, seed: int = 0) -> np.ndarray:
    """Samples of each label, ``[clients, classes]``."""
    shards = partition.assign(labels, None, clients, np.random.default_rng(seed))
    return np.array([np.bincount(labels[shards[i]], minlength=labels.max() + 1) for i in range(clients)])


@given(total=st.integers(0, 10_000), parts=st.integers(1, 50), seed=st.integers(0, 1000))
def test_totals_are_split_without_loss(total, parts, seed):
    even = split_evenly(total, parts)
    assert even.sum() == total
    assert even.max() - even.min() <= 1
    weights = np.random.default_rng(seed).random(parts) + 1e-9
    portions = split_in_proportion(total, weights)
    assert portions.sum() == total
    assert portions.min() >= 0
    assert abs(portions - total * weights / weights.sum()).max() <= 1


def test_iid_gives_equal_sizes_and_like_labels():
    label_counts = counts(IID(), 7)
    assert set(label_counts.sum(axis=1)) == {857, 858}
    assert abs(label_counts / label_counts.sum(axis=1, keepdims=True) - 0.1).max() < 0.05
    assert (label_counts.std(axis=0) > 0).all()  # drawn, not dealt out label by label


def test_iid_divides_a_million_clients():
    shards = IID().assign(np.zeros(1_000_000, np.int64), None, 1_000_000, np.random.default_rng(0))
    assert (shards.sizes == 1).all()


def test_dirichlet_with_large_alpha_is_nearly_iid_and_with_small_alpha_far_from_it():
    flat = counts(Dirichlet(alpha=1e6), 10)
    assert abs(flat - 60).max() <= 2
    skewed = counts(Dirichlet(alpha=0.1, min_size=1), 10)
    assert (skewed.max(axis=0) / 600).mean() > 0.4  # one client of ten has almost half of a class


def test_dirichlet_proportions_of_a_class_have_the_distributions_variance():
    # Of a symmetric Dir(a) in N dimensions: variance (1/N)(1 - 1/N) / (N a + 1).
    n, alpha = 10, 0.5
    shares = np.concatenate([counts(Dirichlet(alpha=alpha, min_size=1), n, seed=s) / 600 for s in range(100)])
    assert shares.var() == pytest.approx((1 / n) * (1 - 1 / n) / (n * alpha + 1), rel=0.08)


def test_dirichlet_keeps_to_its_minimum_and_says_when_it_cannot():
    assert counts(Dirichlet(alpha=0.3, min_size=50), 20).sum(axis=1).min() >= 50
    with pytest.raises(ConfigError, match=r"^data\.partition\.min_size = 290: in each of 200 draws"):
        counts(Dirichlet(alpha=0.1, min_size=290), 20)
    with pytest.raises(ConfigError, match=r"^data\.clients = 20: 6000 samples cannot give 301 samples to each"):
        counts(Dirichlet(min_size=301), 20)


def test_dirichlet_balance_makes_sizes_less_unequal():
    def spread(balance: bool) -> float:
        partition = Dirichlet(alpha=0.3, min_size=1, balance=balance)
        return float(np.mean([counts(partition, 10, seed=seed).sum(axis=1).std() for seed in range(20)]))

    assert spread(balance=True) < 0.8 * spread(balance=False)


@settings(max_examples=60, deadline=None)
@given(clients=st.integers(1, 60), k=st.integers(1, 10), seed=st.integers(0, 10_000))
def test_pathological_gives_exactly_k_classes_and_spreads_them_evenly(clients, k, seed):
    if clients * k < 10:
        with pytest.raises(ConfigError, match=r"^data\.partition\.classes_per_client"):
            counts(Pathological(classes_per_client=k), clients, seed=seed)
        return
    label_counts = counts(Pathological(classes_per_client=k), clients, seed=seed)
    assert ((label_counts > 0).sum(axis=1) == k).all()
    holders = (label_counts > 0).sum(axis=0)
    assert holders.max() - holders.min() <= 1
    for column in label_counts.T:
        assert np.ptp(column[column > 0]) <= 1


def test_pathological_classes_are_drawn():
    assert not np.array_equal(counts(Pathological(), 20, seed=0) > 0, counts(Pathological(), 20, seed=1) > 0)


def test_pathological_copes_with_labels_that_do_not_occur():
    label_counts = counts(Pathological(classes_per_client=2), 6, labels=LABELS[(LABELS != 0) & (LABELS != 4)])
    assert ((label_counts > 0).sum(axis=1) == 2).all()


@pytest.mark.parametrize(
    ("partition", "clients", "message"),
    [
        (Pathological(classes_per_client=11), 20, "there are only 10 classes"),
        (Pathological(classes_per_client=2), 4, "hold at most 8 of the 10 classes"),
        (Pathological(classes_per_client=2), 5000, "would share the 600 samples of class"),
    ],
)
def test_pathological_errors(partition, clients, message):
    with pytest.raises(ConfigError, match=message):
        counts(partition, clients)


def test_shards_are_blocks_of_the_sorted_samples():
    label_counts = counts(LabelShards(), 100)
    assert (label_counts.sum(axis=1) == 60).all()
    assert set(np.unique(label_counts)) == {0, 30, 60}  # 20 shards of 30 in each label, none straddles two
    assert ((label_counts > 0).sum(axis=1) <= 2).all()
    assert ((label_counts > 0).sum(axis=1) == 1).any()


def test_quantity_differs_in_size_only():
    label_counts = counts(Quantity(alpha=1.0, min_size=100), 10)
    sizes = label_counts.sum(axis=1)
    assert sizes.min() >= 100
    assert sizes.max() > 2 * sizes.min()
    assert abs(label_counts / sizes[:, None] - 0.1).max() < 0.1
    assert abs(counts(Quantity(alpha=1e8), 10).sum(axis=1) - 600).max() <= 1


def test_natural_follows_the_owners():
    owner = np.array([2, 0, 1, 2, 2, 0])
    shards = Natural().assign(np.zeros(6, np.int64), owner, 3, np.random.default_rng(0))
    assert [shards[i].tolist() for i in range(3)] == [[1, 5], [2], [0, 3, 4]]


@pytest.mark.parametrize(
    ("owner", "clients", "message"),
    [
        (None, 2, "do not say who owns which sample"),
        (np.array([0, 1, -1]), 2, "1 of the samples to be divided have no owner"),
        (np.array([0, 1, 2]), 2, r"^data\.clients = 2: the data have 3 owners"),
    ],
)
def test_natural_errors(owner, clients, message):
    with pytest.raises(ConfigError, match=message):
        Natural().assign(np.zeros(3, np.int64), owner, clients, np.random.default_rng(0))


@pytest.mark.parametrize("clients", [10, 20, 25, 100])
def test_pfedme_clients_hold_neighbouring_labels(clients):
    label_counts = counts(PFedMe(), clients)
    for i, row in enumerate(label_counts):
        assert set(np.flatnonzero(row)) == {i % 10, (i + 1) % 10}
    assert label_counts.sum() == 6000
    assert label_counts[label_counts > 0].min() >= 5


def test_pfedme_sizes_are_log_normal_and_by_default_about_the_papers():
    # MNIST's 70,000 samples; three quarters of a client's are for training: the paper's range is 1,165 to 3,834.
    labels = np.repeat(np.arange(10), 7000)
    sizes = np.array([0.75 * counts(PFedMe(), 20, labels, seed).sum(axis=1) for seed in range(10)])
    assert 1165 * 0.8 < sizes.min(axis=1).mean() < 1165 * 1.3
    assert 3834 * 0.9 < sizes.max(axis=1).mean() < 3834 * 1.3
    assert np.ptp(counts(PFedMe(spread=0.0), 20, labels).sum(axis=1)) <= 2
    column = counts(PFedMe(spread=0.5, min_size=1), 400, labels)[:, 0]
    assert np.log(column[column > 0]).std() == pytest.approx(0.5, rel=0.2)


def test_pfedme_sizes_of_the_authors_law():
    labels = np.repeat(np.arange(10), 7000)
    for seed in range(20):
        label_counts = counts(PFedMe(sizes="authors"), 20, labels, seed)
        for label in range(10):
            sizes = label_counts[:, label][label_counts[:, label] > 0]  # by ascending client, as they draw
            left = 7000
            assert len(sizes) == 4
            for part in sizes[:-1]:
                assert left // 5 <= part < left // 2
                left -= part
            assert sizes[-1] == left


@pytest.mark.parametrize(
    ("partition", "clients", "message"),
    [
        (PFedMe(), 8, r"^data\.clients = 8: nobody would hold the labels from 9 on; have at least 9 clients"),
        (PFedMe(labels_per_client=11), 20, r"^data\.partition\.labels_per_client = 11: there are only 10"),
        (PFedMe(min_size=200), 20, r"^data\.partition\.min_size = 200: the 600 samples of label 0"),
        (PFedMe(sizes="authors"), 200, r"^data\.partition\.sizes = 'authors': of label 0"),
    ],
)
def test_pfedme_errors(partition, clients, message):
    with pytest.raises(ConfigError, match=message):
        counts(partition, clients)


def shifted(partition: Partition, x: np.ndarray, clients: int, seed: int = 0) -> tuple[np.ndarray, Shards]:
    shards = partition.assign(np.zeros(len(x), np.int64), None, clients, np.random.default_rng(0))
    return partition.shift(x, shards, seed), shards


def test_rotated_turns_each_clients_images_by_its_angle():
    x = np.random.default_rng(0).integers(0, 256, (40, 3, 7, 7)).astype(np.uint8)
    seen, shards = shifted(Rotated(angles=(0, 90, 180, 270)), x, 5)
    for i, quarters in enumerate((0, 1, 2, 3, 0)):
        assert np.array_equal(seen[shards[i]], np.rot90(x[shards[i]], quarters, axes=(2, 3)))


@pytest.mark.parametrize("side", [6, 7])
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_interpolated_rotation_agrees_with_the_exact_one(side, quarters):
    x = np.random.default_rng(0).random((4, 1, side, side)).astype(np.float32)
    nearly = rotate(x, 90 * quarters + 1e-7)
    assert np.allclose(nearly, np.rot90(x, quarters, axes=(2, 3)), atol=1e-5)


def test_a_dot_moves_counter_clockwise_on_its_circle():
    x = np.zeros((1, 1, 21, 21), np.float32)
    x[0, 0, 10, 18] = 1  # 8 to the right of the middle
    rows, columns = np.indices((21, 21))
    seen = rotate(x, 30)[0, 0]
    assert (rows * seen).sum() / seen.sum() == pytest.approx(10 - 8 * np.sin(np.pi / 6), abs=0.1)
    assert (columns * seen).sum() / seen.sum() == pytest.approx(10 + 8 * np.cos(np.pi / 6), abs=0.1)


def test_what_comes_from_outside_the_image_is_black():
    seen = rotate(np.full((1, 1, 9, 9), 200, np.uint8), 45)[0, 0]
    assert seen[4, 4] == 200
    assert seen[0, 0] == seen[0, 8] == seen[8, 0] == seen[8, 8] == 0


def test_angles_are_spread_evenly_where_none_are_given():
    assert Rotated(max_angle=60).angles_of(4).tolist() == [0, 20, 40, 60]
    assert Rotated().angles_of(1).tolist() == [0]


def test_only_images_can_be_rotated():
    with pytest.raises(ConfigError, match=r"a sample has shape \[60\]$"):
        shifted(Rotated(), np.zeros((10, 60), np.float32), 2)


def test_noise_grows_with_the_clients_number():
    x = np.full((4000, 1, 5, 5), 128, np.uint8)
    seen, shards = shifted(Noisy(sigma=0.12), x, 4)
    assert np.array_equal(seen[shards[0]], x[shards[0]])
    for i in (1, 2, 3):
        noise = seen[shards[i]].astype(float) - 128
        assert noise.std() == pytest.approx(255 * 0.12 * i / 3, rel=0.02)
        assert abs(noise.mean()) < 0.7


def test_noise_depends_on_the_seed_and_stays_within_a_byte():
    x = np.random.default_rng(0).choice([0, 255], (200, 1, 5, 5)).astype(np.uint8)
    seen, shards = shifted(Noisy(sigma=0.2), x, 2)
    other, _ = shifted(Noisy(sigma=0.2), x, 2, seed=1)
    assert not np.array_equal(seen, other)
    # Black stays dark and white bright: without the bounds they would wrap round.
    noisy = shards[1]
    assert seen[noisy][x[noisy] == 0].max() < 255 - seen[noisy][x[noisy] == 255].min() + 60
    assert seen[noisy][x[noisy] == 255].mean() > 200


def test_noise_on_other_numbers_is_in_their_own_units():
    x = np.zeros((4000, 50), np.float32)
    seen, shards = shifted(Noisy(sigma=3.0), x, 3)
    assert seen[shards[2]].std() == pytest.approx(3.0, rel=0.01)
    assert seen[shards[1]].std() == pytest.approx(1.5, rel=0.01)


def test_shifts_stack_on_any_partition():
    partition = Noisy(sigma=0.1, base=Rotated(angles=(90,), base=Pathological(classes_per_client=3)))
    label_counts = counts(partition, 10)
    assert ((label_counts > 0).sum(axis=1) == 3).all()
    x = np.random.default_rng(0).integers(0, 256, (len(LABELS), 1, 4, 4)).astype(np.uint8)
    shards = partition.assign(LABELS, None, 10, np.random.default_rng(0))
    seen = partition.shift(x, shards, 0)
    assert np.array_equal(seen[shards[0]], np.rot90(x[shards[0]], axes=(2, 3)))  # the first client has no noise
