"""The columns of all participants' .csv files as numbers, decided once for all of them.

What fills a gap, which words a column has and which columns get indicators follows from the participants' own counts
and sums over their training rows, so that a column means the same at each; nobody's row is looked at by another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError, nearest
from fedtl.data.own.cells import BOOLEAN, Cells, CellTable, is_missing
from fedtl.data.own.lines import difference, number

Missing = Literal["error", "drop", "mean", "median"]


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
            raise ConfigError(f"{table.path}: {difference(list(table.cells), names)} in {tables[0].path}")
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
        kept.append(replace(one, cells={name: one.cells[name] for name in used}))
    return kept, tuple(notes)


def as_numbers(tables: Sequence[CellTable], training: Sequence[bool], rules: ColumnRules) -> list[NDArray[np.float64]]:
    """The tables' rows as numbers ``[n, numbers]``, each number meaning the same in all of them.

    Args:
        tables: all participants', with the same columns.
        training: which of them are of training rows, and so decide what a column becomes.
        rules: how cells become numbers.

    Raises:
        ConfigError: a column holds words and is not said to, or has no value in training rows.
    """
    by_column = [_numbers_of(name, tables, training, rules) for name in tables[0].cells]
    return [np.concatenate(blocks, axis=1) for blocks in zip(*by_column)]


def _numbers_of(
    name: str, tables: Sequence[CellTable], training: Sequence[bool], rules: ColumnRules
) -> list[NDArray[np.float64]]:
    """A column's numbers in each table ``[n, 1]``, or more where it becomes several."""
    cells = [table.cells[name] for table in tables]
    gaps = [is_missing(column) for column in cells]
    decisive = [each for each, decides in enumerate(training) if decides]
    if all(gaps[each].all() for each in decisive):
        raise ConfigError(f"the column {name!r} has no value in any training row; name it in data.leave_out")
    if name in rules.categorical:
        blocks = _one_hot(cells, gaps, decisive)
    else:
        values = _parsed(name, tables, gaps)
        filler = _filler([values[each][~gaps[each]] for each in decisive], rules.missing)
        blocks = [np.where(gap, filler, own)[:, None] for own, gap in zip(values, gaps)]
    if rules.indicators and any(gaps[each].any() for each in decisive):
        blocks = [np.column_stack([block, gap]) for block, gap in zip(blocks, gaps)]
    return blocks


def _one_hot(
    cells: Sequence[Cells], gaps: Sequence[NDArray[np.bool_]], decisive: Sequence[int]
) -> list[NDArray[np.float64]]:
    """A number for each word of the training rows; a gap is the most frequent one, of equals the first."""
    words, counts = np.unique(np.concatenate([cells[each][~gaps[each]] for each in decisive]), return_counts=True)
    most = words[np.argmax(counts)]
    return [(np.where(gap, most, column)[:, None] == words).astype(np.float64) for column, gap in zip(cells, gaps)]


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


def _parsed(name: str, tables: Sequence[CellTable], gaps: Sequence[NDArray[np.bool_]]) -> list[NDArray[np.float64]]:
    """A column's numbers in each table ``[n]``, NaN in gaps."""
    lower = [np.char.lower(table.cells[name]) for table in tables]
    boolean = all(np.isin(column[~gap], list(BOOLEAN)).all() for column, gap in zip(lower, gaps))
    parsed = []
    for table, column, gap in zip(tables, lower, gaps):
        values = np.full(len(table), np.nan)
        for row in np.flatnonzero(~gap):
            values[row] = BOOLEAN[column[row]] if boolean else _number(table, name, int(row))
        parsed.append(values)
    return parsed


def _number(table: CellTable, name: str, row: int) -> float:
    cell, line = str(table.cells[name][row]), int(table.lines[row])
    try:
        float(cell)
    except ValueError:
        if any(map(str.isalpha, cell)):
            raise ConfigError(
                f"{table.path}: line {line}, column {name!r}: {cell!r} is no number; name a column of words in "
                "data.categorical, or one that is not to be used in data.leave_out"
            ) from None
    return number(table.path, line, name, cell)
