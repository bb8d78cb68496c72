"""Learning rates of a model's parts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fedtl.choice import ConfigError
from fedtl.models.parts import part_of
from fedtl.vector import Layout

KEY = "strategy.lr_scale"


def part_scale(module: nn.Module, layout: Layout, lr_scale: Mapping[str, float]) -> Tensor | None:
    """A factor of the learning rate for each trainable number of a model.

    Args:
        module: the model, with the modules of terms.
        layout: of its vector.
        lr_scale: factors by the names of parts, as :func:`~fedtl.models.parts.part_of` reads them; 1 for all others.

    Returns:
        ``[P]`` float32 on the CPU; None where ``lr_scale`` names no part.

    Raises:
        ConfigError: there is no such part, none of it trains, or two parts have a parameter in common.
    """
    if not lr_scale:
        return None
    scale, owner = torch.ones(layout.parameters), dict[str, str]()
    slots = {slot.name: slot for slot in layout.slots if slot.stop <= layout.parameters}
    for part, factor in lr_scale.items():
        own = {id(tensor) for inner in part_of(module, part, KEY) for tensor in inner.parameters()}
        names = [name for name, tensor in module.named_parameters() if id(tensor) in own and name in slots]
        if not names:
            raise ConfigError(f"{KEY}.{part} = {factor:g}: no parameter of {part!r} trains; leave it out")
        for name in names:
            if name in owner:
                raise ConfigError(f"{KEY}: {name!r} is a parameter of both {owner[name]!r} and {part!r}; leave one out")
            owner[name] = part
            scale[slots[name].start : slots[name].stop] = factor
    return scale
