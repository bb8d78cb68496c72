"""Metrics of predicted numbers, in the outcomes' own units, and of predicted risks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedtl.metrics.contract import Metric, OfSamples, OfTable, Predictions, Table, Truth, Values
from fedtl.moments import pooled


class MeanSquaredError(OfSamples):
    """The mean of (f - y)², over samples and each one's numbers."""

    def each(self, labels: Truth, probabilities: Predictions) -> Values:
        """A sample's mean over its numbers."""
        return np.asarray(np.square(probabilities - labels).mean(1))


class MeanAbsoluteError(OfSamples):
    """The mean of |f - y|, over samples and each one's numbers."""

    def each(self, labels: Truth, probabilities: Predictions) -> Values:
        """A sample's mean over its numbers."""
        return np.asarray(np.abs(probabilities - labels).mean(1))


class Errors(Table):
    """Of each of a sample's numbers, over the samples: how many, ȳ, Σ (y - ȳ)² and Σ (f - y)², ``[4, k]``."""

    dtype: ClassVar[type[np.int64 | np.float64]] = np.float64

    def of(self, labels: Truth, probabilities: Predictions) -> NDArray[np.float64]:
        """The four rows; of what does not vary the mean is exact, and the third is 0."""
        n, k = probabilities.shape
        if not n:
            return np.zeros((4, k))
        constant = labels.max(0) == labels.min(0)
        mean = np.where(constant, labels[0], labels.mean(0))
        errors = np.square(probabilities - labels).sum(0)
        return np.stack([np.full(k, n), mean, np.square(labels - mean).sum(0), errors])

    def joined(self, each: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Of all groups' samples, by :func:`fedtl.moments.pooled`."""
        some = [table for table in each if table[0, 0]]
        if not some:
            return each[0]
        counts, means, squares, errors = np.stack(some, 1)
        sums = [(int(n[0]), n * mean, square) for n, mean, square in zip(counts, means, squares)]
        count, total, square = pooled(sums, np.float64)
        alike = (means == means[0]).all(0)
        mean, square = np.where(alike, means[0], total / count), np.where(alike, squares.sum(0), square)
        return np.stack([counts.sum(0), mean, square, errors.sum(0)])

    def can_be(self, table: NDArray[np.float64], samples: int) -> bool:
        """Whether there are as many samples of each number, and no sum of squares is below 0."""
        count = table[0, 0]
        return bool(
            0 <= count <= samples and count == round(count) and (table[0] == count).all() and (table[2:] >= 0).all()
        )


class RootMeanSquaredError(Metric):
    """The root of the mean of (f - y)²; pooled, of all samples' mean."""

    table = Errors
    exact = False

    def of(self, labels: Truth, probabilities: Predictions) -> Values:
        """The root."""
        return np.asarray(np.sqrt(np.square(probabilities - labels).mean()))

    def of_table(self, table: NDArray[np.float64]) -> Values:
        """The root."""
        count, _, _, errors = table
        return np.asarray(np.sqrt(errors.sum() / count.sum()))


class R2(OfTable):
    """1 - Σ (f - y)² / Σ (y - ȳ)², the mean over a sample's numbers; not defined where a number does not vary."""

    table = Errors
    exact = False

    def of_table(self, table: NDArray[np.float64]) -> Values:
        """The coefficient of determination."""
        _, _, all_in_all, left = table
        return np.asarray((1 - left / all_in_all).mean() if all_in_all.all() else np.nan)


class ConcordanceIndex(Metric):
    """Of pairs of which it is known who had the event first, the share in which that one has the greater risk.

    A tie of risks counts half (Harrell et al. 1982). A pair is known where the earlier time is an event's, or both
    times are equal and one alone is. Not defined without such a pair. Pairs are within a client, and pooled also across
    clients, whose times and risks must then be in one place: real clients' are not pooled.
    """

    exact = False

    def of(self, labels: Truth, probabilities: Predictions) -> Values:
        """The share."""
        time, event, risk = labels[:, 0], labels[:, 1] > 0, probabilities[:, 0]
        known = right = 0.0
        for t, r in zip(time[event], risk[event]):
            later = (time > t) | ((time == t) & ~event)
            known += later.sum()
            right += (risk[later] < r).sum() + 0.5 * (risk[later] == r).sum()
        return np.asarray(right / known if known else np.nan)
