"""Multinomial logistic regression, the convex model of the federated papers (their "MCLR")."""

from __future__ import annotations

from math import prod

from torch import nn

from fedtl.models.settings import ModelChoice
from fedtl.models.with_head import WithHead


class LogisticChoice(ModelChoice):
    """Multinomial logistic regression: one linear layer on the flattened sample."""

    name: str = "logistic"

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """A :class:`Logistic` for these samples."""
        return Logistic(prod(shape), classes)


class Logistic(WithHead):
    """Logits ``head(flatten(x))``; its features are the inputs.

    Shapes: x ``[n, *shape]`` -> features ``[n, inputs]`` -> logits ``[n, classes]``.
    MNIST has 784 * 10 + 10 = 7,850 parameters.
    """

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(nn.Flatten(), inputs, classes)
