"""Which parameters of a model travel, which stay at each client, and which never change."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fedtl.choice import ConfigError
from fedtl.models.adapters import frozen_by_adapter
from fedtl.models.composite import model_of
from fedtl.models.modes import keep_in_evaluation
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
        still: whether an adapter freezes all that no gradient moves, so that clients need not remember it.
    """

    travels: Tensor
    private: Tensor
    parameters: int
    whole: bool
    still: bool = False

    @classmethod
    def of(cls, module: nn.Module, layout: Layout, private: Collection[str], frozen: Collection[str]) -> Sharing | None:
        """Sort a model's parameters.

        Args:
            module: the model, with the modules of terms.
            layout: of its vector.
            private: names of parts that stay at the client, as :func:`part_of` reads them.
            frozen: names of parts that no round changes; what an adapter freezes is added to them.

        Returns:
            None where all of the vector travels.
        """
        held = frozen_by_adapter(module)
        if not private and not frozen and not held:
            return None
        for key, names in (("private", private), ("frozen", frozen)):
            for part in names:
                if not _slots(module, [part]):
                    kind = type(model_of(module)).__name__
                    raise ConfigError(
                        f"strategy.{key} = [{part!r}]: this part of {kind} has no parameters; name one that has"
                    )
        for part in private:
            if (names := _slots(module, [part])) and names <= held:
                raise ConfigError(f"strategy.private = [{part!r}]: model.adapter freezes it; leave one of them out")
        own, never = _slots(module, private) - held, _slots(module, frozen) | held
        if both := sorted(own & never):
            name = both[0].removeprefix("model.")
            raise ConfigError(f"strategy: {name!r} is both private and frozen; leave one out")
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
            bool(held) and all(slot.name in held for slot in layout.slots if slot.start >= layout.parameters),
        )

    def to(self, device: torch.device) -> Sharing:
        """The same indices on a device."""
        return replace(self, travels=self.travels.to(device), private=self.private.to(device))


def freeze(module: nn.Module, frozen: Collection[str]) -> None:
    """Let parts of a model neither train nor, where they count batches, see new ones."""
    for name in frozen:
        for part in part_of(module, name):
            part.requires_grad_(False)
            for inner in part.modules():
                keep_in_evaluation(inner)


def _slots(module: nn.Module, parts: Collection[str]) -> set[str]:
    """Names of all tensors in some parts."""
    wanted = {id(tensor) for name in parts for part in part_of(module, name) for tensor in _tensors(part)}
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name for name, tensor in named if id(tensor) in wanted}


def _tensors(part: nn.Module) -> list[Tensor]:
    return [*part.parameters(), *part.buffers()]
