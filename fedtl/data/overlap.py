"""Test samples that another client trains on: a global model has seen them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fedtl.data.dataset import Samples, chunks
from fedtl.data.federation import Shards

Index = NDArray[np.int64]


def identities(x: Samples) -> Index:
    """A number for each sample ``[n]``, the same for two samples exactly if they are equal; -0.0 is 0.0.

    Two that differ have the same number with a probability of 2**-64, and the numbers are others in each process.
    """
    numbers = np.empty(len(x), np.int64)
    for rows in chunks(np.arange(len(x))):
        few = np.ascontiguousarray(x[rows[0] : rows[-1] + 1]).reshape(len(rows), -1)
        if few.dtype.kind == "f":
            few = np.add(few, 0)  # -0.0 has other bytes than 0.0
        whole = few.view(np.dtype((np.void, few.shape[1] * few.itemsize))).ravel()
        numbers[rows] = np.fromiter(map(hash, whole.tolist()), np.int64, len(rows))
    return numbers


def trained_elsewhere(numbers: Index, test: Shards, trains: Iterable[Shards]) -> NDArray[np.bool_]:
    """Which test samples another client trains on, ``[len(test.order)]``.

    Args:
        numbers: of :func:`identities`, for each row that shards name.
        test: each client's test samples.
        trains: what each client trains on, with labels or without.
    """
    each = [(numbers[train.order], train.client_of) for train in trains]
    seen, by = (np.concatenate(parts) for parts in zip(*each))
    asked = numbers[test.order]
    result = np.zeros(len(asked), np.bool_)
    if not len(seen):
        return result
    ordered = np.sort(seen)  # np.isin takes three times the memory
    known = ordered[np.minimum(np.searchsorted(ordered, asked), len(ordered) - 1)] == asked
    del ordered
    if not known.any():  # as a rule
        return result
    names, place = np.unique(seen, return_inverse=True)
    least, most = np.full(len(names), np.iinfo(np.int64).max), np.full(len(names), -1)
    np.minimum.at(least, place, by)
    np.maximum.at(most, place, by)
    there = np.searchsorted(names, asked[known])
    mine = test.client_of[known]
    result[known] = (least[there] != mine) | (most[there] != mine)
    return result


def sentence(count: int, tests: int) -> str:
    """How many of the clients' test samples others train on, as a warning."""
    return (
        f"warning: {100 * count / tests:.1f} % of the clients' test samples ({count} of {tests}) are equal to training "
        "samples of another client, so a global model has seen them"
    )
