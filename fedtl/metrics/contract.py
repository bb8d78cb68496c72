"""What a metric is: a number, or one a class, of a model's predictions on some samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
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
    """Numbers that are joined over samples, clients and machines; whole ones add up, in any order to the same bits."""

    dtype: ClassVar[type[np.int64 | np.float64]] = np.int64
    """Of the numbers. Those that are not whole are joined in the order of the clients."""

    most: ClassVar[int] = 1
    """What a whole number may be of one sample."""

    bins: ClassVar[int] = 0
    """By how many bins predictions are told apart; 0 where nothing is lost that its metrics need."""

    @abstractmethod
    def of(self, labels: Truth, probabilities: Predictions) -> NDArray[Any]:
        """The numbers of n ≥ 0 samples, of a shape that depends on k alone."""

    def joined(self, each: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """The numbers of one or more groups of samples together, out of each group's own."""
        together: NDArray[Any] = np.sum(each, axis=0)
        return together

    def can_be(self, table: NDArray[Any], samples: int) -> bool:
        """Whether at most so many samples can come to these numbers, which are finite."""
        return bool(table.min() >= 0 and table.max() <= samples * self.most)


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

    def of_table(self, table: NDArray[Any]) -> Values:
        """The metric out of its table.

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
