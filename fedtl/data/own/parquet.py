"""Parquet files as the lines of a table: what their cells say is read as if it stood in a .csv file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedtl.choice import ConfigError

SUFFIX = ".parquet"

BLOCK = 10_000
"""Rows that are made words at a time."""

_ZONE = r"(Z|[+-][0-9]{4})?"
"""What may stand behind a time."""

_INDEX = "__index_level_"
"""How pandas begins the name of a column for an index that has none."""


def rows_of(path: Path) -> tuple[Iterator[tuple[int, list[str]]], tuple[str, ...]]:
    """A file's lines with their numbers, the columns' names as line 0; and a note where a column is left out.

    Null is an empty cell, and true and false are such words; numbers have all their digits, and so have times.

    Raises:
        ConfigError: pyarrow is not installed, it is no such file, or a column holds lists or the like.
    """
    with _opened(path) as file:
        table = file.read()
    from pyarrow import types

    index = [name for name in table.column_names if name.startswith(_INDEX)]
    table = table.select([place for place, name in enumerate(table.column_names) if name not in index])
    for place, field in enumerate(table.schema):
        if types.is_nested(field.type):
            raise ConfigError(f"{path}: column {field.name!r} holds {field.type}, not one number or word in each row")
        if types.is_temporal(field.type):
            table = table.set_column(place, field.name, _times(path, field, table.column(place)))
    notes = (f"{path}: the row numbers of pandas, {index[0]!r}, are left out",) if index else ()
    return _lines(path, table), notes


def names_of(path: Path) -> list[str]:
    """The columns' names as :func:`rows_of` has them, for which no column is read.

    Raises:
        ConfigError: pyarrow is not installed, or it is no such file.
    """
    with _opened(path) as file:
        return [name for name in file.schema_arrow.names if not name.startswith(_INDEX)]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A file open to be read, and what cannot be read of it in a sentence."""
    try:
        import pyarrow.parquet as reader
        from pyarrow import ArrowException
    except ModuleNotFoundError as error:
        raise ConfigError(f"{path} needs the package pyarrow: pip install 'fedtl[parquet]'") from error
    try:
        with reader.ParquetFile(path) as file:  # and not read_table, which takes two columns of one name for no file
            yield file
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or _one_line(error)}") from error
    except ArrowException as error:
        raise ConfigError(f"{path} is no Parquet file: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _times(path: Path, field: Any, column: Any) -> Any:
    """Dates and times as words, of which Python's own objects have no nanoseconds and no year 10000.

    They are the same words in whichever unit they are stored, without zeros at the end of a fraction. A duration's
    number has its unit beside it, as another client's may have another.
    """
    from pyarrow import ArrowException, compute, int64, string, types

    try:
        if types.is_duration(field.type):
            return compute.binary_join_element_wise(column.cast(int64()).cast(string()), field.type.unit, " ")
        words = compute.replace_substring_regex(column.cast(string()), rf"(\.[0-9]*?)0+{_ZONE}$", r"\1\2")
        return compute.replace_substring_regex(words, rf"\.{_ZONE}$", r"\1")
    except ArrowException as error:
        raise ConfigError(f"{path}: column {field.name!r} holds {field.type}: {_one_line(error)}") from error


def _lines(path: Path, table: Any) -> Iterator[tuple[int, list[str]]]:
    yield 0, list(table.column_names)
    line = 0
    for batch in table.to_batches(BLOCK):
        for row in zip(*(_cells(path, *each) for each in zip(batch.schema.names, batch.columns))):
            line += 1
            yield line, [_cell(value) for value in row]


def _cells(path: Path, name: str, column: Any) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except Exception as error:  # a value that Python's object of its kind cannot be
        raise ConfigError(f"{path}: column {name!r} holds {column.type}: {_one_line(error)}") from error
    return values


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)
