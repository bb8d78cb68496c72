"""Label skew: each client's own distribution over the labels is drawn from a Dirichlet distribution."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedtl.data.federation import Shards
from fedtl.data.partitions.contract import Partition, deal, need_samples, split_evenly

CANDIDATES = 20
"""Draws that are tried at a time for a client whose draw is replaced."""

REPLACED = 2000
"""So many times a client's draw may be replaced; with more clients than that, chance alone comes out even."""

SCALINGS = 100
"""Of rows and columns in turn; a client's last samples are fitted one by one."""


class ClientDirichlet(Partition):
    """Label skew with equal sizes: client i has labels in proportions q_i ~ Dir(alpha * p), p being those of all data.

    The per-client variant of Hsu et al. 2019 (arXiv 1909.06335) and of FLGo (Wang et al. 2023, arXiv 2306.12079), whose
    benchmark has MNIST with 100 clients and alpha = 0.1. Sizes differ by one at most. ``alpha`` is the sum of the
    distribution's parameters: with 10 balanced classes each is alpha / 10, so that alpha = 0.1 gives most clients one
    label. (``dirichlet`` draws for each class how it is spread over the clients, and sizes differ.)

    Draws of all clients do not add up to the samples that there are. As FLGo does, clients' draws are replaced by
    others that bring the sum nearer to the data's, here the best of 20 for one client after another, at most 2,000
    times; what is still amiss then is scaled away, rows and columns in turn, and rounded. Every sample is somebody's.

    Attributes:
        alpha: concentration; towards 0 each client has one label, towards infinity all are alike.
    """

    name: str = "client-dirichlet"
    alpha: float = Field(0.5, gt=0, le=1e9)

    def assign(
        self, labels: NDArray[np.int64], owner: NDArray[np.int64] | None, clients: int, rng: np.random.Generator
    ) -> Shards:
        """See :class:`~fedtl.data.partitions.contract.Partition`."""
        need_samples(len(labels), clients)
        per_class = np.bincount(labels)
        present = np.flatnonzero(per_class)
        sizes = split_evenly(len(labels), clients)
        wanted = sizes[:, None] * self._draw(per_class[present], sizes, rng)
        counts = np.zeros((len(per_class), clients), np.int64)
        counts[present] = _whole(_scaled(wanted, sizes, per_class[present]), sizes, per_class[present], rng).T
        return deal(labels, counts, rng)

    def _draw(
        self, per_class: NDArray[np.int64], sizes: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Each client's proportions, ``[clients, classes]``, whose weighted sum is near the data's."""
        # None may be 0, which the smallest alpha times a share may come to.
        parameters = np.maximum(self.alpha * per_class / per_class.sum(), 1e-300)
        drawn = rng.dirichlet(parameters, len(sizes))
        amiss = sizes @ drawn - per_class
        for turn in range(REPLACED):
            if abs(amiss).max() < 1:
                break
            client = turn % len(sizes)
            candidates = rng.dirichlet(parameters, CANDIDATES)
            without = amiss - sizes[client] * drawn[client]
            each = without + sizes[client] * candidates
            best = int(np.argmin(np.square(each).sum(axis=1)))
            if np.square(each[best]).sum() < np.square(amiss).sum():
                drawn[client], amiss = candidates[best], each[best]
        return drawn


def _scaled(wanted: NDArray[np.float64], sizes: NDArray[np.int64], per_class: NDArray[np.int64]) -> NDArray[np.float64]:
    """``wanted`` with rows and columns scaled in turn until both sums are near what they should be."""
    table = wanted + 1e-9  # no class is nobody's
    for _ in range(SCALINGS):
        table *= per_class / table.sum(axis=0)
        rows = table.sum(axis=1)
        table *= (sizes / rows)[:, None]
        if abs(rows - sizes).max() < 0.1:
            break
    return table


def _whole(
    table: NDArray[np.float64], sizes: NDArray[np.int64], per_class: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Whole numbers near a table's, whose rows sum to ``sizes`` and columns to ``per_class``."""
    counts, left = np.zeros(table.shape, np.int64), per_class.copy()
    order = rng.permutation(len(sizes))
    for client in order:
        counts[client] = np.minimum(np.floor(table[client]), left)
        left -= counts[client]
    for client in order:
        need = int(sizes[client] - counts[client].sum())
        for label in np.argsort(counts[client] - table[client], kind="stable"):
            if not need:
                break
            more = min(1, need, int(left[label]))
            counts[client, label] += more
            left[label] -= more
            need -= more
        for label in np.argsort(-table[client], kind="stable") if need else ():
            more = min(need, int(left[label]))
            counts[client, label] += more
            left[label] -= more
            need -= more
    return counts
