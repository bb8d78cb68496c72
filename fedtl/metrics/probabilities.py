"""Metrics of predicted probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedtl.metrics.contract import Labels, OfSamples, OfTable, Probabilities, Table, Values

BINS = 15
"""Of confidence, as in Guo et al. (2017)."""

ONE = 2**32
"""1 as a whole number: sums of confidences are counted in units of 2⁻³², so that they add up exactly."""


class LogLoss(OfSamples):
    """The mean of -log p of the right class; ``loss`` is the same before rounding to probabilities."""

    def each(self, labels: Labels, probabilities: Probabilities) -> Values:
        """-log p_y, with p no smaller than float64's ε, as in scikit-learn."""
        p = probabilities[np.arange(len(labels)), labels]
        return np.asarray(-np.log(np.clip(p, np.finfo(np.float64).eps, 1.0)))


class Brier(OfSamples):
    """The mean of Σ_k (p_k - y_k)² (Brier 1950); with two classes half of it, (p_1 - y)²."""

    def each(self, labels: Labels, probabilities: Probabilities) -> Values:
        """The squared distance from the right corner of the simplex."""
        k = probabilities.shape[1]
        squares: Values = np.square(probabilities - np.eye(k)[labels]).sum(1)
        return squares / 2 if k == 2 else squares


class Reliability(Table):
    """By bins ``((b-1)/15, b/15]`` of confidence: samples, right ones, and the sum of confidences: ``[3, 15]``."""

    most = ONE

    def of(self, labels: Labels, probabilities: Probabilities) -> NDArray[np.int64]:
        """The three rows; the last counts in units of 2⁻³²."""
        confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
        bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
        table = np.zeros((3, BINS), np.int64)
        units = np.rint(confidence * ONE).astype(np.int64)
        for row, amount in zip(table, (np.ones(len(labels), np.int64), right.astype(np.int64), units)):
            np.add.at(row, bins, amount)
        return table


class CalibrationError(OfTable):
    """The expected calibration error over 15 bins of confidence (Guo et al. 2017)."""

    table = Reliability

    def of_table(self, table: NDArray[np.int64]) -> Values:
        """Σ_b |right_b - confidence_b| / n."""
        samples, right, units = table
        return np.asarray(np.abs(right - units / ONE).sum() / samples.sum())
