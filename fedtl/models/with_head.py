"""Networks that are features and a linear head."""

from __future__ import annotations

from torch import Tensor, nn


class WithHead(nn.Module):
    """Features and a linear head.

    Shapes: x ``[n, *shape]`` -> features ``[n, f]`` or ``[n, T, f]`` -> logits ``[n, k]`` or ``[n, T, k]``.
    """

    def __init__(self, features: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.features, self.head = features, nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        logits: Tensor = self.head(self.features(x))
        return logits
