"""What networks for sequences have in common: series of measurements, and token ids.

A series is ``[channels, T]``, one row for each sensor, as ``watch`` has them. A sequence of tokens is ``[T]``, whole
numbers that come as float32 and are looked up by number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from fedtl.choice import ConfigError
from fedtl.data.dataset import chunks
from fedtl.models.settings import ModelChoice

if TYPE_CHECKING:
    from fedtl.data.samples import FewSamples

Pooling = Literal["last", "mean"]


class TokensChoice(ModelChoice):
    """Options of a network that takes token ids.

    Attributes:
        vocabulary: how many token ids there are; samples ``[T]`` are whole numbers from 0 on. Set data.normalise =
            "none", so that they stay whole.
        padding: the id of what fills a sequence up.
    """

    vocabulary: PositiveInt | None = None
    padding: NonNegativeInt | None = None

    @model_validator(mode="after")
    def _padding_is_a_token(self) -> TokensChoice:
        if self.padding is not None and self.vocabulary is not None and self.padding >= self.vocabulary:
            raise ValueError(f"padding = {self.padding} should be below vocabulary = {self.vocabulary}")
        return self

    def check_samples(self, few: FewSamples, classes: int) -> None:
        """Check that the data are token ids, all of them in the vocabulary."""
        if len(few.federation.shape) == 1:
            words = self.known(classes)
            check_whole(self.name, few, range(few.federation.shape[0]), words or classes, "model.vocabulary")

    def known(self, classes: int) -> int | None:
        """How many token ids there are; None where nothing tells."""
        return self.vocabulary

    def words(self, shape: tuple[int, ...], width: int, classes: int) -> Tokens:
        """The first layer for samples ``[T]``."""
        vocabulary = self.known(classes)
        if len(shape) != 1:
            raise ConfigError(
                f"model.name = {self.name!r}: it takes sequences of token ids [T], but a sample has shape {list(shape)}"
            )
        if vocabulary is None:
            raise ConfigError(
                f"model.vocabulary is missing: samples of shape {list(shape)} are read as token ids, so say how many "
                "there are; a series is [channels, T]"
            )
        return Tokens(vocabulary, width, self.padding)


class SequenceChoice(TokensChoice):
    """Options of a network that takes series or token ids, and answers for the whole or for each position.

    Attributes:
        pooling: what the head sees of a sequence: its "last" position, or the "mean" of all; padding counts in neither.
        per_token: whether there are logits for each position, ``[n, T, k]``, which depend on nothing that comes later;
            the task "next_token" sets it.
    """

    pooling: Pooling = "last"
    per_token: bool = False

    def without_use(self) -> Mapping[str, str]:
        """See :class:`~fedtl.choice.Choice`."""
        return {"pooling": "there are logits for each position"} if self.per_token else {}

    def entry(self, shape: tuple[int, ...], classes: int, width: int) -> tuple[Tokens | Series, int]:
        """The first layer, and how many numbers it makes of each position."""
        if len(shape) == 2:
            for option in ("vocabulary", "padding"):
                if (value := getattr(self, option)) is not None:
                    raise ConfigError(
                        f"model.{option} = {value}: samples of shape {list(shape)} are series, not token ids; leave "
                        "it out"
                    )
            return Series(), shape[0]
        if len(shape) != 1:
            raise ConfigError(
                f"model.name = {self.name!r}: it takes series [channels, T] or token ids [T], but a sample has shape "
                f"{list(shape)}"
            )
        return self.words(shape, width, classes), width

    def known(self, classes: int) -> int | None:
        """Where each token is predicted, the tokens that are predicted are those that there are."""
        return self.vocabulary or (classes if self.per_token else None)

    def pool(self) -> Pooling | None:
        """What is left of the positions; None if all are."""
        return None if self.per_token else self.pooling


class Tokens(nn.Module):
    """Looks token ids up.

    Shapes: x ``[n, T]``, whole numbers in float32 -> ``[n, T, width]``.

    Args:
        vocabulary: how many ids there are.
        width: of a token's vector.
        padding: the id whose vector is 0, whatever the table has there.
    """

    def __init__(self, vocabulary: int, width: int, padding: int | None = None) -> None:
        super().__init__()
        self.padding = padding
        # Not its padding_idx, of which only a stack's first client has the right gradient under torch.func.vmap.
        self.words = nn.Embedding(vocabulary, width)

    def forward(self, x: Tensor) -> Tensor:
        """The tokens' vectors."""
        vectors: Tensor = self.words(x.long())
        real = self.real(x)
        return vectors if real is None else vectors * real[..., None]

    def real(self, x: Tensor) -> Tensor | None:
        """Which positions are no padding, ``[n, T]``; None where all count."""
        return None if self.padding is None else x.long() != self.padding


class Series(nn.Module):
    """A series' measurements one after another.

    Shapes: x ``[n, channels, T]`` -> ``[n, T, channels]``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The same numbers."""
        return x.transpose(1, 2)

    def real(self, x: Tensor) -> Tensor | None:
        """See :class:`Tokens`."""
        return None


def pooled(h: Tensor, real: Tensor | None, how: Pooling | None) -> Tensor:
    """What is left of a sequence's positions.

    Args:
        h: ``[n, T, f]``.
        real: which positions count ``[n, T]``; all if None.
        how: see :class:`SequenceChoice`; all positions stay if None.

    Returns:
        ``[n, f]``, or ``h``. Of a sequence of padding alone the first position, or 0 for the mean.
    """
    if how is None:
        return h
    if real is None:
        return h[:, -1] if how == "last" else h.mean(1)
    if how == "mean":
        counts = real.to(h.dtype)[..., None]
        return (h * counts).sum(1) / counts.sum(1).clamp(min=1)
    last = (real * torch.arange(h.shape[1], device=h.device)).amax(1)
    return h.gather(1, last[:, None, None].expand(-1, 1, h.shape[2])).squeeze(1)


def check_whole(name: str, few: FewSamples, columns: range | list[int], count: int, key: str) -> None:
    """Check that a model sees whole numbers below ``count`` in some places of the samples ``[n, columns]``.

    Raises:
        ConfigError: it does not; ``key`` is the option that says how many there are.
    """
    stored, seen = few.stored[:, list(columns)], few.x[:, list(columns)]
    if not bool((stored == seen).all()):
        remedy = 'set data.normalise = "none"'
        if few.bytes:
            remedy += ", and store them as int64, as bytes are divided by 255"
        raise ConfigError(
            f"model.name = {name!r}: it looks samples up by number, and they are no longer whole once they are "
            f"normalised; {remedy}"
        )
    x = few.federation.x
    # Of all samples: a partition may change those of some clients.
    if any((part != np.rint(part)).any() for rows in chunks(np.arange(len(x))) for part in [x[rows][:, list(columns)]]):
        raise ConfigError(f"{key} = {count}: the data's numbers there are no whole ones")
    low, high = (
        (x.min(), x.max()) if len(columns) == x.shape[1] else (x[:, list(columns)].min(), x[:, list(columns)].max())
    )
    if low < 0 or high >= count:
        raise ConfigError(
            f"{key} = {count}: the data's numbers there go from {low:g} to {high:g}; they should go from 0 to "
            f"{count - 1}"
        )
