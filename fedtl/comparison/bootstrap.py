"""Bootstrap intervals of many weighted means, out of the same draws."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedtl.comparison.statistics import DIGITS, Values

Ends = tuple[float, float]
"""The lower and the upper end of an interval."""

BCA = 500
"""Up to so many clients in all bootstrap intervals are bias-corrected and accelerated (BCa); of more, percentiles."""
TOGETHER = 100
"""Means whose intervals are found together; more would take more memory and hardly less time."""
AT_ONCE = 2_000_000
"""Clients drawn at once. Which draws a seed gives depends on it."""
CACHED = 50_000
"""Clients of draws that a processor keeps close while it goes through all means."""


class Stratum(NamedTuple):
    """Clients that are drawn from together: differences and weights, ``[clients]`` each."""

    differences: Values
    weights: Values


def weighted_mean(strata: Sequence[Stratum]) -> float:
    """The mean over strata of their weighted means."""
    return float(np.mean([np.average(each.differences, weights=each.weights) for each in strata]))


def interval(strata: Sequence[Stratum], level: float, resamples: int, seed: int) -> Ends | None:
    """The one of :func:`intervals` of a single mean."""
    return intervals([strata], level, resamples, seed)[0]


def intervals(means: Sequence[Sequence[Stratum]], level: float, resamples: int, seed: int) -> list[Ends | None]:
    """Bootstrap intervals of the :func:`weighted_mean` of each: clients are drawn anew within each stratum.

    Each mean has the interval that it has alone: what is drawn depends on the seed and on the strata's sizes, and
    means whose strata have the same sizes are of the same draws.

    Args:
        means: the strata of each, which are the clients of each seed.
        level: as 0.95.
        resamples: how often.
        seed: of the draws; equal ones give equal intervals.

    Returns:
        Lower and upper end of each; None where some stratum has a single client, from which nothing can be drawn anew.
    """
    ends: list[Ends | None] = [None] * len(means)
    of_sizes: dict[tuple[int, ...], list[int]] = {}
    for place, strata in enumerate(means):
        sizes = tuple(len(each.differences) for each in strata)
        if min(sizes) < 2:
            continue
        # Without any variation every draw is the same; scipy gives NaN there.
        if all(np.ptp(np.round(each.differences, DIGITS)) == 0 for each in strata):
            ends[place] = (weighted_mean(strata),) * 2
        else:
            of_sizes.setdefault(sizes, []).append(place)
    for alike in of_sizes.values():
        for first in range(0, len(alike), TOGETHER):
            places = alike[first : first + TOGETHER]
            for place, both in zip(places, _together([means[place] for place in places], level, resamples, seed)):
                ends[place] = both
    return ends


def _together(means: Sequence[Sequence[Stratum]], level: float, resamples: int, seed: int) -> list[Ends | None]:
    """The intervals of means whose strata have the same sizes; None where draws give no number."""
    drawn = _drawn_anew(means, resamples, seed)
    ends: list[Ends | None] = [None] * len(means)
    clients = sum(len(each.differences) for each in means[0])
    for method in ("BCa", "percentile") if clients <= BCA else ("percentile",):
        lacking = [place for place, both in enumerate(ends) if both is None]
        if lacking:
            found = _ends([means[place] for place in lacking], drawn[lacking], level, method)
            for place, low, high in zip(lacking, *found):
                if math.isfinite(low) and math.isfinite(high):
                    ends[place] = (float(low), float(high))
    return ends


def _drawn_anew(means: Sequence[Sequence[Stratum]], resamples: int, seed: int) -> Values:
    """The means of clients that are drawn anew, ``[means, resamples]``."""
    generator = np.random.default_rng(seed)
    columns = list(zip(*means))  # each stratum of all means
    sizes = [len(column[0].differences) for column in columns]
    batch = max(1, AT_ONCE // sum(sizes))
    drawn = np.empty((len(means), resamples))
    for first in range(0, resamples, batch):
        count = min(batch, resamples - first)
        parts = np.empty((len(means), len(columns), count))
        for part, (size, column) in enumerate(zip(sizes, columns)):
            index = generator.integers(0, size, (count, size))  # as scipy's bootstrap draws
            parts[:, part] = _weighted_means(column, index)
        drawn[:, first : first + count] = [each.mean(0) for each in parts]
    return drawn


def _weighted_means(column: Sequence[Stratum], index: NDArray[np.int64]) -> Values:
    """Of each, over the clients that are drawn: ``[column, resamples]`` out of ``[resamples, clients]``.

    A product of matrices, how often each client is drawn times the values, would be quicker still. But it rounds
    otherwise, and where scores have few values, many draws equal the mean but for the rounding, and count as above or
    below it.
    """
    means = np.empty((len(column), len(index)))
    products = [each.differences * each.weights for each in column]
    keys = [each.weights.tobytes() for each in column]  # mostly equal, as all are on the same clients
    rows = max(1, CACHED // index.shape[1])
    for first in range(0, len(index), rows):
        few = index[first : first + rows]
        room = np.empty(few.shape)
        weights = {key: _sums(each.weights, few, room) for key, each in dict(zip(keys, column)).items()}
        for place, (product, key) in enumerate(zip(products, keys)):
            means[place, first : first + rows] = _sums(product, few, room) / weights[key]
    return means


def _sums(values: Values, index: NDArray[np.int64], room: Values) -> Values:
    """``values[index].sum(-1)``."""
    # With numpy's other modes it would first take into memory of its own.
    total: Values = np.take(values, index, out=room, mode="clip").sum(-1)
    return total


def _ends(
    means: Sequence[Sequence[Stratum]], drawn: Values, level: float, method: str
) -> tuple[Sequence[float], Sequence[float]]:
    """Lower and upper ends by the means that were drawn."""
    from scipy.stats import bootstrap

    products = [np.array([each.differences * each.weights for each in column]) for column in zip(*means)]
    weights = [np.array([each.weights for each in column]) for column in zip(*means)]

    def statistic(*indices: NDArray[np.int64], axis: int = -1) -> Values:
        parts = [
            np.take(product, index, -1).sum(axis) / np.take(weight, index, -1).sum(axis)
            for product, weight, index in zip(products, weights, indices)
        ]
        return np.array([np.mean([part[mean] for part in parts], axis=0) for mean in range(len(means))])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that BCa cannot be had, which the NaN says too
        low, high = bootstrap(
            [np.arange(product.shape[1]) for product in products],
            statistic,
            n_resamples=0,  # besides those that there are
            bootstrap_result=SimpleNamespace(bootstrap_distribution=drawn),
            batch=max(1, AT_ONCE // sum(product.size for product in products)),  # of the jackknife
            vectorized=True,
            confidence_level=level,
            method=method,
        ).confidence_interval
    return low, high
