"""What every partition in the registry keeps to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtl.choice import ConfigError
from fedtl.data.federation import Shards
from fedtl.data.partitions import PARTITIONS, read_partition
from fedtl.data.partitions.contract import Partition

# A file lists what clients hold, and is no rule: unit/test_splits.py. Another package's partitioners are an extra, and
# no default is one: unit/test_partitions_flwr_datasets.py.
NAMES = sorted(PARTITIONS.keys() - {"file", "flwr-datasets"})


def divide(partition: Partition, n: int, classes: int, clients: int, seed: int) -> Shards:
    rng = np.random.default_rng(7)
    labels = rng.integers(0, classes, n)
    owner = rng.permutation(np.arange(n) % clients)
    return partition.assign(labels, owner, clients, np.random.default_rng(seed))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(
    clients=st.integers(1, 40), per_client=st.integers(1, 60), classes=st.integers(1, 12), seed=st.integers(0, 2**32)
)
def test_every_sample_goes_to_exactly_one_client_or_the_error_says_why(name, clients, per_client, classes, seed):
    n = clients * per_client
    result: Shards | ConfigError
    try:
        result = divide(read_partition(name), n, classes, clients, seed)
    except ConfigError as error:
        result = error
    if isinstance(result, ConfigError):
        assert str(result).startswith("data.")
        return
    shards = result
    assert len(shards) == clients
    assert np.array_equal(np.sort(shards.order), np.arange(n))
    assert shards.sizes.min() >= 1
    assert shards.order.dtype == shards.offsets.dtype == np.int64


@pytest.mark.parametrize("name", NAMES)
def test_an_ordinary_division_succeeds_with_the_default_options(name):
    shards = divide(read_partition(name), n=2000, classes=10, clients=20, seed=0)
    assert np.array_equal(np.sort(shards.order), np.arange(2000))


@pytest.mark.parametrize("name", NAMES)
def test_a_thousand_clients_of_sixty_samples(name):
    shards = divide(read_partition(name), n=60_000, classes=10, clients=1000, seed=0)
    assert np.array_equal(np.sort(shards.order), np.arange(60_000))
    assert shards.sizes.min() >= 1


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_bits(name):
    first, again, other = (divide(read_partition(name), 2000, 10, 20, seed) for seed in (3, 3, 4))
    assert np.array_equal(first.order, again.order)
    assert np.array_equal(first.offsets, again.offsets)
    same = np.array_equal(first.order, other.order) and np.array_equal(first.offsets, other.offsets)
    assert same == read_partition(name).by_owner  # where the data decide, there is nothing to draw


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_shift_keeps_shape_and_dtype_and_leaves_its_input_and_other_samples_alone(name, dtype):
    partition = read_partition(name)
    x = np.random.default_rng(0).integers(0, 256, (300, 1, 6, 6)).astype(dtype)
    before = x.copy()
    shards = divide(partition, n=240, classes=4, clients=6, seed=0)  # the last 60 samples are nobody's
    seen = partition.shift(x, shards, 5)
    assert seen.shape == x.shape
    assert seen.dtype == dtype
    assert np.array_equal(x, before)
    assert np.array_equal(seen[240:], x[240:])
    assert np.array_equal(seen, partition.shift(x, shards, 5))


@pytest.mark.parametrize("name", NAMES)
def test_the_choice_reads_back_equal_from_its_own_dump(name):
    choice = read_partition(name)
    assert choice.name == name
    assert read_partition(choice.model_dump(mode="json")) == choice


@pytest.mark.parametrize("name", NAMES)
def test_more_clients_than_samples_is_an_error(name):
    partition = read_partition(name)
    if partition.by_owner:
        pytest.skip("the owners decide how many clients there are")
    with pytest.raises(ConfigError, match=r"^data\."):
        partition.assign(np.arange(10) % 5, None, 11, np.random.default_rng(0))


@pytest.mark.parametrize("name", NAMES)
def test_the_class_says_in_a_line_what_it_is(name):
    assert (type(read_partition(name)).__doc__ or "").splitlines()[0].endswith((".", ";", ","))
