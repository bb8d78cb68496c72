"""Metrics of several labels a sample: ``labels`` [n, k] of zeros and ones, and the probability of each ``[n, k]``."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedtl.metrics.contract import OfSamples, OfTable, Predictions, Table, Truth, Values
from fedtl.metrics.ranking import AUC, AveragePrecision, Histogram, OfRanking, mean_of_defined


class LabelCounts(Table):
    """Of each label how many samples have it, how many are predicted to, and how many of both: ``[3, k]``."""

    def of(self, labels: Truth, probabilities: Predictions) -> NDArray[np.int64]:
        """The three counts; a label is predicted where its probability is above a half."""
        has, predicted = labels > 0, probabilities > 0.5
        return np.stack([each.sum(0) for each in (has, predicted, has & predicted)]).astype(np.int64)


class MicroF1(OfTable):
    """F1 of all labels' predictions together; not defined where no label is there or predicted."""

    table = LabelCounts

    def of_table(self, table: NDArray[np.int64]) -> Values:
        """2 hits / (there + predicted)."""
        there, predicted, hits = table.sum(1)
        return np.asarray(2 * hits / (there + predicted) if there + predicted else np.nan)


class MacroF1(OfTable):
    """The mean of the labels' F1, 0 for one that is neither there nor predicted, as scikit-learn has it."""

    table = LabelCounts

    def of_table(self, table: NDArray[np.int64]) -> Values:
        """The mean of 2 hits / (there + predicted)."""
        there, predicted, hits = table
        return np.asarray((2 * hits / np.maximum(there + predicted, 1)).mean())


class HammingLoss(OfSamples):
    """The share of labels that are wrong."""

    def each(self, labels: Truth, probabilities: Predictions) -> Values:
        """A sample's share."""
        return np.asarray(((labels > 0) != (probabilities > 0.5)).mean(1))


class SubsetAccuracy(OfSamples):
    """The share of samples of which all labels are right."""

    def each(self, labels: Truth, probabilities: Predictions) -> Values:
        """1 where all are, else 0."""
        return np.asarray(((labels > 0) == (probabilities > 0.5)).all(1).astype(np.float64))


class LabelHistogram(Histogram):
    """Of each label by bins of its probability: samples that have it, and the others: ``[k, 2, 1024]``."""

    @staticmethod
    def rest(labels: Truth, c: int) -> NDArray[np.bool_]:
        """Which samples do not have label ``c``, ``[n]``."""
        return np.asarray(labels[:, c] <= 0)


class OfLabels(OfRanking):
    """A metric of each label's order of samples; the mean over the labels for which it is defined."""

    table: ClassVar[type[Histogram]] = LabelHistogram

    @staticmethod
    def _mean(each: list[float]) -> Values:
        return mean_of_defined(each)


class MacroAUC(OfLabels, AUC):
    """The mean over labels of the area under the ROC curve; of those that some samples have and some do not."""


class MacroAveragePrecision(OfLabels, AveragePrecision):
    """The mean over labels of the average precision, of those that some samples have."""
