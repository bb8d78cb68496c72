"""What a data set is before it is divided among clients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.data.columns import Columns
from fedtl.data.file_rows import FileRows
from fedtl.data.views.normalise import in_units
from fedtl.moments import Sums, moments_of
from fedtl.random import derived_seed
from fedtl.tasks.contract import LearningTask
from fedtl.tasks.outcomes import Outcomes, joined

Samples = NDArray[np.uint8] | NDArray[np.float32]
"""Images as stored bytes, or numbers of any other kind."""

CHUNK = 4096
"""Samples that are converted to floats at a time; a whole image set in float64 would take eight times its memory."""

SAID_OF_SAMPLES = ("owner", "held_out", "validation")
"""What a data set may say of each sample besides its label."""


class Cells(Protocol):
    """What stands in tables' cells, where what their columns become follows from clients' training rows."""

    def part(self, rows: NDArray[np.int64] | slice) -> Cells | None:
        """Those of some of the samples."""

    def by(
        self, training: Sequence[NDArray[np.int64]], others: Sequence[NDArray[np.int64]]
    ) -> tuple[Samples, Columns | None]:
        """The samples, and what the columns have become, as clients' own counts and sums decide it.

        Args:
            training: each client's training rows, as places of samples.
            others: further rows that each holds.

        Raises:
            ConfigError: a column has no value in any training row.
        """


@dataclass(frozen=True)
class DomainRows:
    """One of several domains, whose samples stand together in a data set.

    Attributes:
        name: the domain's.
        start, stop: its samples are ``x[start:stop]``.
        official_test: the first of its own test set, which stands at its end; None where it has none.
        trained: whether clients have it; on one that is held out models are only scored.
        clients: how many have it; None where the samples say whose they are.
        samples: only so many of them are divided, or scored on, drawn at random; None for all.
        alike: whether the same random numbers divide it as other domains, else numbers of its own.
        says: which of :data:`SAID_OF_SAMPLES` its data say; where other domains' data alone do, the whole has fillers.
    """

    name: str
    start: int
    stop: int
    official_test: int | None = None
    trained: bool = True
    clients: int | None = None
    samples: int | None = None
    alike: bool = False
    says: tuple[str, ...] = ()

    def seed(self, seed: int) -> int:
        """Of the random numbers that divide it: the run's, or one of its own that follows from its name."""
        return seed if self.alike else derived_seed(seed, "domain", self.name)


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
        whole_numbers: whether ``x`` was of whole numbers, no bytes, before it became float32, as token ids are.
        notes: sentences on what may not be meant as it was read, for the user who starts a run.
        validation: ``[n]`` bool, which samples are validation data of their own owner, where the data say so, else
            None.
        outcomes: what is predicted of the samples, where that is not ``y``; ``y`` are then groups of samples alike, by
            which partitions divide.
        domains: the domains that the samples are of, one after another; none where they are of one. Then each of
            these has its own official test set and owners from 0, and ``official_test`` is None.
        columns: of a table, what its columns have become; None of what is none.
        rows: where the samples stand in the files that they are from, where these need not have them in this order.
        cells: of tables, what stands in their cells, where what columns become follows from which rows are for
            training; ``x`` is as if these were all that the data do not set aside themselves.
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
    whole_numbers: bool = False
    notes: tuple[str, ...] = ()
    validation: NDArray[np.bool_] | None = None
    outcomes: Outcomes | None = None
    domains: tuple[DomainRows, ...] = ()
    columns: Columns | None = None
    rows: FileRows | None = None
    cells: Cells | None = None

    def __post_init__(self) -> None:
        n = len(self.x)
        if self.x.dtype not in (np.uint8, np.float32):
            raise ConfigError(f"a data set's x must be uint8 or float32, not {self.x.dtype}")
        if self.y.dtype != np.int64 or self.y.shape != (n,):
            raise ConfigError(f"a data set's y must be int64 of shape [{n}], not {self.y.dtype} {list(self.y.shape)}")
        if self.outcomes is not None and len(self.outcomes) != n:
            raise ConfigError(f"a data set's outcomes must be {n}, not {len(self.outcomes)}")
        if n and not (self.y.min() >= 0 and self.y.max() < self.classes):
            raise ConfigError(f"labels go from {self.y.min()} to {self.y.max()}, but classes = {self.classes}")
        for field, array in (("owner", self.owner), ("held_out", self.held_out), ("validation", self.validation)):
            if array is not None and array.shape != (n,):
                raise ConfigError(f"a data set's {field} must have shape [{n}], not {list(array.shape)}")
        if self.held_out is not None and self.validation is not None and (self.held_out & self.validation).any():
            raise ConfigError("a data set's held_out and validation must not have a sample in common")
        if self.owner is not None and (self.owner.dtype.kind != "i" or self.owner.min(initial=0) < -1):
            raise ConfigError(
                f"a data set's owner must be 0, 1, 2, ..., or -1 for nobody, as int64, not {self.owner.dtype} from "
                f"{self.owner.min()}"
            )

    @classmethod
    def of_outcomes(
        cls,
        x: Samples,
        task: LearningTask,
        parts: Sequence[Outcomes],
        mean: NDArray[np.float32],
        std: NDArray[np.float32],
        **others: Any,
    ) -> Dataset:
        """Samples without labels, in whose place the task's groups of samples alike stand.

        Args:
            x: as of the data set.
            task: what is predicted.
            parts: the outcomes of the samples, one part after another.
            mean: as of the data set.
            std: likewise.
            others: the data set's further fields.

        Raises:
            ConfigError: the parts' outcomes are not alike.
        """
        outcomes = joined(parts)
        strata = task.strata(outcomes)
        return cls(*(x, strata.y, strata.classes, mean, std), label_names=strata.names, outcomes=outcomes, **others)

    def training_rows(self) -> NDArray[np.int64]:
        """The samples that models may be trained on: no official test set, nothing that is held out."""
        if self.domains:
            ends = [(part.start, part.stop if (own := part.official_test) is None else own) for part in self.domains]
            each = [np.arange(*end) for part, end in zip(self.domains, ends) if part.trained]
            rows = np.concatenate([np.arange(0), *each])
        else:
            rows = np.arange(len(self.y) if self.official_test is None else self.official_test)
        return self.not_set_aside(rows)

    def not_set_aside(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of some samples that the data say to be neither test nor validation data of their owner."""
        for others in (self.held_out, self.validation):
            rows = rows if others is None else rows[~others[rows]]
        return rows

    def part(self, rows: NDArray[np.int64] | slice, official_test: int | None) -> Dataset:
        """Some of the samples, with mean and standard deviation as they are.

        Args:
            rows: which.
            official_test: the first of them that is of the official test set.
        """
        return replace(
            self,
            x=self.x[rows],
            y=self.y[rows],
            owner=None if self.owner is None else self.owner[rows],
            official_test=official_test,
            held_out=None if self.held_out is None else self.held_out[rows],
            validation=None if self.validation is None else self.validation[rows],
            outcomes=None if self.outcomes is None else self.outcomes.take(rows),
            domains=(),
            rows=None if self.rows is None else self.rows.part(rows),
            cells=None if self.cells is None else self.cells.part(rows),
        )


def channel_statistics(
    x: Samples, rows: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation along a sample's first axis, in ``Dataset``'s units, broadcastable to a sample.

    They are over ``rows``, or over all samples.

    The first axis is an image's channel, a series' sensor, a vector's feature. A constant one gets the
    standard deviation 1; constant is also what varies only by how it was rounded, see :func:`moments_of`.
    """
    rows = np.arange(len(x)) if rows is None else rows
    return in_units(*moments(x, rows, (0, *range(2, x.ndim))), x.dtype)


def pixel_statistics(x: Samples, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of every single number of a sample over ``rows``, in stored units."""
    return moments(x, rows, (0,))


def moments(
    x: Samples, rows: NDArray[np.int64], axes: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation over ``rows`` and ``axes``, which are kept with length 1 save the first."""
    return moments_of(*sums(x, rows, axes), x.dtype)


def sums(x: Samples, rows: NDArray[np.int64], axes: tuple[int, ...]) -> Sums:
    """How many numbers ``rows`` have along ``axes``, their sum, and a sum of squares, shaped as :func:`moments` says.

    Of bytes it is the sum of their squares: both sums are whole numbers below 2**53, so they are the same in whichever
    order they are added. Of other numbers it is the sum of squared differences from their mean, as the sum of squares
    of large numbers that differ little, such as times, has no digit left that says by how much they differ.
    """
    shape = [1 if axis in axes else length for axis, length in enumerate(x.shape)]
    count = len(rows) * int(np.prod([x.shape[axis] for axis in axes[1:]]))
    total, square = np.zeros(shape), np.zeros(shape)
    if not count:
        return count, total[0], square[0]
    exact = x.dtype == np.uint8
    # One of the numbers is at most sqrt(count) standard deviations from their mean, and differences from it are exactly
    # 0 where all are equal.
    near = 0.0 if exact else x[rows[:1]][tuple(slice(length) for length in shape)].astype(np.float64)
    for chunk in chunks(rows):
        values = x[chunk].astype(np.float64)
        if not exact:
            values -= near
        total = total + values.sum(axis=axes, keepdims=True)
        square = square + np.square(values, out=values).sum(axis=axes, keepdims=True)
    if not exact:
        square = np.maximum(square - total**2 / count, 0)
        total = near * count + total
    return count, total[0], square[0]


def chunks(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """``rows`` in pieces of :data:`CHUNK`."""
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK]
