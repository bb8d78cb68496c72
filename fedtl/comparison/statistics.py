"""The statistics of a comparison, on plain arrays of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

DIGITS = 12
"""Decimals of differences that count: 0.8 - 0.7 and 0.9 - 0.8 are the same difference."""
EXACT = 100
"""Up to so many pairs p-values are exact; of more, by scipy's normal approximation, corrected for ties."""


class Spread(NamedTuple):
    """A number over seeds.

    Attributes:
        mean: over the seeds.
        deviation: of the sample (divided by seeds - 1); None of a single seed.
        seeds: how many.
    """

    mean: float
    deviation: float | None
    seeds: int


class SignedRank(NamedTuple):
    """Wilcoxon's signed-rank test of paired differences, two-sided.

    Attributes:
        p: the p-value; 1 where all differences are zero.
        effect: the matched-pairs rank-biserial correlation (Kerby 2014), -1 to 1: the share of the sum of ranks that is
            in favour, minus the share against; 0 where all differences are zero.
        pairs: how many differences are not zero; the others say nothing here.
    """

    p: float
    effect: float
    pairs: int


def spread(values: Sequence[float]) -> Spread:
    """Mean and deviation of one value a seed."""
    array = np.asarray(values, np.float64)
    return Spread(float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None, len(array))


def jain(values: Values) -> float:
    """Jain's fairness index (Jain, Chiu and Hawe 1984): 1 if all are equal, 1/n if one has everything.

    NaN where there is no value, or all are zero; and of values below zero, as R² may have, of which it says nothing.
    """
    if (values < 0).any():
        return math.nan
    squares = float(len(values) * (values**2).sum())
    return float(values.sum() ** 2 / squares) if squares else math.nan


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjustment: compared with a level, it keeps the family's error rate below that."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def signed_rank(differences: Values) -> SignedRank:
    """Wilcoxon's signed-rank test; zeros are dropped, as Wilcoxon did, and ties share their mean rank."""
    from scipy.stats import rankdata, wilcoxon

    nonzero = np.round(differences, DIGITS)
    nonzero = nonzero[nonzero != 0]
    if not len(nonzero):
        return SignedRank(1.0, 0.0, 0)
    ranks = rankdata(np.abs(nonzero))
    positive, whole = float(ranks[nonzero > 0].sum()), float(ranks.sum())
    p = _exact(ranks, positive) if len(nonzero) <= EXACT else float(wilcoxon(nonzero).pvalue)
    return SignedRank(p, (2 * positive - whole) / whole, len(nonzero))


def smallest_p(pairs: int) -> float:
    """The smallest p-value that the signed-rank test can have with so many pairs."""
    return min(1.0, 2.0 ** (1 - pairs))


def interval_over_seeds(values: Sequence[float], level: float) -> tuple[float, float] | None:
    """Student's interval of the mean of one value a seed, with seeds - 1 degrees of freedom; None of a single seed."""
    from scipy.stats import ttest_1samp

    if len(values) < 2:
        return None
    if np.ptp(np.round(values, DIGITS)) == 0:  # scipy warns, and gives NaN
        return (float(np.mean(values)),) * 2
    low, high = ttest_1samp(values, 0.0).confidence_interval(level)
    return float(low), float(high)


def _exact(ranks: Values, positive: float) -> float:
    """The two-sided p-value over all 2^n signs of these very ranks, so that it is exact with ties, unlike scipy's."""
    doubled = np.rint(2 * ranks).astype(np.int64)  # mean ranks of ties end in .5
    chance = np.ones(1)
    for rank in doubled:  # of each sum of positive ranks
        wider = np.zeros(len(chance) + rank)
        wider[: len(chance)] += chance / 2
        wider[rank:] += chance / 2
        chance = wider
    at = round(2 * positive)
    return min(1.0, 2 * float(min(chance[: at + 1].sum(), chance[at:].sum())))
