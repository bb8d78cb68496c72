"""The head's numbers in a model's vector, for methods that give clients heads of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from fedtl.choice import ConfigError, shown
from fedtl.models.vector import Layout, Slot


class LinearHead(NamedTuple):
    """Where a head that is one linear layer lies in the vector.

    Attributes:
        weight: of shape ``[k, f]``.
        bias: ``[k]``; None where it has none.
    """

    weight: Slot
    bias: Slot | None

    @classmethod
    def of(cls, layout: Layout, method: str, why: str) -> LinearHead:
        """The model's.

        Args:
            layout: of its vector.
            method: the method's name, for the message.
            why: in a few words, why it has to be linear, likewise.

        Raises:
            ConfigError: its head does not train, or is something else.
        """
        layout.part("head")
        own = dict(layout.parts)["head"]
        slots = {len(slot.shape): slot for slot in layout.trained if slot.name in own}
        shapes = [tuple(slot.shape) for slot in layout.trained if slot.name in own]
        if sorted(map(len, shapes)) not in ([2], [1, 2]) or len({shape[0] for shape in shapes}) > 1:
            raise ConfigError(
                f"strategy.name = {shown(method)}: {why}, and the model's head has tensors of shapes "
                f"{', '.join(map(str, shapes))}; use a model that ends in one linear layer"
            )
        return cls(slots[2], slots.get(1))


def scale_of_head(layout: Layout, lr_scale: Mapping[str, float]) -> tuple[float, dict[str, float]]:
    """The factor of the head in ``strategy.lr_scale``, by whichever name; 1 if it has none. And the other factors.

    For heads of clients' own, which are no part of the model, and are like its head.

    Raises:
        ConfigError: there is no such part.
    """
    head = layout.part("head") if lr_scale else ()
    others = {part: factor for part, factor in lr_scale.items() if layout.part(part) != head}
    own = [factor for part, factor in lr_scale.items() if part not in others]
    return own[0] if own else 1.0, others


def head_size(layout: Layout) -> int:
    """How many numbers the head has."""
    return sum(own.stop - own.start for own in layout.part("head"))


def head_of(layout: Layout, w: Tensor) -> Tensor:
    """The head's numbers ``[..., h]`` in a vector ``[..., P]``."""
    return torch.cat([w[..., own] for own in layout.part("head")], -1)


def with_head(layout: Layout, w: Tensor, head: Tensor) -> Tensor:
    """A copy of ``w`` ``[..., P]`` with another head ``[..., h]``."""
    w, start = w.clone(), 0
    for own in layout.part("head"):
        stop = start + own.stop - own.start
        w[..., own] = head[..., start:stop]
        start = stop
    return w
