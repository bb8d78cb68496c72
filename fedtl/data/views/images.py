"""Images of another size and with another number of channels, so that two data sets can be fed to one model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.data.dataset import CHUNK, Dataset, Samples, channel_statistics, chunks
from fedtl.data.memory import need_memory

if TYPE_CHECKING:
    from fedtl.data.settings import DataChoice

ONE = 2**15
"""Weights are whole multiples of 1 / ONE: of bytes all sums are then whole numbers below 2**53, so that the result
has the same bits in whichever order, and on whichever machine, they are added."""

AT_ONCE = 2**26
"""Numbers that are resized at a time, in float64."""

LARGEST_SIDE = 4096
"""The largest height and width that images are resized to."""

LUMA = (19595, 38470, 7471)
"""Red, green and blue in a grey value, in 1 / 65536: ITU-R 601-2, rounded as in Pillow's conversion."""


def prepared(data: DataChoice, dataset: Dataset, size: tuple[int, int] | None = None) -> Dataset:
    """The data set as its ``size``, ``channels`` and ``transform`` ask for, with mean and standard deviation to match.

    Mean and standard deviation are taken per channel over the training part: all samples but the official test
    set and what is held out.

    Args:
        data: what is asked for.
        dataset: the samples as they were loaded.
        size: height and width of images, where ``data.size`` does not say it.

    Raises:
        ConfigError: these samples cannot be changed so.
    """
    x = dataset.x
    if data.size is not None:
        _need_images(x, f"data.size = {data.size}")
        size = data.size, data.size
        need_memory(f"data.size = {data.size}", x.itemsize * len(x) * x.shape[1] * data.size**2)
    if size is not None and x.ndim == 4:
        x = resize(x, *size)
    if data.channels is not None:
        key = f"data.channels = {data.channels}"
        _need_images(x, key)
        if x.shape[1] not in (1, 3):
            raise ConfigError(f"{key}: only images with 1 or 3 channels have others, but a sample has {x.shape[1]}")
        x = with_channels(x, data.channels)
    if data.transform is not None:
        _need_images(x, "data.transform")
        x = data.transform.apply(x)
    if x is dataset.x:
        return dataset
    mean, std = channel_statistics(x, dataset.training_rows())
    return replace(dataset, x=x, mean=mean, std=std)


def resize(images: Samples, height: int, width: int) -> Samples:
    """``[n, channels, height, width]`` by bilinear interpolation, with antialiasing where images become smaller.

    The weights are those of Pillow's and torchvision's antialiased bilinear filter.
    """
    if images.shape[2:] == (height, width):
        return images
    down, across = _weights(images.shape[2], height), _weights(images.shape[3], width)
    result: Samples = np.empty((*images.shape[:2], height, width), images.dtype)
    for rows in _pieces(len(images), images.shape[1] * max(height, images.shape[2]) * max(width, images.shape[3])):
        values = _along_last(images[rows].astype(np.float64), across)
        values = _along_last(values.swapaxes(2, 3), down).swapaxes(2, 3) / ONE**2
        result[rows] = np.rint(values) if images.dtype == np.uint8 else values
    return result


def _pieces(n: int, numbers: int) -> Iterator[NDArray[np.int64]]:
    """Images 0..n-1, so few at a time that a piece of them with so many numbers each stays small; CHUNK at most."""
    at_once = max(1, min(CHUNK, AT_ONCE // numbers))
    for start in range(0, n, at_once):
        yield np.arange(start, min(start + at_once, n))


def with_channels(images: Samples, channels: int) -> Samples:
    """Images ``[n, 1 or 3, height, width]`` with 1 or 3 channels: grey ones repeated, colours as their luma."""
    if images.shape[1] == channels:
        return images
    result: Samples = np.empty((len(images), channels, *images.shape[2:]), images.dtype)
    if channels == 3:
        result[:] = images
        return result
    for rows in chunks(np.arange(len(images))):
        if images.dtype == np.uint8:
            red, green, blue = (images[rows, i].astype(np.uint32) * LUMA[i] for i in range(3))
            result[rows, 0] = (red + green + blue + 2**15) >> 16
        else:
            result[rows, 0] = sum(images[rows, i].astype(np.float64) * (LUMA[i] / 2**16) for i in range(3))
    return result


def fit(source: Dataset, other: Dataset, key: str) -> tuple[Samples, Samples]:
    """The samples of both, made to one shape and checked to be alike; ``key`` is the other's place in the config.

    The other's images get the source's height and width; where one has 1 channel and the other 3, both have 3.

    Raises:
        ConfigError: there is no such shape.
    """
    x, z = source.x, other.x
    if x.dtype != z.dtype:
        raise ConfigError(f"{key}: its samples are {z.dtype}, but {x.dtype} in [data]; both must be bytes, or neither")
    if x.ndim == 4 and z.ndim == 4:
        z = resize(z, *x.shape[2:])
        if {x.shape[1], z.shape[1]} == {1, 3}:
            x, z = with_channels(x, 3), with_channels(z, 3)
    if x.shape[1:] != z.shape[1:]:
        raise ConfigError(
            f"{key}: a sample has shape {list(z.shape[1:])}, but {list(x.shape[1:])} in [data]; both must be images of "
            "1 or 3 channels, or of the same shape"
        )
    return x, z


def _need_images(x: Samples, key: str) -> None:
    if x.ndim != 4:
        raise ConfigError(
            f"{key}: only images [channels, height, width] can be changed so, but a sample has shape "
            f"{list(x.shape[1:])}; leave it out"
        )


def _along_last(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """``values [..., n]`` times ``weights [m, n]``, as one product of two matrices."""
    product = values.reshape(-1, values.shape[-1]) @ weights.T
    return product.reshape(*values.shape[:-1], len(weights))


def _weights(before: int, after: int) -> NDArray[np.float64]:
    """How much each of ``before`` pixels counts in each of ``after``, ``[after, before]``; a row's sum is ONE."""
    scale = before / after
    centre = (np.arange(after)[:, None] + 0.5) * scale
    weights = np.maximum(0, 1 - abs(np.arange(before) + 0.5 - centre) / max(scale, 1.0))
    whole: NDArray[np.float64] = np.rint(weights / weights.sum(axis=1, keepdims=True) * ONE)
    whole[np.arange(after), whole.argmax(axis=1)] += ONE - whole.sum(axis=1)
    return whole
