"""What a model's input is made with, ``x * scale + shift``, from means and standard deviations."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fedtl.choice import ConfigError

Normaliser = tuple[NDArray[np.float32], NDArray[np.float32]]
"""``scale`` and ``shift``, broadcastable to a sample."""


def unit_of(dtype: DTypeLike) -> float:
    """What stored numbers are divided by to be in ``Dataset``'s units: bytes by 255."""
    return 255.0 if np.dtype(dtype) == np.uint8 else 1.0


def in_units(
    mean: NDArray[np.float64], std: NDArray[np.float64], dtype: DTypeLike
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation of stored numbers in ``Dataset``'s units; where nothing varies, the latter is 1."""
    unit = unit_of(dtype)
    return (mean / unit).astype(np.float32), (np.where(std > 0, std, unit) / unit).astype(np.float32)


def by_dataset(mean: NDArray[np.float32], std: NDArray[np.float32], dtype: DTypeLike) -> Normaliser:
    """(x - mean) / std, of mean and standard deviation in ``Dataset``'s units."""
    mean64, std64 = mean.astype(np.float64), std.astype(np.float64)
    return (1 / (unit_of(dtype) * std64)).astype(np.float32), (-mean64 / std64).astype(np.float32)


def by_pixel(mean: NDArray[np.float64], std: NDArray[np.float64]) -> Normaliser:
    """(x - mean) / (std + 0.001), of each number's mean and standard deviation as it is stored.

    Raises:
        ConfigError: the result is too large for float32.
    """
    scale = 1 / (std + 0.001)
    with np.errstate(over="ignore"):
        shift = (-mean * scale).astype(np.float32)
    if not np.isfinite(shift).all():
        raise ConfigError(
            f"data.normalise = 'pixel': a mean of {mean[~np.isfinite(shift)][0]:g}, divided by std + 0.001, "
            "is too large for float32; use 'dataset'"
        )
    return scale.astype(np.float32), shift


def unchanged(axes: int, dtype: DTypeLike) -> Normaliser:
    """Bytes divided by 255, other numbers as they are, for samples of so many axes."""
    ones = np.ones((1,) * axes, np.float32)
    return (ones / unit_of(dtype)).astype(np.float32), np.zeros_like(ones)
