"""What a client's number of samples of each class says, where it may have none of some."""

from __future__ import annotations

import torch
from torch import Tensor

ABSENT = -1e4
"""In the place of -∞ in logits: e to its power is 0 in float32, and a product with 0 is 0."""


def of_present(counts: Tensor, value: Tensor, absent: float = ABSENT) -> Tensor:
    """``value`` where there are samples, and ``absent`` where there are none, of numbers of samples ``[..., k]``."""
    return torch.where(counts > 0, value, torch.full_like(value, absent))
