"""Tables of which a division says only later which rows are for training, and so what their columns become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedtl.data.arrays import samples
from fedtl.data.columns import Columns, check_same_columns
from fedtl.data.dataset import Dataset, Samples, channel_statistics
from fedtl.data.federation import Shards
from fedtl.data.own.cells import CellTable
from fedtl.data.own.columns import ColumnRules, as_decided, decided, summary

Each = Sequence[NDArray[np.int64]]
"""Of each client, places of samples."""


@dataclass(frozen=True)
class TableRows:
    """The cells of a data set's samples, where what columns become follows from training rows.

    Attributes:
        tables: the rows as their files have them, tables one after another.
        rules: how cells become numbers.
        rows: which of these rows each sample is, ``[n]``.
    """

    tables: tuple[CellTable, ...]
    rules: ColumnRules
    rows: NDArray[np.int64]

    def part(self, rows: NDArray[np.int64] | slice) -> TableRows:
        """Those of some of the samples."""
        return replace(self, rows=self.rows[rows])

    def by(self, training: Each, others: Each) -> tuple[Samples, Columns]:
        """See :class:`~fedtl.data.dataset.Cells`."""
        said = []
        for own, rest in zip(training, others, strict=True):
            pieces = [(table, kind) for kind, rows in ((True, own), (False, rest)) for table in self._of(rows)]
            if pieces:
                kinds = [kind for _, kind in pieces]
                said.append((str(pieces[0][0].path), summary([table for table, _ in pieces], kinds, self.rules)))
        columns = decided(said, self.rules)
        each = [samples(str(table.path), as_decided(table, columns)) for table in self.tables]
        return np.concatenate(each)[self.rows], columns  # type: ignore[return-value]

    def _of(self, rows: NDArray[np.int64]) -> list[CellTable]:
        """Some of the samples, table by table."""
        wanted = np.sort(self.rows[rows])  # in the files' order, which decides a sum's last bits
        starts = np.cumsum([0, *map(len, self.tables)])
        ends = np.searchsorted(wanted, starts)
        places = [(int(place), wanted[ends[place] : ends[place + 1]]) for place in range(len(self.tables))]
        return [self.tables[place].rows(own - starts[place]) for place, own in places if len(own)]


@dataclass(frozen=True)
class CellsOfDomains:
    """The cells of several domains, each of which decides what its columns become.

    Attributes:
        names: the domains'.
        each: their samples, one domain after another; those without cells stay as they are.
    """

    names: tuple[str, ...]
    each: tuple[Dataset, ...]

    def part(self, rows: NDArray[np.int64] | slice) -> None:
        """None: a domain is decided with the others."""

    def by(self, training: Each, others: Each) -> tuple[Samples, Columns | None]:
        """See :class:`~fedtl.data.dataset.Cells`.

        Raises:
            ConfigError: a column has other words in another domain.
        """
        x, columns, start = list[Samples](), list[Columns | None](), 0
        for dataset in self.each:
            stop = start + len(dataset.y)
            own = [[rows[(rows >= start) & (rows < stop)] - start for rows in kind] for kind in (training, others)]
            there = dataset.cells is not None and any(map(len, own[0]))  # else no client has it
            new = dataset.cells.by(*own) if there and dataset.cells is not None else (dataset.x, dataset.columns)
            x.append(new[0])
            columns.append(new[1])
            start = stop
        for name, other in zip(self.names[1:], columns[1:]):
            check_same_columns(f"data.domains.{name}", other, f"data.domains.{self.names[0]}", columns[0])
        alike = all(other == columns[0] for other in columns)  # and else, as where they are read, no model knows them
        return np.concatenate(x), columns[0] if alike else None  # type: ignore[return-value]


def redecided(dataset: Dataset, training: Shards, others: Sequence[Shards]) -> Dataset:
    """The same, of whose tables the training rows decide what columns become, where they are others than was thought.

    Mean and standard deviation are over the samples that they were over, as of every data set.

    Args:
        dataset: which thought that all but what it sets aside itself is for training.
        training: each client's training rows.
        others: further rows that each client holds, of several kinds.

    Raises:
        ConfigError: a column has no value in any training row.
    """
    if dataset.cells is None:
        return dataset
    if np.array_equal(np.unique(training.order), dataset.training_rows()):
        return dataset
    clients = range(len(training))
    rest = [np.concatenate([np.arange(0), *(each[client] for each in others)]) for client in clients]
    x, columns = dataset.cells.by([training[client] for client in clients], rest)
    mean, std = channel_statistics(x, dataset.training_rows())
    return replace(dataset, x=x, columns=columns, mean=mean, std=std)
