"""The columns of all participants' tables as numbers, decided once for all of them.

What fills a gap, which words a column has and which columns get indicators follows from the participants' own counts
and sums over their training rows, so that a column means the same at each; nobody's row is looked at by another. A
simulation and a deployment decide by the same code: :func:`summary` is what a participant says, :func:`decided` what
follows for all of them, and :func:`as_decided` what each makes of its rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError, nearest
from fedtl.data.columns import Column, Columns, kind_and_other
from fedtl.data.own.cells import BOOLEAN, Cells, CellTable, as_words, is_missing
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

    @property
    def fills(self) -> bool:
        """Whether gaps are filled."""
        return self.missing in ("mean", "median")

    @property
    def together(self) -> bool:
        """Whether what a column becomes follows from all participants' rows."""
        return self.fills or bool(self.categorical)


Kind = Literal["nothing", "numbers", "yes or no", "words"]
"""What the cells of a column hold at one participant."""


@dataclass(frozen=True)
class ColumnSummary:
    """What one participant says of one of its columns, over its training rows.

    Attributes:
        kind: what all its cells hold, those of other rows too.
        values: how many cells have a value.
        gaps: whether some have none.
        middle: of numbers, where gaps are filled, what fills them follows from: the sum for a mean, else the median.
        words: of words how often each stands there.
        withheld: whether ``values`` is 0 because they are so few that this would tell of single rows.
    """

    kind: Kind
    values: int = 0
    gaps: bool = False
    middle: float = 0.0
    words: Mapping[str, int] = field(default_factory=dict)
    withheld: bool = False


Summaries = Mapping[str, ColumnSummary]
"""By the column's name, in the table's order."""


def without_gaps(tables: Sequence[CellTable], rules: ColumnRules) -> tuple[list[CellTable], tuple[str, ...]]:
    """Tables without the columns that are left out and, where that is asked for, without rows that have gaps.

    Columns are known by their names: all tables' stand in the first one's order afterwards.

    Returns:
        The tables, and a sentence for each of which rows are gone, or whose columns stood in another order.

    Raises:
        ConfigError: their columns differ, a name is none of theirs, a cell has no value where that is an error, or no
            row of a table is left.
    """
    names = list(tables[0].cells)
    for table in tables[1:]:
        if {*table.cells} != {*names}:
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
        if list(table.cells) != names:
            notes.append(f"{table.path}: its columns are put in the order of {tables[0].path}")
        one = table.rows(whole)
        kept.append(replace(one, cells={name: one.cells[name] for name in used}))
    return kept, tuple(notes)


def as_numbers(tables: Sequence[CellTable], training: Sequence[bool], rules: ColumnRules) -> Numbers:
    """The tables' rows as numbers, each number meaning the same in all of them.

    Args:
        tables: all participants', with the same columns.
        training: which of them are of training rows, and so decide what a column becomes.
        rules: how cells become numbers.

    Raises:
        ConfigError: a column holds words and is not said to, or has no value in training rows.
    """
    each = [(str(table.path), summary([table], [decides], rules)) for table, decides in zip(tables, training)]
    columns = decided(each, rules)
    return Numbers(columns, [as_decided(table, columns) for table in tables])


@dataclass(frozen=True)
class Numbers:
    """Tables as numbers.

    Attributes:
        columns: what each column has become.
        each: the tables' rows ``[n, columns.width]``.
    """

    columns: Columns
    each: list[NDArray[np.float64]]


def summary(tables: Sequence[CellTable], training: Sequence[bool], rules: ColumnRules) -> Summaries:
    """What a participant says of its columns.

    Args:
        tables: its, with the same columns.
        training: which of them are of training rows.
        rules: how cells become numbers.

    Raises:
        ConfigError: a column holds words and is not said to.
    """
    return {name: _summary_of(name, tables, training, rules) for name in tables[0].cells}


def _summary_of(name: str, tables: Sequence[CellTable], training: Sequence[bool], rules: ColumnRules) -> ColumnSummary:
    cells = [table.cells[name] for table in tables]
    gaps = [is_missing(column) for column in cells]
    decisive = [each for each, decides in enumerate(training) if decides]
    count = sum(int((~gaps[each]).sum()) for each in decisive)
    missing = any(bool(gaps[each].any()) for each in decisive)
    if all(gap.all() for gap in gaps):
        return ColumnSummary("nothing", gaps=missing)
    if name in rules.categorical:
        some = np.concatenate([np.empty(0, np.str_), *(cells[each][~gaps[each]] for each in decisive)])
        words, counts = np.unique(as_words(some), return_counts=True)
        return ColumnSummary("words", count, missing, words=dict(zip(words.tolist(), counts.tolist())))
    boolean = all(_is_boolean(column, gap) for column, gap in zip(cells, gaps))
    parsed = [_parsed(table, name, gap, boolean) for table, gap in zip(tables, gaps)]
    values = np.concatenate([np.empty(0), *(parsed[each][~gaps[each]] for each in decisive)])
    return ColumnSummary("yes or no" if boolean else "numbers", count, missing, _middle(values, rules.missing))


def told(summaries: Summaries, rules: ColumnRules, least: int) -> dict[str, ColumnSummary]:
    """What of its summaries a participant tells others: no more than decides what columns become.

    Of a column with fewer than ``least`` values it tells none, as these would be of single rows.
    """
    each = dict[str, ColumnSummary]()
    for name, one in summaries.items():
        if 0 < one.values < least:
            each[name] = replace(one, values=0, middle=0.0, words={}, withheld=True)
        elif rules.fills or not one.values:
            each[name] = one
        else:  # where nothing is filled, only which words there are
            each[name] = replace(one, values=len(one.words) or 1, words=dict.fromkeys(one.words, 1))
    return each


