"""A client's optimiser as its local training uses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from fedtl.choice import ConfigError
from fedtl.models.vector import Layout
from fedtl.optimizers.chain import State
from fedtl.optimizers.local import SGD
from fedtl.optimizers.settings import OptimizerSettings
from fedtl.optimizers.transforms import RATE, ClipNorm, rate_tensor

PREFIX = "optimizer_"
"""How names begin in a state, and in a memory, that are an optimiser's."""

KEY = "strategy.lr_scale"

Decayed = Callable[[str], Tensor]
"""Gives which numbers of a vector weight decay pulls, 1 for those, else 0, where it is "weights" or "matrices"."""


class Stepper:
    """Moves vectors of a state along gradients, as ``strategy.optimizer`` and its companions say.

    Plain SGD at a constant rate is one operation in place; everything else is a chain, whose tensors lie in the state
    under names of their own for each vector. Where the rate changes from round to round, or from part to part of the
    model, it is a tensor in the state as well, so that a traced step serves every rate.

    Args:
        settings: the options.
        lr: the method's own learning rate of the steps that the optimiser drives.
        layout: of the model's vector, for the parts that ``lr_scale`` names.
        decayed: gives which numbers weight decay pulls, by the option's word, of vectors that are no model's; None for
            a model's.

    Raises:
        ConfigError: ``lr_scale`` names a part that the model has not, or two that have a parameter in common.
    """

    def __init__(self, settings: OptimizerSettings, lr: float, layout: Layout, decayed: Decayed | None = None) -> None:
        chosen = settings.optimizer
        self.keeps = chosen.keep
        self.lr = chosen.rate(lr)
        self._scale = part_scale(layout, settings.lr_scale)
        self.scheduled = settings.schedule.varies
        """Whether the schedule of the run's rounds changes the rate, which is a schedule of these settings' own."""
        self.varies = self.scheduled or self._scale is not None
        bare = type(chosen) is SGD and not (chosen.momentum or chosen.weight_decay)
        plain = bare and settings.clip_norm is None and not self.varies
        self.plain = plain
        """Whether a step is the gradient at a constant rate, and nothing else."""
        pulled = None
        if chosen.weight_decay and chosen.decayed != "all":
            pulled = (decayed or partial(decayed_numbers, layout))(chosen.decayed)
        self._chain = None if plain else chosen.chain(lr, decayed=pulled)
        self._clip = None if settings.clip_norm is None else ClipNorm(settings.clip_norm)
        self.asked = not plain or not bare or self.keeps
        """Whether the config asks for more than plain steps at the method's own rate."""
        self.used = False
        """Whether the method's local training has begun with it."""

    def init(self, w: Tensor, of: str = "w") -> State:
        """What a round's state needs besides the vector ``w`` ``[..., P]``, which has the name ``of`` in it."""
        self.used = True
        if self._chain is None:
            return {}
        state = self._chain.init(w)
        if self.varies:
            scale = None if self._scale is None else self._scale.to(w.device)
            state[RATE] = rate_tensor(w, self.lr, scale)
        return {f"{PREFIX}{of}_{name}": tensor for name, tensor in state.items()}

    def clipped(self, g: Tensor) -> Tensor:
        """The gradient ``g`` ``[..., P]`` with a norm of ``clip_norm`` at most, where there is one."""
        return g if self._clip is None else self._clip.update(g, {}, g)[0]

    def step(self, state: State, g: Tensor, of: str = "w", clipped: bool = False) -> State:
        """One step of the vector ``of`` along the gradient ``g`` ``[..., P]``.

        Args:
            state: has the vector, and what the optimiser remembers.
            g: the gradient.
            of: the vector's name.
            clipped: whether :meth:`clipped` has made it, before something was added that no clipping is to count.
        """
        if self._chain is None:
            state[of].sub_(g, alpha=self.lr)
            return state
        g = g if clipped else self.clipped(g)
        prefix = f"{PREFIX}{of}_"
        own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        w, own = self._chain.step(g, own, state[of])
        return {**state, of: w, **{f"{prefix}{name}": tensor for name, tensor in own.items()}}

    def rate(self, state: State, of: str = "w") -> Tensor | float:
        """The learning rate of the vector ``of`` in this round: ``[..., 1]``, ``[..., P]`` or a number."""
        return state.get(f"{PREFIX}{of}_{RATE}", self.lr)


def stepper_of(
    settings: OptimizerSettings, own: float | None, lr: float, layout: Layout, decayed: Decayed | None = None
) -> Stepper:
    """What moves a method's second vector, which may have a learning rate of its own.

    Args:
        settings: the method's options.
        own: that vector's own rate, which counts before ``optimizer.lr``; None where it has none.
        lr: the method's own rate otherwise.
        layout: of the model's vector.
        decayed: as :class:`Stepper` has it.
    """
    if own is None:
        return Stepper(settings, lr, layout, decayed)
    settings = settings.model_copy(update={"optimizer": settings.optimizer.without_rate()})
    return Stepper(settings, own, layout, decayed)


def scheduled(state: State, factor: float) -> State:
    """A round's first state with its learning rates times the schedule's factor of the round."""
    if factor == 1.0:
        return state
    return {name: tensor * factor if _is_rate(name) else tensor for name, tensor in state.items()}


def remembered(state: Mapping[str, Tensor]) -> State:
    """What optimisers remember in a state, or in a client's memory of one: all of theirs but learning rates."""
    return {name: tensor for name, tensor in state.items() if name.startswith(PREFIX) and not _is_rate(name)}


def _is_rate(name: str) -> bool:
    return name.startswith(PREFIX) and name.endswith(f"_{RATE}")


def decayed_numbers(layout: Layout, which: str) -> Tensor:
    """The numbers of a model that weight decay pulls: 1 for those, else 0, ``[P]`` float32 on the CPU.

    Args:
        layout: of its vector.
        which: "weights" or "matrices".
    """
    numbers = torch.zeros(layout.parameters)
    for slot in layout.trained:
        spared = "bias" in slot.name.rpartition(".")[2] if which == "weights" else len(slot.shape) < 2
        numbers[slot.start : slot.stop] = float(not spared)
    return numbers


def part_scale(layout: Layout, lr_scale: Mapping[str, float]) -> Tensor | None:
    """A factor of the learning rate for each trainable number of a model.

    Args:
        layout: of its vector.
        lr_scale: factors by the names of parts, as :meth:`~fedtl.models.vector.Layout.part` reads them; 1 for all
            others.

    Returns:
        ``[P]`` float32 on the CPU; None where ``lr_scale`` names no part.

    Raises:
        ConfigError: there is no such part, none of it trains, or two parts have a parameter in common.
    """
    if not lr_scale:
        return None
    scale, owner = torch.ones(layout.parameters), dict[int, str]()
    for part, factor in lr_scale.items():
        try:
            places = layout.part(part)
        except ConfigError as error:
            raise ConfigError(f"{KEY}.{part} = {factor:g}: {error}") from error
        for place in places:
            if place.start in owner:
                both = f"{owner[place.start]!r} and {part!r}"
                raise ConfigError(f"{KEY}: {both} have a parameter in common; leave one out")
            owner[place.start] = part
            scale[place] = factor
    return scale
