"""The columns of all participants' .csv files as numbers, decided once for all of them.

What fills a gap, which words a column has and which columns get indicators follows from the participants' own counts
and sums over their training rows, so that a column means the same at each; nobody's row is looked at by another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError, nearest
from fedtl.data.own.cells import Cells, CellTable, is_missing
from fedtl.data.own.table import number

Missing = Literal["error", "drop", "mean", "median"]

BOOLEAN = {"no": 0.0, "yes": 1.0, "false": 0.0, "true": 1.0, "n": 0.0, "y": 1.0, "f": 0.0, "t": 1.0}
"""Words, in lower case, that are numbers where a column has no others."""


@dataclass(frozen=True)
class ColumnRules:
    """How cells become numbers.

    Attributes:
        missing: what becomes of a cell without a value: an "error"; its row is "drop"ped; or it gets the column's
            "mean", or "median", and in a column of words the most frequent one.
        indicators: whether each column with gaps gets another one that says where they were.
        categorical: columns of words, which become a number for each word: 1 where it stands, else 0.
        leave_out: columns that are not used.
    """

    missing: Missing = "error"
    indicators: bool = False
    categorical: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """What a column of the files becomes.

    Attributes:
        name: the column's.
        words: those that it may hold; None of a column of numbers, or of yes and no.
        filler: what a gap gets: a number, or the place of a word; NaN where there is nothing to fill.
        indicator: whether a further number says where its gaps are.
    """

    name: str
    words: tuple[str, ...] | None
    filler: float
    indicator: bool

    def encode(self, table: CellTable) -> NDArray[np.float64]:
        """The column's numbers ``[n, numbers]``.

        Raises:
            ConfigError: a cell is no number.
        """
        cells = table.cells[self.name]
        gaps = is_missing(cells)
        if self.words is None:
            values = _numbers(table, self.name, gaps)
            values[gaps] = self.filler
            parts = [values[:, None]]
        else:
            place = {word: k for k, word in enumerate(self.words)}
            places = np.array([place.get(str(cell), -1) for cell in cells])
            places[gaps] = -1 if np.isnan(self.filler) else int(self.filler)
            parts = [(places[:, None] == np.arange(len(self.words))).astype(np.float64)]
        if self.indicator:
            parts.append(gaps[:, None].astype(np.float64))
        return np.concatenate(parts, axis=1)


def without_gaps(tables: Sequence[CellTable], rules: ColumnRules) -> tuple[list[CellTable], tuple[str, ...]]:
    """Tables without the columns that are left out and, where that is asked for, without rows that have gaps.

    Returns:
        The tables, and a sentence for each of which rows are gone.

    Raises:
        ConfigError: their columns differ, a name is none of theirs, a cell has no value where that is an error, or no
            row of a table is left.
    """
    names = list(tables[0].cells)
    for table in tables[1:]:
        if list(table.cells) != names:
            differing = sorted(set(table.cells) ^ set(names))
            what = f"the column {differing[0]!r} is only in one of them" if differing else "in another order"
            raise ConfigError(f"{table.path} and {tables[0].path} do not have the same columns: {what}")
    for key, listed in (("categorical", rules.categorical), ("leave_out", rules.leave_out)):
        for name in listed:
            if name not in names:
                raise ConfigError(f"data.{key} = {name!r}: {tables[0].path} has no such column: {nearest(name, names)}")
    used = [name for name in names if name not in rules.leave_out]
    if not used:
        raise ConfigError("data.leave_out leaves no column to learn from")
    kept, notes = list[CellTable](), list[str]()
    for table in tables:
        gaps = np.array([is_missing(table.cells[name]) for name in used])
        if rules.missing == "error" and gaps.any():
            column, row = (int(each[0]) for each in np.nonzero(gaps))
            raise ConfigError(
                f"{table.path}: line {table.lines[row]}, column {used[column]!r}: the cell holds no value; say what to "
                "do with data.missing = 'drop', 'mean' or 'median'"
            )
        whole = np.ones(len(table), np.bool_) if rules.missing != "drop" else np.logical_not(gaps.any(axis=0))
        if not whole.any():
            raise ConfigError(f"{table.path}: every row has a gap, so that data.missing = 'drop' leaves none")
        if not whole.all():
            notes.append(f"{table.path}: {(~whole).sum()} of {len(table)} rows have gaps, and are left out")
        one = table.rows(whole)
        kept.append(CellTable(one.path, {name: one.cells[name] for name in used}, one.label, one.lines, one.notes))
    return kept, tuple(notes)


def decide(training: Sequence[CellTable], rules: ColumnRules) -> list[Column]:
    """What each column becomes, out of all participants' training rows.

    Raises:
        ConfigError: a column holds words and is not said to, or has no value at all.
    """
    return [_decide(name, training, rules) for name in training[0].cells]


def _decide(name: str, training: Sequence[CellTable], rules: ColumnRules) -> Column:
    gaps = [is_missing(table.cells[name]) for table in training]
    any_gap = any(each.any() for each in gaps)
    if all(each.all() for each in gaps):
        raise ConfigError(f"the column {name!r} has no value in any training row; name it in data.leave_out")
    indicator = rules.indicators and any_gap
    if name in rules.categorical:
        counts: Counter[str] = Counter()
        for table, gap in zip(training, gaps):
            counts.update(map(str, table.cells[name][~gap]))
        words = tuple(sorted(counts))
        most = min(words, key=lambda word: (-counts[word], word))
        return Column(name, words, float(words.index(most)) if any_gap else np.nan, indicator)
    values = [_numbers(table, name, gap)[~gap] for table, gap in zip(training, gaps)]
    return Column(name, None, _filler(values, rules.missing), indicator)


def _filler(values: Sequence[NDArray[np.float64]], missing: Missing) -> float:
    """What fills a gap, out of what each participant has ``[n]``."""
    some = [each for each in values if len(each)]
    sizes = np.array([len(each) for each in some])
    if missing == "mean":
        return float(sum(each.sum() for each in some) / sizes.sum())
    if missing == "median":  # of the participants' own medians, each as often as it has values
        medians = np.array([np.median(each) for each in some])
        order = np.argsort(medians, kind="stable")
        place = np.searchsorted(np.cumsum(sizes[order]), sizes.sum() / 2)
        return float(medians[order][place])
    return float("nan")


def _numbers(table: CellTable, name: str, gaps: NDArray[np.bool_]) -> NDArray[np.float64]:
    """A column's numbers, NaN in gaps."""
    cells: Cells = table.cells[name]
    values = np.full(len(cells), np.nan)
    for row in np.flatnonzero(~gaps):
        cell, line = str(cells[row]), int(table.lines[row])
        if cell.lower() in BOOLEAN:
            values[row] = BOOLEAN[cell.lower()]
        elif any(map(str.isalpha, cell)) and not _is_float(cell):
            raise ConfigError(
                f"{table.path}: line {line}, column {name!r}: {cell!r} is no number; name a column of words in "
                "data.categorical, or one that is not to be used in data.leave_out"
            )
        else:
            values[row] = number(table.path, line, name, cell)
    return values


def _is_float(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
