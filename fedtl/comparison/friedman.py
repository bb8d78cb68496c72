"""Friedman's test of several methods over many settings, and Nemenyi's after it, as Demšar (2006) recommends.

Demšar: Statistical comparisons of classifiers over multiple data sets. JMLR 7, 2006, pages 1-30, section 3.2.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedtl.comparison.statistics import DIGITS, Values


class Friedman(NamedTuple):
    """What the ranks of k methods in n settings say.

    Attributes:
        ranks: mean ranks ``[k]``; 1 is the best, and equal values share their mean rank.
        chi_square: Friedman's statistic, without correction for ties, and so cautious where there are some.
        f: Iman and Davenport's (1980) statistic out of it, with ``k - 1`` and ``(k - 1)(n - 1)`` degrees of freedom;
            infinite where all settings rank alike.
        p: of ``f``, but no smaller than the chance that settings rank alike where no method is better.
        critical_difference: Nemenyi's: mean ranks further apart differ at the test's level.
        nemenyi: p-values of all pairs, ``[k, k]``; 1 on the diagonal.
    """

    ranks: Values
    chi_square: float
    f: float
    p: float
    critical_difference: float
    nemenyi: Values


def friedman(values: Values, alpha: float, smaller_is_better: bool = False) -> Friedman:
    """Test whether some method is better than another over settings.

    Args:
        values: ``[settings, methods]``, two settings and three methods at least.
        alpha: the level of Nemenyi's critical difference.
        smaller_is_better: of the values.
    """
    from scipy.stats import rankdata, studentized_range

    n, k = values.shape
    rounded = np.round(values, DIGITS)
    ranks: Values = rankdata(rounded if smaller_is_better else -rounded, axis=1).mean(axis=0)
    chi_square, statistic, p = iman_davenport(ranks, n)
    unit = math.sqrt(k * (k + 1) / (6 * n))
    # Nemenyi's critical values are those of the studentised range without end, divided by the root of 2.
    apart = np.abs(ranks[:, None] - ranks[None, :]) / unit
    nemenyi: Values = studentized_range.sf(apart * math.sqrt(2), k, np.inf)
    np.fill_diagonal(nemenyi, 1.0)
    difference = float(studentized_range.ppf(1 - alpha, k, np.inf)) / math.sqrt(2) * unit
    return Friedman(ranks, chi_square, statistic, p, difference, nemenyi)


def iman_davenport(ranks: Values, settings: int) -> tuple[float, float, float]:
    """Friedman's statistic, Iman and Davenport's, and the p-value of the latter, out of mean ranks ``[methods]``."""
    from scipy.special import fdtrc

    n, k = settings, len(ranks)
    chi_square = 12 * n / (k * (k + 1)) * float((ranks**2).sum() - k * (k + 1) ** 2 / 4)
    chi_square = max(0.0, chi_square)  # rounding may leave less
    rest = n * (k - 1) - chi_square
    f = (n - 1) * chi_square / rest if rest > 1e-9 else math.inf
    p = 0.0 if math.isinf(f) else float(fdtrc(k - 1, (k - 1) * (n - 1), f))
    return chi_square, f, max(p, smallest_friedman_p(n, k))


def smallest_friedman_p(settings: int, methods: int) -> float:
    """The chance that all settings rank the methods alike, if each order is as likely as any other."""
    return float(math.factorial(methods)) ** (1 - settings)


def cliques(ranks: Values, critical_difference: float) -> list[NDArray[np.int64]]:
    """The largest groups of methods whose mean ranks lie within the critical difference, as a diagram joins them.

    Args:
        ranks: ``[methods]``.
        critical_difference: of two of them.

    Returns:
        Places in ``ranks``, the best first; groups of one, and those within another, are left out.
    """
    order = np.argsort(ranks, kind="stable")
    groups = []
    reached = 0
    for first in range(len(order)):
        within = ranks[order] <= ranks[order[first]] + critical_difference + 10.0**-DIGITS
        last = int(np.flatnonzero(within)[-1]) + 1
        if last - first > 1 and last > reached:
            groups.append(order[first:last])
            reached = last
    return groups
