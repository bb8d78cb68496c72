"""What a metric is: a number, or one a class, of a model's predictions on some samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

Labels: TypeAlias = NDArray[np.int64]
"""``[n]``, from 0 to k - 1."""

Probabilities: TypeAlias = NDArray[np.float64]
"""``[n, k]``, each row adding up to 1."""

Truth: TypeAlias = NDArray[Any]
"""What is predicted: labels ``[n]``, several labels or numbers ``[n, k]``, times and events ``[n, 2]``."""

Predictions: TypeAlias = NDArray[np.float64]
"""Of it, ``[n, k]``: probabilities, numbers, risks."""

Values: TypeAlias = NDArray[np.float64]
"""``[]``, or ``[k]`` of a metric that each class has; NaN where it is not defined."""


class Table(ABC):
    """Whole numbers that add up over samples, clients and machines, in any order to the same bits."""

    most: ClassVar[int] = 1
    """What a number may be of one sample."""

    bins: ClassVar[int] = 0
    """By how many bins predictions are told apart; 0 where nothing is lost that its metrics need."""

    @abstractmethod
    def of(self, labels: Labels, probabilities: Probabilities) -> NDArray[np.int64]:
        """The numbers of some samples, of a shape that depends on k alone."""


class Metric(ABC):
    """A metric; its class's name in the registry is its name in configs and records. One of one's own: more is better.

    Attributes:
        by_class: whether it is a number of each class.
        table: what it follows from where clients are pooled without showing their predictions; None where nothing adds
            up.
        exact: whether pooling needs no predictions: :attr:`table` tells all, or the mean over clients does.
    """

    by_class: ClassVar[bool] = False
    table: ClassVar[type[Table] | None] = None
    exact: ClassVar[bool] = True

    @abstractmethod
    def of(self, labels: Labels, probabilities: Probabilities) -> Values:
        """The metric of n ≥ 1 samples."""

    def of_table(self, table: NDArray[np.int64]) -> Values:
        """The metric out of its table's sum.

        Raises:
            NotImplementedError: it has none.
        """
        raise NotImplementedError


class OfTable(Metric):
    """A metric that follows from a table."""

    table: ClassVar[type[Table]]

    def of(self, labels: Labels, probabilities: Probabilities) -> Values:
        """The metric of n ≥ 1 samples."""
        return self.of_table(self.table().of(labels, probabilities))


class OfSamples(Metric):
    """A mean over samples: pooled, it is the clients' mean weighted by their samples."""

    @abstractmethod
    def each(self, labels: Labels, probabilities: Probabilities) -> Values:
        """Its value for every sample ``[n]``."""

    def of(self, labels: Labels, probabilities: Probabilities) -> Values:
        """The mean over n ≥ 1 samples."""
        return np.asarray(self.each(labels, probabilities).mean())
