"""What a model's input is made with, ``x * scale + shift``, from means and standard deviations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeGuard

import numpy as np
from numpy.typing import DTypeLike, NDArray
from pydantic import Field, PositiveFloat

from fedtl.choice import ConfigError, Options

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


class Constants(Options):
    """(x - mean) / std of published numbers, as torchvision's Normalize has them: bytes are divided by 255 first.

    Attributes:
        mean: one number, or one per channel.
        std: likewise.
    """

    mean: float | Annotated[tuple[float, ...], Field(min_length=1)]
    std: PositiveFloat | Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]

    def normaliser(self, shape: Sequence[int], dtype: DTypeLike) -> Normaliser:
        """``scale`` and ``shift`` for samples of this shape ``[channels, ...]``, stored as ``dtype``.

        Raises:
            ConfigError: there is neither one number nor one per channel.
        """
        mean, std = (self._per_channel(name, shape) for name in ("mean", "std"))
        return by_dataset(mean, std, dtype)

    def _per_channel(self, name: Literal["mean", "std"], shape: Sequence[int]) -> NDArray[np.float32]:
        """``[1, 1, ...]`` or ``[channels, 1, ...]``."""
        numbers = np.atleast_1d(np.asarray(getattr(self, name), np.float32))
        if len(numbers) not in (1, shape[0]):
            raise ConfigError(
                f"data.normalise.{name} = {numbers.tolist()}: give one number, or one for each of the {shape[0]} "
                "channels"
            )
        return numbers.reshape(-1, *(1 for _ in shape[1:]))


Normalisation = Literal["dataset", "pixel", "none"] | Constants
"""What ``data.normalise`` may be."""


def needs_statistics(kind: Normalisation | str) -> TypeGuard[Literal["dataset", "pixel"]]:
    """Whether means and deviations of samples are needed."""
    return kind in ("dataset", "pixel")
