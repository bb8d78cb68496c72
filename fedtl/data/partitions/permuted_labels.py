"""Concept shift: groups of clients that call the classes by other labels."""

from __future__ import annotations

from math import factorial

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedtl.choice import ConfigError
from fedtl.data.federation import Shards
from fedtl.data.partitions.on_top import OnTop
from fedtl.random import Purpose, stream


class PermutedLabels(OnTop):
    """Groups of clients of which each has the labels in an order of its own, in training and in test data.

    What a picture shows is then not what it is called: one model cannot serve two groups, as in the experiments of
    clustered federated learning (Sattler et al. 2021, arXiv 1910.01991). Client i is of group i mod ``groups``; the
    first group keeps the data set's labels, and the server's test set does too. No two groups have the same order.

    Attributes:
        groups: how many.
        classes: how many labels change places, the first ones; all if not given.
    """

    name: str = "permuted-labels"
    groups: int = Field(4, ge=1, le=1000)
    classes: int | None = Field(None, ge=2)

    def concept(self, y: NDArray[np.int64], classes: int, shards: Shards, seed: int) -> NDArray[np.int64]:
        """See :class:`~fedtl.data.partitions.contract.Partition`."""
        y = self.base.concept(y, classes, shards, seed)
        orders = self.orders(classes, seed)
        rows = shards.order
        result = y.copy()
        result[rows] = orders[shards.client_of % self.groups, y[rows]]
        return result

    def orders(self, classes: int, seed: int) -> NDArray[np.int64]:
        """What each group calls each class, ``[groups, classes]``."""
        moved = classes if self.classes is None else self.classes
        if moved > classes:
            raise ConfigError(f"data.partition.classes = {moved}: there are only {classes} classes")
        if moved < 13 and self.groups > factorial(moved):
            raise ConfigError(
                f"data.partition.groups = {self.groups}: {moved} labels have only {factorial(moved)} orders"
            )
        rng = stream(seed, Purpose.CONCEPT)
        orders = {tuple(range(moved))}
        each = [np.arange(classes)]
        while len(each) < self.groups:
            order = tuple(rng.permutation(moved).tolist())
            if order not in orders:
                orders.add(order)
                each.append(np.concatenate([np.array(order, np.int64), np.arange(moved, classes)]))
        return np.stack(each)
