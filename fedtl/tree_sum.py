"""A sum that is the same to the last bit however its parts were grouped."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

Node = tuple[int, int]
"""(level, place): the positions ``place * 2**level .. (place + 1) * 2**level - 1``."""


class TreeSum:
    """Sums vectors along one fixed binary tree over their positions.

    Floating-point addition is not associative, so a sum over cohorts would depend on who trained together.
    Here position 2k is always added to 2k + 1, that pair to its neighbour pair, and so on: any worker may
    add up any run of positions, and the server what the workers send, and every run of the experiment
    gives the same bits, whatever the number of actors. A position with nothing to add (a client that
    failed) is None. Vectors are added in float64 and in place.
    """

    def __init__(self) -> None:
        self._nodes: dict[Node, Tensor | None] = {}

    def add(self, level: int, place: int, vector: Tensor | None) -> None:
        """Add the sum of one node of the tree (a single position has level 0); positions may come in any order."""
        while (level, place ^ 1) in self._nodes:
            other = self._nodes.pop((level, place ^ 1))
            left, right = (vector, other) if place % 2 == 0 else (other, vector)
            vector = right if left is None else left if right is None else left.add_(right)
            level, place = level + 1, place // 2
        self._nodes[level, place] = vector

    def add_leaf(self, place: int, vector: Tensor | None, weight: int = 1) -> None:
        """Add a single position's vector, times a whole number; it may be float32, and is not changed.

        Both products, in float64, are exact, so a right leaf needs no vector of its own.
        """
        left = self._nodes.get((0, place ^ 1)) if place % 2 else None
        if vector is None:
            self.add(0, place, None)
        elif left is None:
            leaf = vector.to(torch.float64, copy=True)
            self.add(0, place, leaf.mul_(weight) if weight != 1 else leaf)
        else:
            del self._nodes[0, place ^ 1]
            self.add(1, place // 2, left.add_(vector, alpha=weight))

    def nodes(self) -> Iterator[tuple[Node, Tensor | None]]:
        """The largest nodes that are complete so far, from left to right."""
        return iter(sorted(self._nodes.items(), key=lambda item: item[0][1] << item[0][0]))

    def total(self) -> Tensor | None:
        """The sum of all; positions that were never added count as nothing."""
        while len(self._nodes) > 1 or any(place for _, place in self._nodes):
            level, place = min(self._nodes)
            self.add(level, place ^ 1, None)
        return next(iter(self._nodes.values()), None)
