"""A model together with the modules that terms of the objective bring along."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fedtl.models.generators import generators_of, seeded
from fedtl.models.head import layer_outputs
from fedtl.models.modes import in_evaluation


class Composite(nn.Module):
    """A model and terms' own modules (discriminators, projectors), so that one vector holds the parameters of all.

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


def layer_sizes(model: nn.Module, x: Tensor, layers: frozenset[str]) -> dict[str, int]:
    """How many numbers a sample has in each of these layers; the logits and their softmax are always told.

    Args:
        model: maps ``[n, *shape]`` to logits.
        x: some samples ``[n, *shape]`` that it takes.
        layers: by name.
    """
    with seeded(0, generators_of(model)), in_evaluation(model), torch.no_grad():
        outputs = layer_outputs(model, x, layers - {"logits", "probabilities"})
    sizes = {name: output.shape[1] for name, output in outputs.items()}
    return {**sizes, "probabilities": sizes["logits"]}