def few(summaries: Summaries) -> list[str]:
    """The names of columns of which a participant tells no value, as it has so few."""
    return [name for name, one in summaries.items() if one.withheld]


def _middle(values: NDArray[np.float64], missing: Missing) -> float:
    """What a participant says of its values ``[n]``, out of which :func:`_filler` makes what fills gaps."""
    if missing == "mean":
        return float(values.sum())
    return float(np.median(values)) if missing == "median" and len(values) else 0.0


def decided(each: Sequence[tuple[str, Summaries]], rules: ColumnRules) -> Columns:
    """What the columns become, by what all participants say of them.

    Args:
        each: of every participant how it is called and what it says, in their order: it decides the last bits.
        rules: how cells become numbers.

    Raises:
        ConfigError: their columns differ, hold numbers here and words there, or one has no value in any training row.
    """
    (first, like), *others = each
    for where, other in others:
        if list(other) != list(like):
            raise ConfigError(f"{where}: {difference(list(other), list(like))} in {first}")
    return Columns(tuple(_decided(name, [(where, own[name]) for where, own in each], rules) for name in like))


def _decided(name: str, each: Sequence[tuple[str, ColumnSummary]], rules: ColumnRules) -> Column:
    some = [one for _, one in each if one.values]
    if not some:
        raise ConfigError(f"the column {name!r} has no value in any training row; name it in data.leave_out")
    indicator = rules.indicators and any(one.gaps for _, one in each)
    if name in rules.categorical:
        counts: dict[str, int] = {}
        for one in some:
            for word, count in one.words.items():
                counts[word] = counts.get(word, 0) + count
        words = tuple(sorted(counts))
        most = max(words, key=counts.__getitem__) if rules.fills else None  # of equals the first
        return Column(name, words, most, indicator)
    kinds = {one.kind: where for where, one in each if one.kind != "nothing"}
    if len(kinds) > 1:
        (kind, where), (another, there) = [*kinds.items()][:2]
        raise ConfigError(
            f"the column {name!r} holds {kind} in {where} and {another} in {there}; write it alike, name it in "
            "data.categorical if it is one of words, or in data.leave_out"
        )
    return Column(name, fill=_filler(some, rules.missing), indicator=indicator, boolean="yes or no" in kinds)


def _filler(some: Sequence[ColumnSummary], missing: Missing) -> float | None:
    """What fills a gap, out of what participants say who have values."""
    sizes = np.array([one.values for one in some])
    if missing == "mean":
        return float(sum(one.middle for one in some) / sizes.sum())
    if missing == "median":  # of the participants' own medians, each as often as it has values
        medians = np.array([one.middle for one in some])
        order = np.argsort(medians, kind="stable")
        place = np.searchsorted(np.cumsum(sizes[order]), sizes.sum() / 2)
        return float(medians[order][place])
    return None


def as_decided(table: CellTable, columns: Columns) -> NDArray[np.float64]:
    """A table's rows as numbers ``[n, columns.width]``, whatever further columns it has.

    Raises:
        ConfigError: a column is not there, a cell is no number, or yes and no where all others are numbers, or it has
            no value and nothing fills it.
    """
    blocks = []
    for column in columns.each:
        if column.name not in table.cells:
            raise ConfigError(f"{table.path} has no column {column.name!r}: {nearest(column.name, table.cells)}")
        cells = table.cells[column.name]
        gaps = is_missing(cells)
        if column.fill is None and gaps.any():
            raise ConfigError(
                f"{table.path}: line {table.lines[gaps][0]}, column {column.name!r}: the cell holds no value, and "
                "there is none to fill it with"
            )
        if column.words:
            words = as_words(cells)
            filled = words if column.fill is None else np.where(gaps, str(column.fill), words)
            block = (filled[:, None] == np.array(column.words)).astype(np.float64)
        else:
            boolean = _is_boolean(cells, gaps)
            own = _parsed(table, column.name, gaps, boolean)  # says which cell is neither
            if boolean != column.boolean and not gaps.all():
                here, there = kind_and_other(boolean)
                raise ConfigError(
                    f"{table.path}: the column {column.name!r} holds {here}, and {there} in training; write it as there"
                )
            block = np.where(gaps, np.nan if column.fill is None else float(column.fill), own)[:, None]
        blocks += [block, gaps[:, None]] if column.indicator else [block]
    return np.concatenate(blocks, axis=1)


def unknown_words(table: CellTable, columns: Columns) -> list[tuple[Column, NDArray[np.bool_]]]:
    """Of each column of words in which a table has others, the column, and the rows that have them ``[n]``."""
    unknown = []
    for column in (each for each in columns.each if each.words):
        cells = table.cells[column.name]
        strange = ~is_missing(cells) & ~np.isin(as_words(cells), column.words)
        if strange.any():
            unknown.append((column, strange))
    return unknown


def _is_boolean(cells: Cells, gaps: NDArray[np.bool_]) -> bool:
    return bool(np.isin(np.char.lower(cells[~gaps]), list(BOOLEAN)).all())


def _parsed(table: CellTable, name: str, gaps: NDArray[np.bool_], boolean: bool) -> NDArray[np.float64]:
    """A column's numbers ``[n]``, NaN in gaps."""
    values = np.full(len(table), np.nan)
    cells = table.cells[name][~gaps]
    if boolean:
        values[~gaps] = [BOOLEAN[word] for word in np.char.lower(cells)]
        return values
    with suppress(ValueError):
        values[~gaps] = cells.astype(np.float64)
    if not np.isfinite(values[~gaps]).all() or (np.char.find(cells, "_") >= 0).any():  # one by one, to name it
        values[~gaps] = [_number(table, name, int(row)) for row in np.flatnonzero(~gaps)]
    return values


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
