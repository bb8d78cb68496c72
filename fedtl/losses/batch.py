"""One mini-batch, and what else a term's parts depend on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from fedtl.data.federation import ClassCounts

NO_STREAMS: Mapping[str, Tensor] = {}

STREAMS = ("target", "view_a", "view_b", "public", "replay")
"""What in a batch's ``more`` is further samples."""

SCALE, OFFSET = "logits scale", "logits offset"
"""In a batch's ``more``: what its logits are multiplied by, and what is added to them."""

SHIFT = "logits shift"
"""Likewise: what is added to those of its samples and of all further streams."""

PARAMETERS = "parameters"
"""Likewise: what terms on parameters see in place of the model's, as numbers that stay."""


class Batch(NamedTuple):
    """One mini-batch, of one client or of C stacked ones; with T as a first dimension, T of them.

    Attributes:
        x: model inputs ``[B, *shape]`` or ``[C, B, *shape]`` float32.
        y: labels ``[B]`` or ``[C, B]`` int64, zeros where the client has none; or what else is predicted of a sample,
            ``[B, ...]`` or ``[C, B, ...]``.
        mask: 1 for a sample and 0 for padding, ``[C, B]`` float32; None where all are samples.
        more: further streams by name, of sizes of their own: ``"target"``, ``"view_a"``, ...
        labelled: whether ``x`` are labelled source samples; else they are unlabelled ones of the target.
    """

    x: Tensor
    y: Tensor
    mask: Tensor | None
    more: Mapping[str, Tensor] = NO_STREAMS
    labelled: bool = True

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], labelled: bool) -> Batch:
        """The batch whose :meth:`tensors` these are."""
        more = {name: tensor for name, tensor in tensors.items() if name not in cls._fields}
        return cls(tensors["x"], tensors["y"], tensors.get("mask"), more, labelled)

    def streams(self) -> dict[str, Tensor]:
        """The samples of its further streams by name."""
        return {name: self.more[name] for name in STREAMS if name in self.more} if self.more else {}

    def with_logits(self, scale: Tensor, offset: Tensor, streams: Mapping[str, Tensor] = NO_STREAMS) -> Batch:
        """The same, of which the objective sees the logits scale · f(x) + offset.

        Args:
            scale: ``[1]``, or ``[C, 1]``.
            offset: ``[B, k]``, or ``[C, B, k]``.
            streams: offsets of further streams' samples, by name; others have the logits f(x).
        """
        stacked = scale.unsqueeze(-1) if scale.dim() > 1 else scale
        offsets = {OFFSET: offset, **{offset_of(name): further for name, further in streams.items()}}
        return self._replace(more={**self.more, SCALE: stacked, **offsets})

    def shifted(self, shift: Tensor) -> Batch:
        """The same, of which the objective sees the logits f(x) + shift, and of further streams as well.

        Args:
            shift: ``[k]``, or ``[C, k]``.
        """
        return self._replace(more={**self.more, SHIFT: shift})

    def with_parameters(self, w: Tensor) -> Batch:
        """The same, of which terms on parameters see ``w`` ``[P]`` or ``[C, P]``, and have no gradient."""
        return self._replace(more={**self.more, PARAMETERS: w})

    def tensors(self) -> dict[str, Tensor]:
        """All of its tensors by name, as a traced step names them."""
        mask = {} if self.mask is None else {"mask": self.mask}
        return {"x": self.x, "y": self.y, **mask, **self.more}

    def part(self, step: int) -> Batch:
        """Mini-batch ``step`` of T, as the only one."""
        mask = None if self.mask is None else self.mask[step : step + 1]
        more = {name: tensor[step : step + 1] for name, tensor in self.more.items()} if self.more else NO_STREAMS
        return Batch(self.x[step : step + 1], self.y[step : step + 1], mask, more, self.labelled)

    def at(self, step: int) -> Batch:
        """Mini-batch ``step`` of T."""
        mask = None if self.mask is None else self.mask[step]
        more = {name: tensor[step] for name, tensor in self.more.items()} if self.more else NO_STREAMS
        return Batch(self.x[step], self.y[step], mask, more, self.labelled)


def offset_of(stream: str) -> str:
    """What in a batch's ``more`` is added to the logits of one of its further streams."""
    return f"{OFFSET} of {stream}"


@dataclass(frozen=True)
class Sizes:
    """What a term's own modules may depend on.

    Attributes:
        shape: of a sample.
        classes: k, the numbers that a model gives for a sample.
        layers: how many numbers a sample has in each layer that the term reads, as ``{"features": 84}``.
        model: the model as it begins, of which a module may be a copy in part; None where there is none.
        counts: says how many samples are trained on, and how many of each class, or with each of several labels; None
            where nobody knows.
    """

    shape: tuple[int, ...]
    classes: int
    layers: Mapping[str, int]
    model: nn.Module | None = None
    counts: Callable[[], ClassCounts | None] = lambda: None
