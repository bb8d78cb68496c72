"""Metrics of predicted labels, out of three counts a class."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from fedtl.metrics.contract import Labels, OfTable, Probabilities, Table, Values


class Counts(Table):
    """Of each class how many samples it has, how many are predicted as it, and how many of both: ``[3, k]``."""

    def of(self, labels: Labels, probabilities: Probabilities) -> NDArray[np.int64]:
        """The three counts; of equally probable classes the first is predicted."""
        k, predicted = probabilities.shape[1], probabilities.argmax(1)
        rows = (labels, predicted, labels[labels == predicted])
        return np.stack([np.bincount(row, minlength=k) for row in rows]).astype(np.int64)


class OfCounts(OfTable):
    """A metric of true positives, samples and predictions of each class."""

    table = Counts

    def of_table(self, table: NDArray[np.int64]) -> Values:
        """The metric out of the three counts ``[3, k]``."""
        samples, predicted, hits = table.astype(np.float64)
        return np.asarray(self.of_counts(samples, predicted, hits))

    @abstractmethod
    def of_counts(self, samples: Values, predicted: Values, hits: Values) -> Values:
        """The metric out of counts ``[k]``."""


class BalancedAccuracy(OfCounts):
    """The mean recall of the classes that have samples (Brodersen et al. 2010)."""

    def of_counts(self, samples: Values, predicted: Values, hits: Values) -> Values:
        """Mean over classes with samples of hits / samples."""
        return _mean_where(samples > 0, _share(hits, samples))


class RecallByClass(OfCounts):
    """Each class's recall, ``recall_by_class/0`` and so on: the share of its samples that are predicted as it."""

    by_class = True

    def of_counts(self, samples: Values, predicted: Values, hits: Values) -> Values:
        """Hits / samples, not defined where a class has none."""
        return _share(hits, samples)


class PrecisionByClass(OfCounts):
    """Each class's precision, ``precision_by_class/0`` and so on: the share of right ones among its predictions."""

    by_class = True

    def of_counts(self, samples: Values, predicted: Values, hits: Values) -> Values:
        """Hits / predicted, not defined where a class is never predicted."""
        return _share(hits, predicted)


class MacroPrecision(OfCounts):
    """The classes' mean precision, 0 for those that have samples and are never predicted."""

    def of_counts(self, samples: Values, predicted: Values, hits: Values) -> Values:
        """Mean over classes that occur, in labels or predictions."""
        return _mean_where(samples + predicted > 0, _share(hits, np.maximum(predicted, 1)))


class MacroF1(OfCounts):
    """The mean of the classes' F1, over the classes that occur in labels or predictions."""

    def of_counts(self, samples: Values, predicted: Values, hits: Values) -> Values:
        """F1 = 2 hits / (samples + predicted)."""
        return _mean_where(samples + predicted > 0, _share(2 * hits, samples + predicted))


class WeightedF1(OfCounts):
    """The mean of the classes' F1, weighted by their samples."""

    def of_counts(self, samples: Values, predicted: Values, hits: Values) -> Values:
        """Σ samples F1 / Σ samples."""
        f1 = _share(2 * hits, np.maximum(samples + predicted, 1))
        return np.asarray((samples * f1).sum() / samples.sum())


def _share(part: Values, whole: Values) -> Values:
    """Part / whole, NaN where the whole is 0."""
    share: Values = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return share


def _mean_where(counted: NDArray[np.bool_], values: Values) -> Values:
    return np.asarray(values[counted].sum() / counted.sum())
