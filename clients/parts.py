"""Steps of a part of the model, for methods that train one after another or one alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection

import torch
from torch import Tensor

from fedtl.clients.contract import Gradient, State, Vectors
from fedtl.clients.sgd import SGD
from fedtl.losses.batch import Batch

Step = Callable[[State, Batch, Gradient], State]


class PartSteps(SGD):
    """SGD, or another optimiser, on parts of the model.

    The other parts keep their bits, under momentum, weight decay and any optimiser, as parameters of torch do that have
    no gradient: for an optimiser a gradient of zeros is something else. Each part has an optimiser's state of its own,
    and a gradient is clipped by the norm of the part alone.
    """

    def start_parts(self, received: Vectors, *parts: str) -> State:
        """Begin a round from the download, with an optimiser for each of these parts, by names of the method's own."""
        w, state = received["w"], {"w": received["w"]}
        for part in parts:
            state |= self.optimizer.init(w, part)
        return state

    def mask_of(self, parts: Collection[str]) -> Tensor:
        """1 for the trainable parameters of some parts of the model, 0 for all others: ``[P]``.

        Raises:
            ConfigError: there is no such part, or none of it trains.
        """
        return torch.stack([self.layout.mask(part) for part in parts]).amax(0)

    def step_of(self, part: str, mask: Tensor) -> Step:
        """A step of the numbers at which ``mask`` ``[P]`` is 1; ``part`` is the name of its optimiser."""
        o = self.settings
        plain = not (o.weight_decay or o.momentum or self.optimizer.asked)

        @functools.cache
        def on(device: torch.device) -> tuple[Tensor, Tensor]:
            own = mask.to(device)
            return own, own.bool()

        def step(state: State, batch: Batch, grad: Gradient) -> State:
            w = state["w"]
            own, moves = on(w.device)
            stepped = self.move({**state, part: w.clone()}, grad(w, batch).mul_(own), part)
            return {**stepped, "w": torch.where(moves, stepped.pop(part), w)}

        slots = [slice(slot.start, slot.stop) for slot in self.layout.slots if slot.stop <= len(mask)]
        trains = [bool(mask[slot.start]) for slot in slots]  # a part is made of whole tensors

        def plain_step(state: State, batch: Batch, grad: Gradient) -> State:
            g = grad(state["w"], batch)
            # A gradient of zeros is none. Put together of its parts, a traced step does not compute the others.
            parts = [g[..., slot] if own else torch.zeros_like(g[..., slot]) for slot, own in zip(slots, trains)]
            return self.move(state, torch.cat(parts, -1))

        return plain_step if plain else step
