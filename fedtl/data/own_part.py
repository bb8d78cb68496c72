"""The parts that a participant's own data consist of, and what each must be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.data.dataset import Samples

TRAIN, TEST, TARGET_TRAIN, TARGET_TEST, PUBLIC = "train", "test", "target/train", "target/test", "public"

PARTS = (TRAIN, TEST, TARGET_TRAIN, TARGET_TEST, PUBLIC)
"""In the order in which they stand in ``Own.x``; also their names on disk."""

LABELLED = (TRAIN, TEST, TARGET_TEST)
"""Those of which labels are read."""

Labels = NDArray[np.int64] | NDArray[np.str_]
"""Whole numbers from 0, or words."""

UNLABELLED = -1
"""Stands for the label of a training sample that has none; among words, ``"-1"`` does."""


@dataclass(frozen=True)
class Part:
    """One part's samples.

    Attributes:
        where: the file or folder that they are from, for messages.
        x: ``[n, ...]``.
        y: ``[n]``, or None in a part of which no labels are read.
    """

    where: str
    x: Samples
    y: Labels | None = None


def samples(where: str, x: NDArray[Any]) -> Samples:
    """``x`` as samples are stored: bytes as they are, [n, height, width] with one channel; other numbers as float32.

    Raises:
        ConfigError: it holds no samples, or no numbers; ``where`` begins the message.
    """
    if x.dtype.kind not in "fiu":
        raise ConfigError(f"{where} holds {x.dtype}; samples are numbers, as uint8 or float32")
    if x.ndim < 2:
        raise ConfigError(f"{where} has shape {list(x.shape)}; samples need [n, ...], with one axis or more each")
    if x.size == 0:
        raise ConfigError(f"{where} is empty, shape {list(x.shape)}; leave out what holds no sample")
    if x.dtype == np.uint8:
        return x[:, None] if x.ndim == 3 else x
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite and is named below
        x = x.astype(np.float32)
    finite = np.isfinite(x).reshape(len(x), -1).all(axis=1)
    if not finite.all():
        raise ConfigError(
            f"{where}: {(~finite).sum()} samples, the first at {np.argmin(finite)}, have values that are NaN or "
            "infinite in float32; remove or replace them"
        )
    return x


def labels(where: str, y: NDArray[Any], n: int, part: str) -> Labels:
    """``y`` as the labels of ``n`` samples of a part; -1 where a training sample has none.

    Raises:
        ConfigError: they are not that; ``where`` begins the message.
    """
    if y.shape != (n,):
        raise ConfigError(f"{where} has shape {list(y.shape)}; the {n} samples of its x need [{n}]")
    least = UNLABELLED if part == TRAIN else 0
    begin = "labels begin at 0" + (", and -1 is a training sample that has none" if least else "")
    if y.dtype.kind == "U":
        if not least and (y == str(UNLABELLED)).any():
            raise ConfigError(f"{where} has the label -1: only training samples may be without a label")
        return y.astype(np.str_)
    if y.dtype.kind not in "iu":
        raise ConfigError(f"{where} holds {y.dtype}; labels are whole numbers from 0, or words")
    for label in (y.min(), y.max()):
        if not least <= int(label) <= np.iinfo(np.int32).max:
            raise ConfigError(f"{where} has the label {label}; {begin}")
    return y.astype(np.int64)
