"""The reference files' networks, with their tensors in the order in which the files list them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Logistic(nn.Linear):
    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape[0], classes)


class Mlp(nn.Module):
    """Head(ReLU(base(x)))."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, hidden: int) -> None:
        super().__init__()
        self.base, self.head = nn.Linear(input_shape[0], hidden), nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.base(x)))
        return logits


class NormMlp(nn.Module):
    """Head(ReLU(bn(lin(x))))."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, hidden: int) -> None:
        super().__init__()
        self.lin, self.bn = nn.Linear(input_shape[0], hidden), nn.BatchNorm1d(hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.bn(self.lin(x))))
        return logits


NETWORKS: dict[str, type[nn.Module]] = {
    "logistic": Logistic,
    "mlp": Mlp,
    "mlp with batch norm between linear and ReLU": NormMlp,
}
"""By a case's ``model``."""
