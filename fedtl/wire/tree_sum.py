"""Sums that are the same to the last bit however their parts were grouped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

Node = tuple[int, int]
"""(level, place): the positions ``place * 2**level .. (place + 1) * 2**level - 1``."""

Sums = dict[str, Tensor]
"""Named sums; a name that nobody has added anything to is absent."""


class TreeSum:
    """Sums named tensors along one fixed binary tree over their positions.

    Floating-point addition is not associative, so a sum over cohorts would depend on who trained together.
    Here position 2k is always added to 2k + 1, that pair to its neighbour pair, and so on: any worker may
    add up any run of positions, and the server what the workers send, and every run of the experiment
    gives the same bits, whatever the number of actors. A position may have nothing to add, as that of a client that
    failed. Tensors are added in float64 and in place.
    """

    def __init__(self) -> None:
        self._nodes: dict[Node, Sums] = {}

    def add(self, level: int, place: int, sums: Sums) -> None:
        """Add the sums of one node of the tree (a single position has level 0); positions may come in any order."""
        while (level, place ^ 1) in self._nodes:
            other = self._nodes.pop((level, place ^ 1))
            left, right = (sums, other) if place % 2 == 0 else (other, sums)
            for name, tensor in right.items():
                left[name] = left[name].add_(tensor) if name in left else tensor
            sums, level, place = left, level + 1, place // 2
        self._nodes[level, place] = sums

    def add_leaf(self, place: int, tensors: Mapping[str, Tensor], weights: Mapping[str, int]) -> None:
        """Add a single position's tensors, each times a whole number; they may be float32, and are not changed.

        Both products, in float64, are exact, so a right leaf needs no memory of its own.
        """
        if place % 2 == 0 or (0, place - 1) not in self._nodes:
            self.add(0, place, {name: _weighted(tensor, weights[name]) for name, tensor in tensors.items()})
            return
        left = self._nodes.pop((0, place - 1))
        for name, tensor in tensors.items():
            weight = weights[name]
            left[name] = left[name].add_(tensor, alpha=weight) if name in left else _weighted(tensor, weight)
        self.add(1, place // 2, left)

    def nodes(self) -> Iterator[tuple[Node, Sums]]:
        """The largest nodes that are complete so far, from left to right."""
        return iter(sorted(self._nodes.items(), key=lambda item: item[0][1] << item[0][0]))

    def total(self) -> Sums:
        """The sum of all; positions that were never added count as nothing."""
        while len(self._nodes) > 1 or any(place for _, place in self._nodes):
            level, place = min(self._nodes)
            self.add(level, place ^ 1, {})
        return next(iter(self._nodes.values()), {})


def _weighted(tensor: Tensor, weight: int) -> Tensor:
    leaf = tensor.to(torch.float64, copy=True)
    return leaf.mul_(weight) if weight != 1 else leaf
