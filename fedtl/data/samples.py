"""A federation's samples on the device that trains with them: bytes until the batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedtl.data.federation import Federation


def as_tensor(array: NDArray[np.generic]) -> Tensor:
    """A tensor over an array's memory; the array may be read-only (shared between processes) and stays as it is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)


class Samples:
    """All clients' samples, stored once, as they are stored on disk; batches are made by index.

    Attributes:
        federation: whose they are, as clients hold them in the round that was last entered.
        device: where batches are made.
        channels_last: whether batches of images lie in memory with a pixel's channels side by side. On a CPU
            convolutions and poolings keep that order, and max-pooling is ten times as fast in it.
        view: makes a random view of stored samples ``[n, *shape]``, given a seed, where views are asked for.
    """

    def __init__(
        self,
        federation: Federation,
        device: torch.device,
        channels_last: bool = False,
        view: Callable[[Tensor, int], Tensor] | None = None,
    ) -> None:
        self._whole = federation
        self.federation, self.device, self.channels_last, self.view = federation, device, channels_last, view
        self._x = as_tensor(federation.x).to(device)
        outcomes = federation.outcomes
        self._y = as_tensor(federation.y if outcomes is None else outcomes.scaled()).to(device)
        self._scale = torch.tensor(federation.scale, device=device)
        self._shift = torch.tensor(federation.shift, device=device)
        self._held: dict[str, Tensor] = {}

    def enter(self, round: int) -> None:
        """Let :attr:`federation` be what clients hold in a round; the samples themselves are all there."""
        if self._whole.later:
            self.federation = self._whole.at(round)

    def batch(self, index: NDArray[np.int64], stream: str = "x") -> tuple[Tensor, Tensor]:
        """Model inputs ``[*index.shape, *shape]`` float32, and labels ``[*index.shape]`` or outcomes, with their shape.

        The inputs are valid until the stream's next batch is made: on a CPU they lie in memory that is used
        again, as fresh memory would cost more than what is written to it.
        """
        where = self._where(index)
        raw = torch.index_select(self._x, 0, where, out=self._again("raw", self._x.dtype, len(where)))
        y = self._y.index_select(0, where)
        return self._inputs(raw, stream, index.shape), y.view(*index.shape, *y.shape[1:])

    def views(self, index: NDArray[np.int64], seeds: Sequence[int], stream: str) -> Tensor:
        """Random views of samples as model inputs ``[*index.shape, *shape]``, valid as those of :meth:`batch`.

        Args:
            index: ``[T, B]``.
            seeds: of each of the T mini-batches' random numbers.
            stream: what the views are called.
        """
        assert self.view is not None
        raw = self._x.index_select(0, self._where(index)).view(*index.shape, *self._x.shape[1:])
        seen = torch.cat([self.view(few, seed) for few, seed in zip(raw, seeds)])
        return self._inputs(seen, stream, index.shape)

    def some_y(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """What might be predicted of samples, ``[*shape, ...]``, where it is values and no samples that count."""
        federation = self.federation
        if federation.outcomes is None:
            return torch.randint(federation.classes, tuple(shape), generator=generator).to(self.device)
        rows = torch.randint(max(len(self._y), 1), tuple(shape), generator=generator)
        return (self._y if len(self._y) else self._y.new_zeros(1, *self._y.shape[1:]))[rows.to(self.device)]

    def _where(self, index: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(index)).to(self.device, non_blocking=True).reshape(-1)

    def _inputs(self, raw: Tensor, stream: str, lead: tuple[int, ...]) -> Tensor:
        """Stored samples ``[n, *shape]`` as model inputs ``[*lead, *shape]``."""
        if self.channels_last:
            raw = raw.movedim(1, -1)
        x = self._again(stream, torch.float32, len(raw)).view(raw.shape).copy_(raw)
        if self.channels_last:
            x = x.movedim(-1, 1)
        x.mul_(self._scale).add_(self._shift)
        return in_order(x.view(*lead, *x.shape[1:]), self.channels_last)

    def _again(self, name: str, dtype: torch.dtype, samples: int) -> Tensor:
        """Memory for so many samples; on a CPU the same as last time."""
        shape = self._x.shape[1:]
        if self.device.type != "cpu":
            return torch.empty(samples, *shape, dtype=dtype, device=self.device)
        buffer = self._held.get(name)
        if buffer is None or len(buffer) < samples:
            with torch.inference_mode(False):  # training writes there too
                buffer = self._held[name] = torch.empty(samples, *shape, dtype=dtype)
        return buffer[:samples]


FEW = 16
"""Samples that a model is tried out on."""


@dataclass(frozen=True)
class FewSamples:
    """The first of a federation's samples, to try a model out on: made-up ones may be none that it takes.

    Attributes:
        federation: whose.
        stored: as they are stored, ``[n, *shape]`` float32, one at least.
        x: as a model sees them, ``[n, *shape]`` float32.
    """

    federation: Federation
    stored: Tensor
    x: Tensor

    @classmethod
    def of(cls, federation: Federation) -> FewSamples | None:
        """Of what clients train on, else of whatever there is; None of a federation without samples."""
        target = federation.target
        orders = [federation.train.order, *([target.train.order] if target is not None else [])]
        for index in (*orders, federation.public, federation.test.order, federation.server_test):
            if len(index):
                return cls(federation, *_both(federation, index[:FEW]))
        return None

    @property
    def bytes(self) -> bool:
        """Whether they are stored as bytes."""
        return self.federation.x.dtype == np.uint8

    def take(self, n: int) -> Tensor:
        """``n`` of them as a model sees them, some more than once if there are fewer."""
        return self.x[torch.arange(n) % len(self.x)]

    def extremes(self) -> Tensor:
        """The samples ``[2, *shape]`` with the federation's smallest and largest number, as a model sees them."""
        rows = np.array([find(self.federation.x) // self.stored[0].numel() for find in (np.argmin, np.argmax)])
        return _both(self.federation, rows)[1]

    def range(self) -> tuple[float, float]:
        """The smallest and the largest number that is stored."""
        return float(self.federation.x.min()), float(self.federation.x.max())


def _both(federation: Federation, index: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    stored = torch.from_numpy(federation.x[index].astype(np.float32))
    return stored, stored * torch.tensor(federation.scale) + torch.tensor(federation.shift)


def in_order(x: Tensor, channels_last: bool) -> Tensor:
    """Images ``[..., channels, height, width]`` with each pixel's channels side by side in memory, if so asked.

    With one channel both orders are the same memory; the strides then tell a convolution which is meant.
    """
    if not channels_last:
        return x
    *lead, channels, height, width = x.shape
    row = width * channels
    image = height * row
    strides = [image * int(np.prod(lead[i + 1 :])) for i in range(len(lead))]
    return x.movedim(-3, -1).contiguous().as_strided(x.shape, (*strides, 1, row, channels))
