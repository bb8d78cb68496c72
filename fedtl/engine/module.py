"""A model as engines call it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from fedtl.models.head import features_and_logits


class Outputs(nn.Module):
    """A model that gives its features too, where the objective has a use for them."""

    def __init__(self, model: nn.Module, features: bool) -> None:
        super().__init__()
        self.model, self.features = model, features

    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """Features ``[n, f]`` or None, and logits ``[n, classes]``."""
        return features_and_logits(self.model, x) if self.features else (None, self.model(x))


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed the generator that a device's dropout draws from.

    Not ``torch.manual_seed``: without a GPU it keeps a formatted traceback of each call, for a CUDA that may
    yet be initialised, which takes longer than a training step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)


def forked_rng(device: torch.device) -> AbstractContextManager[None]:
    """In the ``with`` block random numbers are drawn from copies of the generators that a device uses."""
    return torch.random.fork_rng([device.index or 0] if device.type == "cuda" else [])


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """All numbers of some tensors in one vector."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
