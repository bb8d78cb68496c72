"""Metrics that follow from the loss."""

from __future__ import annotations

import numpy as np

from fedtl.metrics.contract import Metric, Predictions, Truth, Values


class OfLoss(Metric):
    """A function of the mean loss, of however many samples."""

    def of(self, labels: Truth, probabilities: Predictions) -> Values:
        """It needs no predictions.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError

    def of_loss(self, loss: float) -> float:
        """The metric of a mean loss."""
        raise NotImplementedError


class Perplexity(OfLoss):
    """The exponential of the mean cross-entropy of a token; pooled, of all tokens' mean."""

    def of_loss(self, loss: float) -> float:
        """Exp."""
        with np.errstate(over="ignore"):
            return float(np.exp(loss))
