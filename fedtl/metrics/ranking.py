"""Metrics of the order in which a class's probability puts samples.

Each class is told from the rest by its own probability. With two classes the metric is class 1's, otherwise the mean
over the classes for which it is defined, as torchmetrics has it; scikit-learn refuses where a class is absent.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedtl.metrics.contract import Labels, Metric, Probabilities, Table, Values

BINS = 1024
"""Of probability, where predictions themselves stay at the clients."""


class Histogram(Table):
    """Of each class by bins of its probability: its own samples, and the others: ``[k, 2, 1024]``."""

    bins = BINS

    def of(self, labels: Labels, probabilities: Probabilities) -> NDArray[np.int64]:
        """The counts; a bin has its lower end."""
        k = probabilities.shape[1]
        bins = np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)
        table = np.zeros((k, 2, BINS), np.int64)
        for c in range(k):
            np.add.at(table[c], (self.rest(labels, c).astype(np.int64), bins[:, c]), 1)
        return table

    @staticmethod
    def rest(labels: Labels, c: int) -> NDArray[np.bool_]:
        """Which samples are of another class than ``c``, ``[n]``."""
        return np.asarray(labels != c)


class OfRanking(Metric):
    """A metric of two classes' order, averaged over the classes."""

    table: ClassVar[type[Histogram]] = Histogram
    exact = False

    def of(self, labels: Labels, probabilities: Probabilities) -> Values:
        """The metric of n ≥ 1 samples, exactly."""
        own = [~self.table.rest(labels, c) for c in range(probabilities.shape[1])]
        return self._mean([self._of_levels(*levels(has, p)) for has, p in zip(own, probabilities.T)])

    def of_table(self, table: NDArray[np.int64]) -> Values:
        """The metric where samples of one bin count as tied."""
        return self._mean([self._of_levels(own.astype(np.float64), rest.astype(np.float64)) for own, rest in table])

    @abstractmethod
    def _of_levels(self, own: Values, rest: Values) -> float:
        """The metric out of the numbers of samples at each level of the probability, in ascending order."""

    @staticmethod
    def _mean(each: list[float]) -> Values:
        return np.asarray(each[1]) if len(each) == 2 else mean_of_defined(each)


class AUC(OfRanking):
    """The area under the ROC curve, of each class against the rest; not defined where one of the two is absent."""

    def _of_levels(self, own: Values, rest: Values) -> float:
        pairs = own.sum() * rest.sum()
        below = np.cumsum(rest) - rest
        return float((own * (below + rest / 2)).sum() / pairs) if pairs else np.nan


class AveragePrecision(OfRanking):
    """Average precision Σ (R_j - R_{j-1}) P_j over falling thresholds; not defined where the class is absent."""

    def _of_levels(self, own: Values, rest: Values) -> float:
        if not own.sum():
            return np.nan
        own, rest = own[::-1], rest[::-1]
        hits = np.cumsum(own)
        chosen = np.maximum(hits + np.cumsum(rest), 1)  # 0 only where nothing is at a level or above
        return float((own / own.sum() * hits / chosen).sum())


def mean_of_defined(each: list[float]) -> Values:
    """The mean of those values that are defined, which none may be."""
    defined = [value for value in each if not np.isnan(value)]
    return np.asarray(np.mean(defined) if defined else np.nan)


def levels(own: NDArray[np.bool_], p: Values) -> tuple[Values, Values]:
    """How many samples of a class, and how many others, have each of the values that p takes, ascending."""
    values, level = np.unique(p, return_inverse=True)
    most = len(values)
    return (
        np.bincount(level[own], minlength=most).astype(np.float64),
        np.bincount(level[~own], minlength=most).astype(np.float64),
    )
