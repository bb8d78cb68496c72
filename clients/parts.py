"""Steps of a part of the model, for methods that train one after another or one alone."""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any, ClassVar

import torch
from pydantic import NonNegativeInt, model_validator
from torch import Tensor

from fedtl.clients.contract import Gradient, Loop, State, Step, Vectors
from fedtl.clients.settings import Settings, one_length
from fedtl.clients.sgd import SGD, SGDSettings
from fedtl.data.batches import Budget
from fedtl.losses.batch import Batch
from fedtl.optimizers.stepper import Stepper


class HeadFirstSettings(SGDSettings):
    """Options of a method that trains the head, then the rest for ``local_epochs`` or ``local_steps``.

    Attributes:
        head_epochs: passes over the client's samples that train the head; with 0 it never moves.
        head_steps: mini-batches that train the head, instead of head_epochs.
    """

    default_head: ClassVar[dict[str, int]] = {"head_epochs": 1}
    """How long, where nothing is said."""

    one_of: ClassVar[tuple[tuple[str, str], ...]] = (*SGDSettings.one_of, ("head_epochs", "head_steps"))

    head_epochs: NonNegativeInt | None = None
    head_steps: NonNegativeInt | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_head_budget(cls, table: Any) -> Any:
        return one_length(table, "head_epochs", "head_steps", cls.default_head)

    def head_budget(self, budget: Budget) -> Budget | None:
        """The head's share of a round, where ``budget`` is that of the rest; None if it has none."""
        if self.head_steps:
            return budget.of_steps(self.head_steps)
        return budget.of_epochs(self.head_epochs) if self.head_epochs else None


class PartSteps(SGD):
    """SGD, or another optimiser, on parts of the model.

    The other parts keep their bits, under momentum, weight decay and any optimiser, as parameters of torch do that have
    no gradient: for an optimiser a gradient of zeros is something else. Each part has an optimiser's state of its own,
    and a gradient is clipped by the norm of the part alone.
    """

    def start_parts(self, received: Vectors, *parts: str, by: Stepper | None = None) -> State:
        """Begin a round from the download, with an optimiser for each of these parts, by names of the method's own.

        Args:
            received: the download.
            parts: the names.
            by: what moves them; the method's own optimiser if None.
        """
        w, state = received["w"], {"w": received["w"]}
        for part in parts:
            state |= (by or self.optimizer).init(w, part)
        return state

    def mask_of(self, parts: Collection[str]) -> Tensor:
        """1 for the trainable parameters of some parts of the model, 0 for all others: ``[P]``.

        Raises:
            ConfigError: there is no such part, or none of it trains.
        """
        return torch.stack([self.layout.mask(part) for part in parts]).amax(0)

    def step_of(self, part: str, mask: Tensor, by: Stepper | None = None, decay: Tensor | None = None) -> Step:
        """A step of the numbers at which ``mask`` ``[P]`` is 1; ``part`` is the name of its optimiser.

        Args:
            part: the name.
            mask: of the numbers.
            by: as :meth:`start_parts` had it.
            decay: the factor by which each number is added to its gradient, ``[P]``; 0 if None.
        """
        o = self.settings
        plain = not (o.weight_decay or o.momentum or (by or self.optimizer).asked)

        @functools.cache
        def on(device: torch.device) -> tuple[Tensor, Tensor]:
            own = mask.to(device)
            return own, own.bool()

        @functools.cache
        def decay_on(device: torch.device) -> Tensor | None:
            return None if decay is None else decay.to(device)

        def step(state: State, batch: Batch, grad: Gradient) -> State:
            w = state["w"]
            own, moves = on(w.device)
            g = grad(w, batch).mul_(own)
            stepped = self.move({**state, part: w.clone()}, g, part, by, decay_on(w.device))
            return {**stepped, "w": torch.where(moves, stepped.pop(part), w)}

        slots = [slice(slot.start, slot.stop) for slot in self.layout.trained]
        trains = [bool(mask[slot.start]) for slot in slots]  # a part is made of whole tensors

        def plain_step(state: State, batch: Batch, grad: Gradient) -> State:
            g, rates = grad(state["w"], batch), decay_on(state["w"].device)
            g = g if rates is None else g.add_(rates * state["w"])
            # A gradient of zeros is none. Put together of its parts, a traced step does not compute the others.
            parts = [g[..., slot] if own else torch.zeros_like(g[..., slot]) for slot, own in zip(slots, trains)]
            return self.move(state, torch.cat(parts, -1), by=by)

        return plain_step if plain else step


class HeadFirst(PartSteps):
    """Steps of the head, then of the rest; a client that joins after training takes the head's alone."""

    settings: HeadFirstSettings

    def head_then_body(self, head: Tensor, by: Stepper | None = None) -> tuple[Loop, ...]:
        """The loops of a round.

        Args:
            head: 1 for the head's parameters, else 0, ``[P]``.
            by: what moves the head; the method's own optimiser if None.
        """
        body = Loop(self.step_of("body", 1 - head), self.budget)
        budget = self.settings.head_budget(self.budget)
        return (body,) if budget is None else (Loop(self.step_of("head", head, by), budget), body)

    @classmethod
    def trains_unseen(cls, settings: Settings) -> bool:
        """Where the head trains."""
        assert isinstance(settings, HeadFirstSettings)
        return bool(settings.head_steps or settings.head_epochs)
