"""Multilayer perceptron, the small non-convex model of the federated papers (their "DNN")."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from pydantic import PositiveInt
from torch import nn

from fedtl.models.settings import ModelChoice
from fedtl.models.with_head import WithHead


class MLPChoice(ModelChoice):
    """Multilayer perceptron: linear layers with ReLU on the flattened sample.

    Attributes:
        hidden: sizes of the hidden layers, from the input on.
    """

    name: str = "mlp"
    hidden: tuple[PositiveInt, ...] = (100,)

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """An :class:`MLP` for these samples."""
        return MLP(prod(shape), self.hidden, classes)


class MLP(WithHead):
    """Hidden linear layers, each followed by ReLU, and a linear head.

    Shapes: x ``[n, *shape]`` -> features ``[n, hidden[-1]]`` -> logits ``[n, classes]``.
    MNIST with one hidden layer of 100 has 79,510 parameters.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], classes: int) -> None:
        sizes = [inputs, *hidden]
        super().__init__(nn.Sequential(nn.Flatten(), *dense(sizes)), sizes[-1], classes)


def dense(sizes: Sequence[int], norm: bool = False) -> list[nn.Module]:
    """Linear layers from ``sizes[0]`` to ``sizes[-1]``, with a ReLU after each, and batch-norm between if asked for.

    No model here has in-place activations: ``torch.func.vmap`` cannot write a stacked result into a tensor
    that is not stacked.
    """
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), *([nn.BatchNorm1d(after)] if norm else []), nn.ReLU()]
    return layers
