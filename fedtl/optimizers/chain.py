"""Gradient transformations, and chains of them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

State = dict[str, Tensor]
"""Named tensors that change from step to step: ``[..., P]``, or ``[..., 1]`` for one number per client."""


class Transform:
    """A link of an optimiser: turns a gradient into what the next link is given, the last one into the step.

    Vectors are ``[P]`` or ``[C, P]``, and arithmetic is elementwise with separate products and sums, so that a stack
    of C gives the same bits as C vectors one by one. Nothing is changed in place, and nothing that differs between
    steps is a Python number, so a step can be traced once and replayed.
    """

    def init(self, w: Tensor) -> State:
        """What it remembers before the first step on a model like ``w`` ``[..., P]``."""
        return {}

    def update(self, g: Tensor, state: State, w: Tensor) -> tuple[Tensor, State]:
        """Transform ``g`` at the model ``w``, both ``[..., P]``.

        Args:
            g: the gradient, or what the link before made of it.
            state: has the names that ``init`` gives; other names in it are passed on.
            w: the model before the step.

        Returns:
            The transformed ``g``, and a state with the same names as ``state``.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Chain(Transform):
    """Transformations one after another; the last one gives the step u of w ← w - u.

    Raises:
        ValueError: in ``init``, where two links remember something under one name.
    """

    links: tuple[Transform, ...]

    def init(self, w: Tensor) -> State:
        """What all links remember; the names are what a client that keeps its optimiser's state keeps."""
        state: State = {}
        for link in self.links:
            own = link.init(w)
            if both := sorted(own.keys() & state.keys()):
                raise ValueError(f"two links of an optimiser remember {both[0]!r}")
            state |= own
        return state

    def update(self, g: Tensor, state: State, w: Tensor) -> tuple[Tensor, State]:
        """The step u ``[..., P]``, and the state after it."""
        for link in self.links:
            g, state = link.update(g, state, w)
        return g, state

    def step(self, g: Tensor, state: State, w: Tensor) -> tuple[Tensor, State]:
        """The model w - u ``[..., P]``, and the state after the step."""
        u, state = self.update(g, state, w)
        return w - u, state
