"""Mean and standard deviation of numbers that lie in several places, out of each place's own sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

Sums: TypeAlias = tuple[int, NDArray[np.float64], NDArray[np.float64]]
"""How many numbers there are, their sum, and the sum of their squared differences from their mean; of bytes the sum of
their squares, see :func:`fedtl.data.dataset.sums`."""


def pooled(each: Sequence[Sums], dtype: DTypeLike) -> Sums:
    """The sums of several groups' numbers taken together, out of each group's own; one group or more has any.

    Of numbers that are no bytes: Chan, Golub and LeVeque 1983, equation 2.1, for any number of groups.
    """
    each = [one for one in each if one[0]]
    count = sum(one[0] for one in each)
    total, square = np.zeros_like(each[0][1]), np.zeros_like(each[0][2])
    for _, part, of_part in each:
        total, square = total + part, square + of_part
    if np.dtype(dtype) != np.uint8:
        for n, part, _ in each:
            square = square + n * np.square(part / n - total / count)
    return count, total, square


def moments_of(
    count: int, total: NDArray[np.float64], square: NDArray[np.float64], dtype: DTypeLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of ``count`` numbers of type ``dtype`` from their sums.

    The standard deviation is 0 where it is at most that of rounding to float32, see :func:`resolution`.
    """
    mean = total / count
    if np.dtype(dtype) == np.uint8:
        return mean, np.sqrt(np.maximum(square / count - mean**2, 0))
    std = np.sqrt(square / count)
    return mean, np.where(std > resolution(mean), std, 0.0)


def resolution(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """The smallest standard deviation of stored numbers around ``mean`` that is more than how they were rounded.

    Samples are stored as float32, whose neighbours near m are up to eps * abs(m) apart. Numbers that are equal but for
    the last bits, because they were computed in two ways or at two clients, have a standard deviation of about that,
    and divided by it a constant would become noise: a model's input x * scale + shift is rounded by half of
    eps * abs(m) / std, so no digit of it would be right. From twice eps * abs(m) on it varies. The sums here, of
    float64, are off by a few 2**-53 * abs(m) alone. Below float32's smallest normal number 1 / std would overflow.
    """
    limits = np.finfo(np.float32)
    least: NDArray[np.float64] = np.maximum(2 * float(limits.eps) * np.abs(mean), float(limits.tiny))
    return least
