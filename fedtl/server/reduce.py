"""Where uploads are summed: along the fixed tree, as replies come in; and what is made of the sums.

A worker sends the sum of its clients' uploads, which is a node of the tree; the server adds these up to the sum over
all clients. Names that are in no sum stay rows, one for each client.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import RecordDict
from numpy.typing import NDArray
from torch import Tensor

from fedtl.clients.settings import Counted
from fedtl.losses.aggregate import ClientAggregate
from fedtl.server.exchange import Vectors
from fedtl.wire import messages as m
from fedtl.wire.tree_sum import Node, TreeSum


@dataclass(frozen=True)
class Reduced:
    """What all clients of a round uploaded.

    Attributes:
        sums: the sums over clients, each as the client update weighs it; float64.
        rows: the uploads that are in no sum, ``[n, …]``, in the order of the clients' ids.
        statistics: the sum of what terms ask for, all statistics one after another; None where there are none.
        sizes: how many numbers each statistic has.
    """

    sums: Vectors
    rows: Vectors
    statistics: Tensor | None
    sizes: Sequence[int]

    @property
    def by_name(self) -> Vectors:
        """All that was summed, statistics included, as a record names it."""
        return self.sums if self.statistics is None else {**self.sums, "statistics": self.statistics}


class UploadSums:
    """The sums of a round's uploads; what is added may come in any order, and the sums are the same bits."""

    def __init__(self) -> None:
        self._tree, self._sizes = TreeSum(), list[int]()
        self._clients: dict[str, list[int]] = {}
        self._rows: dict[str, list[NDArray[np.floating]]] = {}

    def add(self, content: RecordDict, clients: Sequence[int], node: Node) -> None:
        """Add a reply's uploads.

        Args:
            content: the reply's.
            clients: that trained, in the order of its rows.
            node: of the tree, whose sum it is.
        """
        sums = {name: torch.tensor(total) for name, total in m.unpack_all(content, m.ARRAYS).items()}
        statistics = m.unpack(content, m.STATISTICS)
        if statistics is not None:
            sums[m.STATISTICS_SUM] = torch.tensor(statistics)
            self._sizes = m.ints(m.metrics_of(content), m.PARTS)
        self._tree.add(*node, sums)
        for name, rows in m.unpack_all(content, m.ROWS).items():
            self._clients.setdefault(name, []).extend(clients)
            self._rows.setdefault(name, []).append(rows)

    def add_nothing(self, place: int) -> None:
        """Add a client that failed, by its place among those that were asked."""
        self._tree.add(0, place, {})

    def total(self) -> Reduced:
        """The sums over all clients that were added."""
        sums = self._tree.total()
        statistics = sums.pop(m.STATISTICS_SUM, None)
        rows = {
            name: torch.from_numpy(np.concatenate(parts)[np.argsort(self._clients[name])])
            for name, parts in self._rows.items()
        }
        return Reduced(sums, rows, statistics, self._sizes)


def total_weights(counts: Mapping[str, Counted], samples: Sequence[int]) -> dict[str, int]:
    """What the weights of each sum come to.

    Args:
        counts: how clients count in each sum, as the client update says.
        samples: of each client that trained.
    """
    total = {"samples": sum(samples), "uniform": len(samples)}
    return {name: total[how] for name, how in counts.items()}


def split_buffers(sums: Vectors, weights: Mapping[str, int], parameters: int | None) -> tuple[Vectors, Tensor | None]:
    """The sums of which the method's step is, and the mean of batch-norm's buffers, which are behind ``"w"`` ``[P]``.

    Args:
        sums: over clients.
        weights: as :func:`total_weights` gives them.
        parameters: P; all of ``"w"`` if None.
    """
    if parameters is None or "w" not in sums or len(sums["w"]) <= parameters:
        return sums, None
    w = sums["w"]
    return {**sums, "w": w[:parameters]}, (w[parameters:] / weights["w"]).to(torch.float32)


def merged_statistics(
    statistics: Sequence[ClientAggregate], reduced: Reduced, context: Mapping[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """What clients are sent of their statistics in the next round; what nobody had samples for stays as it was.

    Args:
        statistics: the phase's.
        reduced: with their sum.
        context: with what clients were sent of them before.
    """
    merged: dict[str, NDArray[np.float32]] = {}
    if reduced.statistics is None:
        return merged
    for statistic, total in zip(statistics, torch.split(reduced.statistics, list(reduced.sizes))):
        if total.any():
            name = m.STATISTIC + statistic.name
            before = torch.tensor(context[name]) if name in context else None
            merged[name] = statistic.merge(before, total).to(torch.float32).numpy()
    return merged


def weighted_means(columns: Mapping[str, list[Any]]) -> dict[str, float]:
    """Means of each term, weighted by samples; rows in a fixed order, so that the sums are the same bits.

    A term that a client could not evaluate (not a number) does not count there; one that nobody could is left out.
    """
    means, samples = {}, columns[m.SAMPLES]
    for key in columns:
        if not key.startswith(m.LOSS):
            continue
        values, weights = columns[key], samples
        if any(map(math.isnan, values)):
            there = [not math.isnan(value) for value in values]
            values, weights = [*itertools.compress(values, there)], [*itertools.compress(samples, there)]
        if sum(weights):
            means[key[len(m.LOSS) :]] = sum(map(operator.mul, values, weights)) / sum(weights)
    return means
