"""Multilayer perceptron, the small non-convex model of the federated papers (their "DNN")."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from pydantic import PositiveInt
from torch import Tensor, nn

from fedtl.models.settings import ModelChoice


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


class MLP(nn.Module):
    """Hidden linear layers, each followed by ReLU, and a linear head.

    Shapes: x ``[n, *shape]`` -> features ``[n, hidden[-1]]`` -> logits ``[n, classes]``.
    MNIST with one hidden layer of 100 has 79,510 parameters.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], classes: int) -> None:
        super().__init__()
        sizes = [inputs, *hidden]
        self.features = nn.Sequential(nn.Flatten(), *dense(sizes))
        self.head = nn.Linear(sizes[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[n, classes]``."""
        logits: Tensor = self.head(self.features(x))
        return logits


def dense(sizes: Sequence[int], norm: bool = False) -> list[nn.Module]:
    """Linear layers from ``sizes[0]`` to ``sizes[-1]``, with a ReLU after each, and batch-norm between if asked for.

    No model here has in-place activations: ``torch.func.vmap`` cannot write a stacked result into a tensor
    that is not stacked.
    """
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), *([nn.BatchNorm1d(after)] if norm else []), nn.ReLU()]
    return layers
