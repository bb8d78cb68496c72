"""From a data set to its federated view: who holds what, and what is for testing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.data.batches import stream
from fedtl.data.dataset import Dataset, Samples, pixel_statistics
from fedtl.data.federation import Federation, Shards
from fedtl.data.partition import by_label
from fedtl.data.settings import DataChoice

SERVER_TEST, ASSIGN, CLIENT_TEST = 201, 202, 203
DEFAULT_SERVER_TEST_SHARE = 0.2

SPLIT_AT_ONCE = 2**18
"""Samples whose order is drawn at a time."""


def federate(data: DataChoice, seed: int) -> Federation:
    """Load a data set and divide it; same choice and seed, same bits.

    Raises:
        ConfigError: the data cannot be had, or not be divided as asked.
    """
    dataset = data.load()
    if dataset.held_out is not None and not data.partition.by_owner:
        raise ConfigError(
            f"data.partition.name = {data.partition.name!r}: these data say for each client which samples are its test "
            "data, so 'natural' must divide them"
        )
    pool, server_test = split_server_test(data, dataset, seed)
    held = assign(data, dataset, pool, seed)
    x = data.partition.shift(dataset.x, held, seed)
    if dataset.held_out is None:
        train, test = split_clients(held, data.test_share, seed)
    else:
        train, test = split_held_out(held, dataset.held_out)
    scale, shift = normalisation(data, dataset, x, held.order)
    return Federation(
        x=x,
        y=dataset.y,
        classes=dataset.classes,
        scale=scale,
        shift=shift,
        train=train,
        test=test,
        server_test=server_test,
        label_names=dataset.label_names,
    )


def split_server_test(data: DataChoice, dataset: Dataset, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the samples that the clients divide, and of the server's test set; both ascending.

    The rule stands in :class:`~fedtl.data.settings.DataChoice`.
    """
    n = len(dataset.x)
    official = dataset.official_test if data.pool == "train" else None
    share = data.server_test_share
    if official is not None:
        if share:
            raise ConfigError(
                f"data.server_test_share = {share:g}: {data.name!r} has a test set of its own; leave the share out to "
                "use that, or set data.pool = 'all' to draw from all samples"
            )
        return np.arange(official), np.arange(official, n if share is None else official)
    if share is None:
        share = DEFAULT_SERVER_TEST_SHARE if data.pool == "train" and dataset.held_out is None else 0.0
    if not share:
        return np.arange(n), np.arange(0)
    free = np.arange(n) if dataset.held_out is None else np.flatnonzero(~dataset.held_out)
    drawn = free[stratified(dataset.y[free], share, stream(seed, SERVER_TEST))]
    chosen = np.zeros(n, np.bool_)
    chosen[drawn] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def stratified(labels: NDArray[np.int64], share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Random indices of ``share`` of the samples, and of each label's samples up to one."""
    per_class = np.bincount(labels)
    ends = np.cumsum(per_class)
    take = np.diff(np.rint(ends * share).astype(np.int64), prepend=0)
    place = np.arange(len(labels)) - np.repeat(ends - per_class, per_class)
    return by_label(labels, rng)[place < np.repeat(take, per_class)]


def assign(data: DataChoice, dataset: Dataset, pool: NDArray[np.int64], seed: int) -> Shards:
    """Divide the pool; indices into the whole data set, checked to be a partition."""
    everything = len(pool) == len(dataset.y)  # in order: then a copy of the labels would be the same
    labels = dataset.y if everything else dataset.y[pool]
    owner = dataset.owner if everything or dataset.owner is None else dataset.owner[pool]
    users = 0 if dataset.owner is None else int(dataset.owner.max(initial=-1)) + 1
    clients = data.clients or users
    if data.partition.by_owner and users and clients != users:
        raise ConfigError(f"data.clients = {clients}: the data have {users} owners; say {users} or leave it out")
    if clients > len(pool):
        raise ConfigError(f"data.clients = {clients}: there are only {len(pool)} samples to divide")
    shards = data.partition.assign(labels, owner, clients, stream(seed, ASSIGN))
    key = f"data.partition.name = {data.partition.name!r}"
    if len(shards) != clients:
        raise ConfigError(f"{key}: it made {len(shards)} clients, not {clients}")
    if len(shards.order) != len(pool) or (np.bincount(shards.order, minlength=len(pool)) != 1).any():
        raise ConfigError(f"{key}: it did not give each of the {len(pool)} samples to exactly one client")
    if (shards.sizes == 0).any():
        raise ConfigError(
            f"{key}: client {int(np.argmin(shards.sizes))} would get no sample; have fewer clients, or a smaller "
            "data.server_test_share"
        )
    return shards if everything else Shards(pool[shards.order], shards.offsets)


def split_clients(held: Shards, share: float, seed: int) -> tuple[Shards, Shards]:
    """Split each client's samples at random into train and test.

    A client with two samples or more has at least one of each (where ``share`` > 0); a single one is for training.
    """
    sizes = held.sizes
    tests = np.zeros_like(sizes)
    if share > 0:
        tests = np.minimum(np.maximum(np.rint(sizes * share).astype(np.int64), 1), sizes - 1)
    train, test = _empty(sizes - tests), _empty(tests)
    draws = stream(seed, CLIENT_TEST).random(len(held.order))
    for clients in _of_one_size(sizes):
        size, n_test = sizes[clients[0]], tests[clients[0]]
        rows = _rows(held.offsets, clients, size)
        mixed = held.order[np.take_along_axis(rows, np.argsort(draws[rows], axis=1, kind="stable"), axis=1)]
        test.order[_rows(test.offsets, clients, n_test)] = mixed[:, :n_test]
        train.order[_rows(train.offsets, clients, size - n_test)] = mixed[:, n_test:]
    return train, test


def _of_one_size(sizes: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """The clients in groups of equal size, so few at a time that arrays over their samples stay small."""
    by_size = np.argsort(sizes, kind="stable")
    values, starts = np.unique(sizes[by_size], return_index=True)
    for size, group in zip(values, np.split(by_size, starts[1:]), strict=True):
        most = max(1, SPLIT_AT_ONCE // int(size))
        for first in range(0, len(group), most):
            yield group[first : first + most]


def _rows(offsets: NDArray[np.int64], clients: NDArray[np.int64], size: np.int64) -> NDArray[np.int64]:
    """Where the entries of clients of one size stand in their ``Shards.order``, ``[clients, size]``."""
    return offsets[clients, None] + np.arange(size)


def _empty(sizes: NDArray[np.int64]) -> Shards:
    return Shards.from_sizes(np.empty(sizes.sum(), np.int64), sizes)


def split_held_out(held: Shards, held_out: NDArray[np.bool_]) -> tuple[Shards, Shards]:
    """Split each client's samples as the data say."""
    client_of, is_test = held.client_of, held_out[held.order]

    def part(chosen: NDArray[np.bool_]) -> Shards:
        return Shards.from_sizes(held.order[chosen], np.bincount(client_of[chosen], minlength=len(held)))

    train, test = part(~is_test), part(is_test)
    if (train.sizes == 0).any():
        raise ConfigError(
            f"data: client {int(np.argmin(train.sizes))} has test samples only; each needs one to train with"
        )
    return train, test


def normalisation(
    data: DataChoice, dataset: Dataset, x: Samples, pool: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """``scale`` and ``shift`` such that a model's input is ``x * scale + shift``."""
    unit = 255.0 if x.dtype == np.uint8 else 1.0
    if data.normalise == "pixel":
        mean, std = pixel_statistics(x, np.sort(pool))
        scale = 1 / (std + 0.001)
        return scale.astype(np.float32), (-mean * scale).astype(np.float32)
    if data.normalise == "none":
        ones = np.ones((1,) * (x.ndim - 1), np.float32)
        return (ones / unit).astype(np.float32), np.zeros_like(ones)
    mean, std = dataset.mean.astype(np.float64), dataset.std.astype(np.float64)
    return (1 / (unit * std)).astype(np.float32), (-mean / std).astype(np.float32)
