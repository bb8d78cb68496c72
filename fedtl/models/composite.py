"""A model together with the modules that terms of the objective bring along."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fedtl.models.head import layer_outputs
from fedtl.models.modes import in_evaluation


class Composite(nn.Module):
    """A model and terms' own modules (discriminators, projectors), so that one vector holds the numbers of all.

    Its own parameters are called ``model.…`` and ``extras.<name>.…``; as a function it is the model.
    """

    def __init__(self, model: nn.Module, extras: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.model, self.extras = model, nn.ModuleDict(extras)

    def forward(self, x: Tensor) -> Tensor:
        """The model's logits ``[n, k]``."""
        logits: Tensor = self.model(x)
        return logits


def model_of(module: nn.Module) -> nn.Module:
    """The model itself, without what terms bring along."""
    return module.model if isinstance(module, Composite) else module


def layer_sizes(
    model: nn.Module, shape: tuple[int, ...], layers: frozenset[str], device: torch.device | str = "cpu"
) -> dict[str, int]:
    """How many numbers a sample has in each of these layers; the logits and their softmax are always told."""
    with in_evaluation(model), torch.no_grad():
        found = layer_outputs(model, torch.zeros(2, *shape, device=device), layers - {"logits", "probabilities"})
    sizes = {name: output.shape[1] for name, output in found.items()}
    return {**sizes, "probabilities": sizes["logits"]}
