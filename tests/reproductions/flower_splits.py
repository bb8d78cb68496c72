"""The splits of Flower's reproduction of NIID-Bench (baselines/niid_bench), sample by sample.

Its experiments differ in initialisation and order alone: whatever seed they are given, who holds what is drawn by
``numpy.random.default_rng(42)``, in the order of draws that is kept here. (``label-quantity``, and ``dirichlet`` with
``balance``, are the same rules with random numbers of ours.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedtl.data.split import Split

SEED = 42

Index = NDArray[np.int64]


def flower_split(labels: Index, clients: int, rule: str, labels_per_client: int = 0) -> Split:
    """Who holds which of the training samples.

    Args:
        labels: of the official training set, in its order.
        clients: how many.
        rule: ``"iid"``, ``"dirichlet"`` (α = 0.5) or ``"label_quantity"``.
        labels_per_client: of the last rule.
    """
    rng = np.random.default_rng(SEED)
    if rule == "iid":
        shares = np.array_split(rng.choice(len(labels), len(labels), replace=False), clients)
    elif rule == "dirichlet":
        shares = _dirichlet(labels, clients, 0.5, rng)
    else:
        shares = _label_quantity(labels, clients, labels_per_client, rng)
    owner = np.repeat(np.arange(clients), [len(each) for each in shares])
    return Split(np.concatenate(shares).astype(np.int64), owner)


def _dirichlet(labels: Index, clients: int, alpha: float, rng: np.random.Generator, least: int = 10) -> Sequence[Index]:
    """Each class in proportions p ~ Dir(α), of which clients with n / N samples get none; again if one has too few."""
    while True:
        parts: list[list[Index]] = [[] for _ in range(clients)]
        sizes = np.zeros(clients, np.int64)
        for label in np.unique(labels):
            rows = rng.permuted(np.flatnonzero(labels == label))
            p = rng.dirichlet(np.full(clients, alpha)) * (sizes < len(labels) / clients)
            cuts = (np.cumsum(p / p.sum()) * len(rows)).astype(np.int64)[:-1]
            for own, piece in zip(parts, np.split(rows, cuts)):
                own.append(piece)
            sizes = np.array([sum(map(len, own)) for own in parts])
        if sizes.min() >= least:
            return [np.concatenate(own) for own in parts]


def _label_quantity(labels: Index, clients: int, k: int, rng: np.random.Generator) -> Sequence[Index]:
    """Client i has label i mod K and k - 1 others; who has a label shares its samples equally."""
    classes = len(np.unique(labels))
    has = [_distinct(client % classes, k, classes, rng) for client in range(clients)]
    parts: list[list[Index]] = [[] for _ in range(clients)]
    for label in range(classes):
        holders = [client for client in range(clients) if label in has[client]]
        rows = rng.permuted(np.flatnonzero(labels == label))
        for client, piece in zip(holders, np.array_split(rows, len(holders))):
            parts[client].append(piece)
    return [np.concatenate(own) for own in parts]


def _distinct(first: int, k: int, classes: int, rng: np.random.Generator) -> list[int]:
    """Labels drawn one by one after the first, a label that is there already in vain."""
    has = [first]
    while len(has) < k:
        label = int(rng.choice(classes, 1)[0])
        if label not in has:
            has.append(label)
    return has
