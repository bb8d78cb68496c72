"""A table's file as it stands: a word in every cell, whatever it means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError, nearest
from fedtl.data.own.lines import checked_rows, number, rows_of

Cells = NDArray[np.str_]

BOOLEAN = {"no": 0.0, "yes": 1.0, "false": 0.0, "true": 1.0, "n": 0.0, "y": 1.0, "f": 0.0, "t": 1.0}
"""Words, in lower case, that are numbers where a column has no others."""

MISSING_WORDS = frozenset({"", "?", "na", "n/a", "nan", "null", "none", "<na>", "nat", "."})
"""What people write for a value that is not known, in lower case."""

_WHOLE = re.compile(r"^([+-]?[0-9]+)\.0+$")

NO_LABEL = MISSING_WORDS - {"none", "."}
"""Likewise for a label: "none" may well be one."""


@dataclass(frozen=True)
class CellTable:
    """A file's rows.

    Attributes:
        path: where it is.
        cells: by column ``[n]``, without the label's.
        label: the words of the label's column ``[n]``; "-1" where a row has none.
        lines: the line of each row in the file ``[n]``.
        notes: how the file was read, where that is not as it usually is.
        outcomes: what is predicted, where that is no label, ``[n, m]``; ``label`` is then empty words.
    """

    path: Path
    cells: dict[str, Cells]
    label: Cells
    lines: NDArray[np.int64]
    notes: tuple[str, ...] = ()
    outcomes: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.label)

    def rows(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> CellTable:
        """Some of its rows."""
        cells = {name: column[chosen] for name, column in self.cells.items()}
        outcomes = None if self.outcomes is None else self.outcomes[chosen]
        return replace(self, cells=cells, label=self.label[chosen], lines=self.lines[chosen], outcomes=outcomes)

    def with_outcomes(self, first: str, others: Sequence[str]) -> CellTable:
        """The same, of which numbers are predicted, or yes and no: those of the label's column and of others.

        Args:
            first: the label's column.
            others: further columns, which are then no longer among those to learn from.

        Raises:
            ConfigError: there is no such column, or a cell is no number.
        """
        cells, columns = dict(self.cells), [self.label]
        for name in others:
            if name not in cells:
                raise ConfigError(f"{self.path} has no column {name!r}: {nearest(name, [first, *cells])}")
            columns.append(cells.pop(name))
        if not cells:
            raise ConfigError(f"{self.path} has no column besides those that are predicted")
        by_column = [_values(self.path, self.lines, name, column) for name, column in zip([first, *others], columns)]
        nothing = np.full(len(self.label), "")
        return replace(self, cells=cells, label=nothing, outcomes=np.array(by_column, np.float64).T)


def read_cells(path: Path, label: str, header: Sequence[str] = (), labelled: bool = True) -> CellTable:
    """Read a table whose column ``label`` is the class; separators and encodings as for ``read_rows``.

    Args:
        path: the file.
        label: the column with the class.
        header: the columns' names where the file's first line does not name them.
        labelled: whether it must have that column; else its words count for nothing.

    Raises:
        ConfigError: it is no such file, has no such column, or a row without a label.
    """
    with rows_of(path, label) as (rows, notes):
        columns, read = checked_rows(path, rows, label, labelled, header)
        lines, words, cells = zip(*((line, word or "", [cell.strip() for cell in row]) for line, word, row in read))
    for line, word in zip(lines, words) if labelled else ():
        if word.lower() in NO_LABEL:
            raise ConfigError(f"{path}: line {line}, column {label!r}: the cell is {word!r}")
    by_column = {name: np.array(column) for name, column in zip(columns, zip(*cells))}
    return CellTable(path, by_column, np.array(words), np.array(lines), notes)


def _values(path: Path, lines: NDArray[np.int64], name: str, column: Cells) -> list[float]:
    words = np.char.lower(column)
    if np.isin(words, list(BOOLEAN)).all():
        return [BOOLEAN[word] for word in words]
    return [number(path, int(line), name, str(cell)) for line, cell in zip(lines, column)]


def as_words(column: Cells) -> Cells:
    """A column's words ``[n]``, of which "1.0" and "1" are one.

    A column of codes is one of decimals, "1.0", where pandas has read it with a gap, and of whole numbers elsewhere.
    """
    words, place = np.unique(column, return_inverse=True)
    return np.array([_WHOLE.sub(r"\1", word) for word in words], np.str_)[place] if len(words) else column


def one_word_each(column: Cells) -> Cells:
    """A column's words ``[n]``, as :func:`as_words` where that makes one of several, else as they stand."""
    codes = as_words(column)
    return codes if len(np.unique(codes)) < len(np.unique(column)) else column


def is_missing(column: Cells) -> NDArray[np.bool_]:
    """Which of a column's cells hold no value ``[n]``."""
    return np.isin(np.char.lower(column), list(MISSING_WORDS))
