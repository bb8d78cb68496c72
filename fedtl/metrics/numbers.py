"""Metrics of predicted numbers, in the outcomes' own units, and of predicted risks."""

from __future__ import annotations

import numpy as np

from fedtl.metrics.contract import Metric, OfSamples, Predictions, Truth, Values


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


class RootMeanSquaredError(Metric):
    """The root of the mean of (f - y)²; pooled, of all samples' mean."""

    exact = False

    def of(self, labels: Truth, probabilities: Predictions) -> Values:
        """The root."""
        return np.asarray(np.sqrt(np.square(probabilities - labels).mean()))


class R2(Metric):
    """1 - Σ (f - y)² / Σ (y - ȳ)², the mean over a sample's numbers; not defined where a number does not vary."""

    exact = False

    def of(self, labels: Truth, probabilities: Predictions) -> Values:
        """The coefficient of determination."""
        if (labels.max(0) == labels.min(0)).any():  # whose mean may be off by its last digit
            return np.asarray(np.nan)
        left = np.square(probabilities - labels).sum(0)
        all_in_all = np.square(labels - labels.mean(0)).sum(0)
        return np.asarray((1 - left / all_in_all).mean())


class ConcordanceIndex(Metric):
    """Of pairs of which it is known who had the event first, the share in which that one has the greater risk.

    A tie of risks counts half (Harrell et al. 1982). A pair is known where the earlier time is an event's, or both
    times are equal and one alone is. Not defined without such a pair.
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
