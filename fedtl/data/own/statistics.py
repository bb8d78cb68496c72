"""What the participants' training samples are normalised with, where none of them sees another's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from numpy.typing import DTypeLike

from fedtl.choice import ConfigError
from fedtl.data.dataset import sums
from fedtl.data.own.read import Own
from fedtl.data.views.normalise import (
    Constants,
    Normalisation,
    Normaliser,
    by_dataset,
    by_pixel,
    in_units,
    unchanged,
)
from fedtl.moments import Sums, moments_of, pooled


def statistics(own: Own, kind: Literal["dataset", "pixel"]) -> Sums:
    """Sums over a client's training samples as they are stored, with labels or without, in float64.

    Args:
        own: its data.
        kind: "dataset": along a sample's first axis, ``[channels, 1, 1]`` of images; "pixel": of each number of a
            sample, ``[*shape]``.

    Returns:
        How many numbers each sum is of, the sums, and the sums of squares: of bytes, or of other numbers' differences
        from this client's own mean.
    """
    return sums(own.x, own.train, (0,) if kind == "pixel" else (0, *range(2, own.x.ndim)))


def normaliser(
    kind: Normalisation,
    each: Sequence[Sums],
    shape: Sequence[int],
    dtype: DTypeLike,
) -> Normaliser:
    """``scale`` and ``shift`` out of all clients' :func:`statistics`, as ``data.normalise`` would have them.

    They are those of the clients' pooled training samples: of bytes with the same bits.

    Args:
        kind: as ``data.normalise``; "none" and constants need no statistics.
        each: what the clients sent, in any order for bytes; that of floats decides the last bits.
        shape: of a sample.
        dtype: of stored samples.

    Raises:
        ConfigError: no client has a training sample.
        ValueError: the sums are not of such samples.
    """
    if isinstance(kind, Constants):
        return kind.normaliser(shape, dtype)
    if kind == "none":
        return unchanged(len(shape), dtype)
    expected = tuple(shape) if kind == "pixel" else (shape[0], *(1 for _ in shape[1:]))
    for _, total, square in each:
        if total.shape != expected or square.shape != expected:
            raise ValueError(f"sums have shapes {total.shape} and {square.shape}; these samples need {expected}")
    if not any(count for count, _, _ in each):
        raise ConfigError("no client has a training sample to normalise by")
    mean, std = moments_of(*pooled(each, dtype), dtype)
    return by_pixel(mean, std) if kind == "pixel" else by_dataset(*in_units(mean, std, dtype), dtype)
