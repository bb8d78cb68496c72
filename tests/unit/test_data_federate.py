"""From a data set to its federated view."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtl.choice import ConfigError
from fedtl.data import read_data
from fedtl.data.dataset import Dataset, channel_statistics
from fedtl.data.federate import federate, stratified
from fedtl.data.federation import Federation, Shards
from fedtl.data.partitions.iid import IID
from fedtl.data.settings import DataChoice

LABELS = np.random.default_rng(0).choice(4, 1000, p=[0.4, 0.3, 0.2, 0.1]).astype(np.int64)
IMAGES = np.random.default_rng(1).integers(0, 200, (1000, 2, 3, 3)).astype(np.uint8)
IMAGES[:, 1] //= 4


class Toy(DataChoice):
    """A thousand images of four classes."""

    name: str = "toy"
    official: int | None = None
    users: int | None = None
    held_out: bool = False

    def load(self) -> Dataset:
        mean, std = channel_statistics(IMAGES)
        owner = None if self.users is None else np.arange(1000) % self.users
        held_out = np.arange(1000) >= 700 if self.held_out else None
        return Dataset(IMAGES, LABELS, 4, mean, std, owner, self.official, held_out, ("a", "b", "c", "d"))


def toy(**options: Any) -> Federation:
    seed = options.pop("seed", 0)
    if options.get("partition") != "natural":
        options.setdefault("clients", 10)
    return federate(Toy(**options), seed)


def indices_of(shards: Shards) -> set[int]:
    return set(shards.order.tolist())


def test_train_test_and_server_test_are_disjoint_and_cover_everything():
    federation = toy()
    parts = [indices_of(federation.train), indices_of(federation.test), set(federation.server_test.tolist())]
    assert sum(map(len, parts)) == 1000
    assert set.union(*parts) == set(range(1000))
    assert federation.clients == 10
    assert federation.label_names == ("a", "b", "c", "d")


def test_shares():
    federation = toy()
    assert len(federation.server_test) == 200
    assert set(federation.train.sizes) == {60}
    assert set(federation.test.sizes) == {20}
    assert toy(test_share=0).test.sizes.sum() == 0
    assert len(toy(server_test_share=0.5).server_test) == 500


def test_the_server_test_set_is_stratified_and_drawn():
    federation = toy()
    drawn = np.bincount(federation.y[federation.server_test])
    assert abs(drawn - 0.2 * np.bincount(LABELS)).max() <= 1
    assert not np.array_equal(federation.server_test, toy(seed=1).server_test)


@given(n=st.integers(0, 300), share=st.floats(0, 0.99), seed=st.integers(0, 1000))
def test_stratified_takes_the_share_of_all_and_of_each_label(n, share, seed):
    labels = np.random.default_rng(seed).integers(0, 5, n)
    chosen = stratified(labels, share, np.random.default_rng(seed))
    assert len(set(chosen.tolist())) == len(chosen) == np.rint(n * share)
    each = np.bincount(labels[chosen], minlength=5) - share * np.bincount(labels, minlength=5)
    assert abs(each).max(initial=0) <= 1


@settings(max_examples=40, deadline=None)
@given(clients=st.integers(1, 1000), share=st.floats(0, 0.999), seed=st.integers(0, 1000))
def test_whoever_has_two_samples_has_one_to_train_and_one_to_test_with(clients, share, seed):
    federation = toy(clients=clients, test_share=share, pool="all", seed=seed)
    sizes = federation.train.sizes + federation.test.sizes
    assert federation.train.sizes.min() >= 1
    assert (federation.test.sizes[sizes == 1] == 0).all()
    if share > 0:
        assert (federation.test.sizes[sizes > 1] >= 1).all()
    else:
        assert federation.test.sizes.sum() == 0
    inner = (federation.test.sizes > 1) & (federation.train.sizes > 1)
    assert (abs(federation.test.sizes - share * sizes)[inner] <= 0.5 + 1e-9).all()


def test_a_clients_samples_are_split_at_random():
    first, other = (toy(pool="all", partition="natural", users=10, seed=seed) for seed in (0, 1))
    assert indices_of(first.test) != indices_of(other.test)
    for i in range(10):
        assert {*first.train[i], *first.test[i]} == set(range(i, 1000, 10))  # the owner's, whatever the seed
    assert 350 < np.mean(first.test.order) < 650


def test_same_seed_same_bits():
    noisy = {"partition": {"name": "noisy", "base": "dirichlet"}, "normalise": "pixel"}
    first, again, other = toy(**noisy), toy(**noisy), toy(**noisy, seed=1)
    for a, b in (
        (first.x, again.x),
        (first.train.order, again.train.order),
        (first.train.offsets, again.train.offsets),
        (first.test.order, again.test.order),
        (first.server_test, again.server_test),
        (first.scale, again.scale),
        (first.shift, again.shift),
    ):
        assert np.array_equal(a, b)
    assert not np.array_equal(first.train.order, other.train.order)
    assert not np.array_equal(first.x, other.x)


def test_the_official_test_set_is_the_servers():
    federation = toy(official=800)
    assert np.array_equal(federation.server_test, np.arange(800, 1000))
    assert indices_of(federation.train) | indices_of(federation.test) == set(range(800))


def test_pool_all_divides_the_official_test_set_too():
    federation = toy(official=800, pool="all")
    assert len(federation.server_test) == 0
    assert indices_of(federation.train) | indices_of(federation.test) == set(range(1000))
    some = toy(official=800, pool="all", server_test_share=0.1)
    assert len(some.server_test) == 100
    assert some.server_test.min() < 800 <= some.server_test.max()
    assert len(toy(pool="all").server_test) == 0


def test_no_server_test_set():
    assert len(toy(server_test_share=0).server_test) == 0
    federation = toy(official=800, server_test_share=0)
    assert len(federation.server_test) == 0
    assert max(indices_of(federation.train) | indices_of(federation.test)) < 800


def test_clients_own_test_data_stay_theirs():
    federation = toy(held_out=True, partition="natural", users=10)
    assert indices_of(federation.test) == set(range(700, 1000))
    assert len(federation.server_test) == 0
    assert all((federation.test[i] % 10 == i).all() for i in range(10))
    drawn = toy(held_out=True, partition="natural", users=10, server_test_share=0.1)
    assert len(drawn.server_test) == 70
    assert indices_of(drawn.test) == set(range(700, 1000))


def test_inputs_are_normalised_per_channel():
    federation = toy()
    x = federation.x * federation.scale + federation.shift
    assert federation.scale.dtype == federation.shift.dtype == x.dtype == np.float32
    assert x.mean(axis=(0, 2, 3)) == pytest.approx(0, abs=1e-4)
    assert x.std(axis=(0, 2, 3)) == pytest.approx(1, abs=1e-4)


def test_inputs_are_normalised_per_pixel_of_the_pool():
    federation = toy(normalise="pixel")
    rows = np.concatenate([federation.train.order, federation.test.order])
    pool = IMAGES[rows].astype(np.float64)
    expected = (pool - pool.mean(axis=0)) / (pool.std(axis=0) + 0.001)
    assert np.allclose(federation.x[rows] * federation.scale + federation.shift, expected, atol=1e-5)
    assert federation.scale.shape == (2, 3, 3)


def test_inputs_are_only_divided_by_255():
    federation = toy(normalise="none")
    assert np.allclose(federation.x * federation.scale + federation.shift, IMAGES / 255, atol=1e-7)


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.25), ([0.5, 0.1], 0.25), ([0.5, 0.1], [0.25, 2])])
def test_inputs_are_normalised_by_published_numbers(mean, std):
    federation = toy(normalise={"mean": mean, "std": std})
    expected = (IMAGES / 255 - np.reshape(mean, (-1, 1, 1))) / np.reshape(std, (-1, 1, 1))
    assert np.allclose(federation.x * federation.scale + federation.shift, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("normalise", "sentence"),
    [
        ({"mean": 0.5, "std": 0}, "normalise.std = 0: should be greater than 0"),
        ({"mean": 0.5}, "normalise.std is missing"),
        (
            {"mean": [0, 0, 0], "std": 1},
            r"normalise.mean = \[0.0, 0.0, 0.0\]: .* each of the 1 channels",
        ),
        ("mean", "normalise = 'mean': should be 'dataset', 'pixel' or 'none', or a table"),
    ],
)
def test_published_numbers_that_are_none_are_refused(normalise, sentence):
    with pytest.raises(ConfigError, match=f"^data.{sentence}"):
        federate(read_data({"name": "digits", "clients": 4, "normalise": normalise}), 0)


def test_channel_statistics_agree_with_numpy_beyond_a_chunk():
    x = np.random.default_rng(0).normal(5, 3, (5000, 2, 4)).astype(np.float32)
    x[:, 1] = 7
    mean, std = channel_statistics(x)
    assert mean.ravel() == pytest.approx([x[:, 0].mean(), 7], abs=1e-4)
    assert std.ravel() == pytest.approx([x[:, 0].std(), 1], abs=1e-4)  # a constant channel is left as it is


def test_clients_see_shifted_samples_and_the_server_does_not():
    federation = toy(partition={"name": "rotated", "angles": [180]}, official=800)
    assert np.array_equal(federation.x[:800], np.rot90(IMAGES[:800], 2, axes=(2, 3)))
    assert np.array_equal(federation.x[800:], IMAGES[800:])


def test_label_counts():
    federation = toy(partition="pathological", pool="all")
    counts = federation.label_counts()
    assert counts.shape == (10, 4)
    assert counts.sum(axis=0).tolist() == np.bincount(LABELS).tolist()
    assert ((counts > 0).sum(axis=1) == 2).all()
    assert counts.sum(axis=1).tolist() == (federation.train.sizes + federation.test.sizes).tolist()


class Lossy(IID):
    """Forgets a sample."""

    def assign(self, labels, owner, clients, rng):
        shards = super().assign(labels, owner, clients, rng)
        return Shards.of([shards[0][1:], *(shards[i] for i in range(1, clients))])


class Greedy(IID):
    """Gives everything to client 0."""

    def assign(self, labels, owner, clients, rng):
        return Shards.from_sizes(np.arange(len(labels)), np.array([len(labels)] + [0] * (clients - 1)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clients": 801}, "data.clients = 801: there are only 800 samples to divide"),
        ({"partition": "natural"}, "data.partition.name = 'natural': these data do not say who owns which sample; "),
        (
            {"partition": "natural", "users": 10, "clients": 50},
            "data.clients = 50: the data have 10 owners; say 10 or leave it out",
        ),
        ({"partition": "natural", "users": 500, "server_test_share": 0.45}, "data.partition.name = 'natural': client "),
        (
            {"official": 800, "server_test_share": 0.1},
            "data.server_test_share = 0.1: 'toy' has a test set of its own; ",
        ),
        ({"held_out": True, "users": 10}, "data.partition.name = 'iid': these data say for each client "),
        ({"held_out": True, "users": 900, "partition": "natural"}, "data: client 700 has test samples only; "),
        ({"partition": Lossy()}, "data.partition.name = 'iid': it did not give each of the 800 samples to exactly one"),
        ({"partition": Greedy()}, "data.partition.name = 'iid': client 1 would get no sample; "),
    ],
)
def test_an_error_is_one_sentence(options, message):
    with pytest.raises(ConfigError) as caught:
        toy(**options)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": IMAGES.astype(np.float64)}, "uint8 or float32"),
        ({"y": LABELS.astype(np.int32)}, "must be int64"),
        ({"y": LABELS[1:]}, r"of shape \[1000\]"),
        ({"classes": 3}, "labels go from 0 to 3, but classes = 3"),
        ({"owner": np.zeros(9, np.int64)}, r"owner must have shape \[1000\]"),
    ],
)
def test_a_data_set_checks_itself(change, message):
    whole: dict[str, Any] = {"x": IMAGES, "y": LABELS, "classes": 4, "mean": np.zeros(1), "std": np.ones(1)}
    with pytest.raises(ValueError, match=message):
        Dataset(**{**whole, **change})
