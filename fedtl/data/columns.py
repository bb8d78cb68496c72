"""What a table's columns have become, so that a further table can be read as those that a model was trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from fedtl.choice import ConfigError, validate


@dataclass(frozen=True)
class Column:
    """One column of a table, and the numbers of a sample that it becomes.

    Attributes:
        name: the column's.
        words: of a column of words, of which each becomes a number: 1 where it stands, else 0; none of one of numbers.
        fill: what a cell without a value counts as, a number or one of the words; None where every cell has a value.
        indicator: whether one more number says which cells have none.
        boolean: of one of numbers, whether its cells are yes and no, or true and false, which are 1 and 0.
    """

    name: str
    words: tuple[str, ...] = ()
    fill: float | str | None = None
    indicator: bool = False
    boolean: bool = False

    @property
    def width(self) -> int:
        """How many numbers of a sample it becomes."""
        return (len(self.words) or 1) + self.indicator


@dataclass(frozen=True)
class Columns:
    """All columns of a table, in the order in which their numbers stand in a sample."""

    each: tuple[Column, ...]

    @classmethod
    def of_numbers(cls, names: Sequence[str], boolean: Sequence[str] = ()) -> Columns:
        """Columns of numbers without gaps, of which some are ``boolean``."""
        return cls(tuple(Column(name, boolean=name in boolean) for name in names))

    @property
    def boolean(self) -> tuple[str, ...]:
        """The names of those of yes and no."""
        return tuple(column.name for column in self.each if column.boolean)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names."""
        return tuple(column.name for column in self.each)

    @property
    def width(self) -> int:
        """How many numbers a sample has."""
        return sum(column.width for column in self.each)

    @property
    def places(self) -> Iterator[tuple[Column, str, int]]:
        """Of each column of words each word, and the place of its number in a sample."""
        start = 0
        for column in self.each:
            yield from ((column, word, start + place) for place, word in enumerate(column.words))
            start += column.width

    def moved(self, places: Sequence[int]) -> Columns | None:
        """Those of samples of which each number is taken from another place.

        None where a column is more than one number: they need not stay beside each other.
        """
        if any(column.width > 1 for column in self.each):
            return None
        return Columns(tuple(self.each[place] for place in places))

    def to_list(self) -> list[dict[str, Any]]:
        """As JSON has them: a table for each column, without what it has not."""
        return [
            {
                "name": column.name,
                **({"words": list(column.words)} if column.words else {}),
                **({} if column.fill is None else {"fill": column.fill}),
                **({"indicator": True} if column.indicator else {}),
                **({"boolean": True} if column.boolean else {}),
            }
            for column in self.each
        ]

    @classmethod
    def from_list(cls, value: Any, where: str) -> Columns:
        """Read what :meth:`to_list` made.

        Raises:
            ConfigError: it is no such list; ``where`` begins the message.
            ValueError: its columns contradict themselves.
        """
        tables = validate(_ColumnTables, {"columns": value}, where).columns
        columns = cls(tuple(Column(**dict(each)) for each in tables))
        if len(set(columns.names)) < len(columns.names):
            raise ValueError("two columns have one name")
        for column in columns.each:
            if len(set(column.words)) < len(column.words):
                raise ValueError(f"the column {column.name!r} has one word twice")
            if column.words and column.boolean:
                raise ValueError(f"the column {column.name!r} has words, and yes and no")
            fits = column.fill in column.words if column.words else _is_number(column.fill)
            if column.fill is not None and not fits:
                raise ValueError(f"the column {column.name!r} cannot be filled with {column.fill!r:.40}")
        return columns


def check_same_columns(where: str, other: Columns | None, there: str, one: Columns | None) -> None:
    """Check that what two tables both have is the same numbers of a sample.

    Columns that only one of them has may be the other's by another name.

    Args:
        where: the other table, which begins an error's message.
        other: its columns; None of what is no table.
        there: the first table.
        one: its columns.

    Raises:
        ConfigError: a column of both stands at another place, or has other words, or yes and no here and numbers there.
    """
    if one is None or other is None:
        return
    places, start = dict[str, tuple[int, Column]](), 0
    for column in one.each:
        places[column.name], start = (start, column), start + column.width
    start = 0
    for column in other.each:
        place, like = places.get(column.name, (start, column))
        what = f"{where}: the column {column.name!r}"
        if column.words != like.words:
            raise ConfigError(
                f"{what} has the words {', '.join(column.words) or 'of no kind'}, and in {there} "
                f"{', '.join(like.words) or 'of no kind'}; the same number would stand for different words"
            )
        if column.boolean != like.boolean:
            own, others = kind_and_other(column.boolean)
            raise ConfigError(f"{what} holds {own}, and {others} in {there}; write it alike")
        if place != start or column.indicator != like.indicator:
            raise ConfigError(f"{what} is another number of a sample than in {there}; write the columns in one order")
        start += column.width


def kind_and_other(boolean: bool) -> tuple[str, str]:
    """What a column holds that is ``boolean`` or is not, and what one holds that is the other, in words."""
    return ("yes or no", "numbers") if boolean else ("numbers", "yes or no")


def _is_number(value: float | str | None) -> bool:
    return isinstance(value, float) and math.isfinite(value)


class _ColumnTable(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    words: tuple[str, ...] = ()
    fill: float | str | None = None
    indicator: bool = False
    boolean: bool = False


class _ColumnTables(BaseModel):
    columns: tuple[_ColumnTable, ...] = Field(min_length=1)
