"""Which parameters of a model travel, which stay at each client, and which never change."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedtl.choice import ConfigError
from fedtl.models.parts import part_of
from fedtl.models.vector import Layout


@dataclass(frozen=True)
class Sharing:
    """The parts of a model's vector ``[d]``, as indices into it; frozen parameters are in neither.

    Attributes:
        travels: what clients receive and send.
        private: what each client keeps to itself.
        parameters: how many of the travelling numbers are trained; they stand first.
        whole: whether a model without the private numbers still gives logits (only terms' modules are private).
    """

    travels: Tensor
    private: Tensor
    parameters: int
    whole: bool

    @classmethod
    def of(cls, module: nn.Module, layout: Layout, private: Collection[str], frozen: Collection[str]) -> Sharing | None:
        """Sort a model's parameters.

        Args:
            module: the model, with the modules of terms.
            layout: of its vector.
            private: names of parts that stay at the client, as :func:`part_of` reads them.
            frozen: names of parts that no round changes.

        Returns:
            None where all of the vector travels.
        """
        if not private and not frozen:
            return None
        own, never = _slots(module, private), _slots(module, frozen)
        if both := sorted(own & never):
            raise ConfigError(f"strategy: {both[0]!r} is both private and frozen; leave one out")
        kept, travels, stays = [], [], []
        for slot in layout.slots:
            place = torch.arange(slot.start, slot.stop)
            if slot.name in own:
                stays.append(place)
                kept.append(slot.name)
            elif slot.name not in never:
                travels.append(place)
        if not travels:
            raise ConfigError("strategy: all of the model is private or frozen, so nothing would travel; use 'local'")
        sent = torch.cat(travels)
        whole = not any(not name.startswith("extras.") for name in kept) or not kept
        return cls(
            sent,
            torch.cat(stays) if stays else torch.empty(0, dtype=torch.long),
            int((sent < layout.parameters).sum()),
            whole,
        )

    def to(self, device: torch.device) -> Sharing:
        """The same indices on a device."""
        return Sharing(self.travels.to(device), self.private.to(device), self.parameters, self.whole)


def freeze(module: nn.Module, frozen: Collection[str]) -> None:
    """Let parts of a model neither train nor, where they count batches, see new ones."""
    for name in frozen:
        for part in part_of(module, name):
            part.requires_grad_(False).eval()
            for inner in part.modules():  # the engines call train() on the whole model
                inner.train = _stays.__get__(inner)  # type: ignore[method-assign]


def _stays(self: nn.Module, mode: bool = True) -> nn.Module:
    """In the place of a module's own ``train``."""
    return self


def _slots(module: nn.Module, parts: Collection[str]) -> set[str]:
    """Names of all tensors in some parts."""
    wanted = {id(tensor) for name in parts for part in part_of(module, name) for tensor in _tensors(part)}
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name for name, tensor in named if id(tensor) in wanted}


def _tensors(part: nn.Module) -> list[Tensor]:
    return [*part.parameters(), *part.buffers()]
