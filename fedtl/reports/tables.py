"""Tables of a report: those of the comparison, and plain ones of facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedtl.comparison import Comparison
from fedtl.comparison.formats import Section, differences, ranks, sections

LONG = 24
"""Letters of a cell that may stand in one line."""


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        name: at its head.
        numbers: whether it holds numbers.
        long: whether it holds sentences, which need room.
    """

    name: str
    numbers: bool = False
    long: bool = False


@dataclass(frozen=True)
class Table:
    """A table that can be sorted by each column.

    Attributes:
        caption: what it shows.
        columns: as many as each row has cells.
        rows: of words; the first cell names the row.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


def of_comparison(comparison: Comparison, setting: str = "") -> tuple[Table, ...]:
    """The tables that ``fedtl compare`` prints, with the setting behind their captions."""
    return tuple(_table(section, setting) for section in sections(comparison))


def of_differences(comparison: Comparison) -> tuple[Table, ...]:
    """The table of a comparison's differences alone."""
    section = differences(comparison)
    return (_table(section, ""),) if section.rows else ()


def of_ranks(comparison: Comparison | None) -> tuple[Table, ...]:
    """The table of methods' mean ranks over settings, where there is one."""
    section = None if comparison is None else ranks(comparison)
    return () if section is None else (_table(section, ""),)


def plain(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[str] = ()) -> Table:
    """A table of words.

    Args:
        caption: what it shows.
        header: the columns' names.
        rows: their cells.
        numbers: the columns that hold numbers.
    """
    return Table(caption, _columns(header, rows, [name in numbers for name in header]), tuple(map(tuple, rows)))


def _table(section: Section, setting: str) -> Table:
    numbers = [not section.is_words(column) for column in range(len(section.header))]
    columns = _columns(section.header, section.rows, numbers)
    title = f"{section.title[0].upper()}{section.title[1:]}"
    return Table(f"{title} ({setting})" if setting else title, columns, section.rows)


def _columns(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[bool]) -> tuple[Column, ...]:
    return tuple(
        Column(name, number, not number and any(len(row[place]) > LONG for row in rows))
        for place, (name, number) in enumerate(zip(header, numbers))
    )
