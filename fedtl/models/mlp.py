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
        projection: outputs of a projection between them and the head, linear - ReLU - linear, which the head then
            receives, as in MOON's network; none if not given.
    """

    name: str = "mlp"
    hidden: tuple[PositiveInt, ...] = (100,)
    projection: PositiveInt | None = None

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """An :class:`MLP` for these samples."""
        return MLP(prod(shape), self.hidden, classes, self.projection)


class MLP(WithHead):
    """Hidden linear layers, each followed by ReLU, a projection if asked for, and a linear head.

    Shapes: x ``[n, *shape]`` -> features ``[n, projection or hidden[-1]]`` -> logits ``[n, classes]``.
    MNIST with one hidden layer of 100 has 79,510 parameters.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], classes: int, projection: int | None = None) -> None:
        sizes = [inputs, *hidden]
        layers = [*dense(sizes), *projected(sizes[-1], projection)]
        super().__init__(nn.Sequential(nn.Flatten(), *layers), projection or sizes[-1], classes)


def projected(width: int, outputs: int | None) -> list[nn.Module]:
    """The layers of a projection from ``width`` numbers to ``outputs``, as in MOON (arXiv 2103.16257); none if None."""
    return [nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)] if outputs else []


def dense(sizes: Sequence[int], norm: bool = False) -> list[nn.Module]:
    """Linear layers from ``sizes[0]`` to ``sizes[-1]``, with a ReLU after each, and batch-norm between if asked for.

    No model here has in-place activations: ``torch.func.vmap`` cannot write a stacked result into a tensor
    that is not stacked.
    """
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), *([nn.BatchNorm1d(after)] if norm else []), nn.ReLU()]
    return layers
