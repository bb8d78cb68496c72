"""A .csv file as it stands: a word in every cell, whatever it means."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.data.own.table import NONE, check_header, rows_of

Cells = NDArray[np.str_]

MISSING_WORDS = frozenset({"", "?", "na", "n/a", "nan", "null", "none", "<na>", "nat", "."})
"""What people write for a value that is not known, in lower case."""

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
    """

    path: Path
    cells: dict[str, Cells]
    label: Cells
    lines: NDArray[np.int64]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.label)

    def rows(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> CellTable:
        """Some of its rows."""
        cells = {name: column[chosen] for name, column in self.cells.items()}
        return replace(self, cells=cells, label=self.label[chosen], lines=self.lines[chosen])


def read_cells(path: Path, label: str) -> CellTable:
    """Read a .csv file whose column ``label`` is the class; separators and encodings as for ``read_rows``.

    Raises:
        ConfigError: it is no such file, has no such column, or a row without a label.
    """
    with rows_of(path, label) as (rows, notes):
        _, header = next(rows, (1, []))
        names = [name.strip() for name in header]
        check_header(path, names, label, labelled=True)
        if len(names) == 1:
            raise ConfigError(f"{path} has no column besides {label!r}; a sample needs one or more")
        lines, read = list[int](), list[list[str]]()
        for line, row in rows:
            if len(row) != len(names):
                raise ConfigError(f"{path}: line {line} has {len(row)} cells, but the header {len(names)}")
            lines.append(line)
            read.append([cell.strip() for cell in row])
    if not read:
        raise ConfigError(f"{path} has no row besides its header; leave out what holds no sample")
    cells = {name: np.array(column) for name, column in zip(names, zip(*read))}
    words = cells.pop(label)
    for line, word in zip(lines, words):
        if word.lower() in NO_LABEL:
            raise ConfigError(f"{path}: line {line}, column {label!r}: the cell is {str(word) or 'empty'!r}")
    words = np.array(["-1" if NONE.fullmatch(word) else str(word) for word in words])
    return CellTable(path, cells, words, np.array(lines), notes)


def is_missing(column: Cells) -> NDArray[np.bool_]:
    """Which of a column's cells hold no value ``[n]``."""
    return np.isin(np.char.lower(column), list(MISSING_WORDS))
