"""What a data set is before it is divided among clients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedtl.data.normalise import in_units

Samples = NDArray[np.uint8] | NDArray[np.float32]
"""Images as stored bytes, or numbers of any other kind."""

CHUNK = 4096
"""Samples that are converted to floats at a time; a whole image set in float64 would take eight times its memory."""


@dataclass(frozen=True)
class Dataset:
    """Labelled samples in one array, images as stored bytes.

    Attributes:
        x: samples ``[n, *shape]``; images ``[n, channels, height, width]`` uint8, other data float32.
        y: labels ``[n]`` int64 in ``0..classes-1``.
        classes: number of classes.
        mean, std: what the model's input is normalised with, in the units of ``x`` after division by 255
            where ``x`` is uint8; broadcastable to one sample's shape.
        owner: ``[n]`` int64, whose sample this is (``0..users-1``; -1 for nobody's), where the data say so,
            else None.
        official_test: index of the first sample of the data set's own test set (it stands at the end), or
            None where it has none.
        held_out: ``[n]`` bool, which samples are test data of their own owner, where the data say so, else None.
        label_names: a word per class, for pictures.
    """

    x: Samples
    y: NDArray[np.int64]
    classes: int
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    owner: NDArray[np.int64] | None = None
    official_test: int | None = None
    held_out: NDArray[np.bool_] | None = None
    label_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.x)
        if self.x.dtype not in (np.uint8, np.float32):
            raise ValueError(f"a data set's x must be uint8 or float32, not {self.x.dtype}")
        if self.y.dtype != np.int64 or self.y.shape != (n,):
            raise ValueError(f"a data set's y must be int64 of shape [{n}], not {self.y.dtype} {list(self.y.shape)}")
        if n and not (self.y.min() >= 0 and self.y.max() < self.classes):
            raise ValueError(f"labels go from {self.y.min()} to {self.y.max()}, but classes = {self.classes}")
        for field, array in (("owner", self.owner), ("held_out", self.held_out)):
            if array is not None and array.shape != (n,):
                raise ValueError(f"a data set's {field} must have shape [{n}], not {list(array.shape)}")


def channel_statistics(x: Samples) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation along a sample's first axis, in ``Dataset``'s units, broadcastable to a sample.

    The first axis is an image's channel, a series' sensor, a vector's feature. A constant one gets the
    standard deviation 1.
    """
    return in_units(*moments(x, np.arange(len(x)), (0, *range(2, x.ndim))), x.dtype)


def pixel_statistics(x: Samples, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of every single number of a sample over ``rows``, in stored units."""
    return moments(x, rows, (0,))


def moments(
    x: Samples, rows: NDArray[np.int64], axes: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation over ``rows`` and ``axes``, which are kept with length 1 save the first."""
    return moments_of(*sums(x, rows, axes))


def sums(
    x: Samples, rows: NDArray[np.int64], axes: tuple[int, ...]
) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
    """How many numbers ``rows`` have along ``axes``, and their sum and sum of squares there, as :func:`moments` keeps.

    Of bytes both sums are whole numbers below 2**53, so they are the same in whichever order they are added.
    """
    total = np.zeros([1 if axis in axes else length for axis, length in enumerate(x.shape)])
    square = total
    for chunk in chunks(rows):
        values = x[chunk].astype(np.float64)
        total = total + values.sum(axis=axes, keepdims=True)
        square = square + np.square(values, out=values).sum(axis=axes, keepdims=True)
    return len(rows) * int(np.prod([x.shape[axis] for axis in axes[1:]])), total[0], square[0]


def moments_of(
    count: int, total: NDArray[np.float64], square: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of ``count`` numbers from their sum and sum of squares."""
    mean = total / count
    std: NDArray[np.float64] = np.sqrt(np.maximum(square / count - mean**2, 0))
    return mean, std


def chunks(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """``rows`` in pieces of :data:`CHUNK`."""
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK]
