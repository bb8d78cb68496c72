"""Parquet files as the lines of a table: what their cells say is read as if it stood in a .csv file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedtl.choice import ConfigError

SUFFIX = ".parquet"

BLOCK = 10_000
"""Rows that are made words at a time."""

_INDEX = "__index_level_"
"""How pandas begins the name of a column for an index that has none."""


def rows_of(path: Path) -> tuple[Iterator[tuple[int, list[str]]], tuple[str, ...]]:
    """A file's lines with their numbers, the columns' names as line 0; and a note where a column is left out.

    Null is an empty cell, and true and false are such words; numbers have all their digits.

    Raises:
        ConfigError: pyarrow is not installed, it is no such file, or a column holds lists or the like.
    """
    try:
        import pyarrow.parquet as reader
        from pyarrow import ArrowException, types
    except ModuleNotFoundError as error:
        raise ConfigError(f"{path} needs the package pyarrow: pip install 'fedtl[parquet]'") from error
    try:
        table = reader.read_table(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except ArrowException as error:
        raise ConfigError(f"{path} is no Parquet file: {' '.join(str(error).split()).rstrip('.')}") from error
    index = [name for name in table.column_names if name.startswith(_INDEX)]
    table = table.drop_columns(index)
    for field in table.schema:
        if types.is_nested(field.type):
            raise ConfigError(f"{path}: column {field.name!r} holds {field.type}, not one number or word in each row")
    notes = (f"{path}: the row numbers of pandas, {index[0]!r}, are left out",) if index else ()
    return _lines(table), notes


def _lines(table: Any) -> Iterator[tuple[int, list[str]]]:
    yield 0, list(table.column_names)
    line = 0
    for batch in table.to_batches(BLOCK):
        for row in zip(*(column.to_pylist() for column in batch.columns)):
            line += 1
            yield line, [_cell(value) for value in row]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)
