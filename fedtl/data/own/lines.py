"""The lines of a table's file: a .csv file, or the rows of Parquet, which are read as such lines are."""

from __future__ import annotations

import codecs
import csv
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fedtl.choice import ConfigError, nearest
from fedtl.data.arrays import UNLABELLED
from fedtl.data.own import parquet

SUFFIXES = (".csv", parquet.SUFFIX)
"""How the names of files end that are tables."""

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}

NONE = re.compile(r"-1(\.0*)?")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_EXCEL_LINE = re.compile(r'"?sep=([^\w"\r\n])"?\r?\n?')


def is_table(path: Path) -> bool:
    """Whether a file is a table by its name."""
    return path.suffix.lower() in SUFFIXES


def tables_in(folder: Path, parts: Sequence[str]) -> dict[str, Path]:
    """The file of each part that a folder has as a table: ``train.csv``, or ``train.parquet``, and so on.

    Raises:
        ConfigError: it has a part as both.
    """
    tables: dict[str, Path] = {}
    for part in parts:
        files = [file for suffix in SUFFIXES if (file := folder / f"{part}{suffix}").is_file()]
        if len(files) > 1:
            raise ConfigError(f"{folder} holds both {files[0].name} and {files[1].name}; keep one")
        if files:
            tables[part] = files[0]
    return tables


def header_of(path: Path, label: str) -> list[str]:
    """The names of a file's columns; none if :func:`read_rows` could not read them."""
    try:
        if path.suffix.lower() == parquet.SUFFIX:
            return [name.strip() for name in parquet.names_of(path)]
        with rows_of(path, label) as (rows, _):
            return [name.strip() for name in next(rows, (1, []))[1]]
    except ConfigError:
        return []


@contextmanager
def rows_of(path: Path, label: str) -> Iterator[tuple[Iterator[tuple[int, list[str]]], tuple[str, ...]]]:
    """A file's lines that are not empty, with their numbers; and a note where they are not commas and UTF-8.

    Of Parquet the columns' names are line 0, and the rows count from 1.

    Args:
        path: the file.
        label: a column that it should have, by which its separator is told.

    Raises:
        ConfigError: it cannot be read, or is no table.
    """
    if path.suffix.lower() == parquet.SUFFIX:
        yield parquet.rows_of(path)
        return
    encoding = "UTF-8"
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if b"\0" in start[:2] or start[2:] == b"\0\0":
            raise ConfigError(f"{path} begins like UTF-16 without a byte order mark, or UTF-32; save it as UTF-8")
        if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            encoding = "UTF-16"
        with path.open(encoding="utf-16" if encoding == "UTF-16" else "utf-8-sig", newline="") as file:
            notes: tuple[str, ...] = () if encoding == "UTF-8" else (f"{path} is read as {encoding}",)
            first, excel_line = 0, _EXCEL_LINE.fullmatch(file.readline())
            if excel_line:
                first, separator = 1, excel_line[1]
                start_at = file.tell()
            else:
                file.seek(0)
                lines = [line for _, line in zip(range(20), file) if line.strip()]
                separator, start_at = _separator(lines, label), 0
            file.seek(start_at)
            if separator != ",":
                name = SEPARATORS.get(separator, repr(separator))
                notes += (f"{path}: its columns are separated by {name}",)
            rows = csv.reader(file, delimiter=separator, strict=True)
            yield ((first + rows.line_num, row) for row in rows if row), notes
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except (UnicodeError, csv.Error) as error:
        raise ConfigError(f"{path} is not a .csv file in {encoding}: {error}") from error


def _separator(lines: Sequence[str], label: str) -> str:
    """What separates the columns of a file that begins with these lines, none of which is empty."""
    candidates = {}
    for separator in SEPARATORS:
        try:
            rows = [row for row, _ in zip(csv.reader(lines, delimiter=separator, strict=True), range(2))]
        except csv.Error:
            continue
        names = [name.strip() for name in rows[0]] if rows else []
        if len(names) > 1 and all(len(row) == len(names) for row in rows):
            candidates[separator] = label in names, separator == ",", len(names)
    return max(candidates, key=lambda separator: candidates[separator], default=",")


def checked_rows(
    path: Path, rows: Iterator[tuple[int, list[str]]], label: str, labelled: bool, header: Sequence[str] = ()
) -> tuple[tuple[str, ...], Iterator[tuple[int, str | None, list[str]]]]:
    """A file's columns but for the label's, and its rows: the line of each, its label and its other cells.

    Args:
        path: the file.
        rows: of :func:`rows_of`.
        label: the column with the class.
        labelled: whether there must be one; else a row's label is None where there is none.
        header: the columns' names where the first line does not name them; without, that is an error.

    Raises:
        ConfigError: it has no such column, a row of another length, no row, or an empty label.
    """
    first_line, first = next(rows, (1, []))
    if not first:
        raise ConfigError(f"{path} is empty; leave out what holds no sample")
    names = [name.strip() for name in first]
    if header and label not in names:
        names, rows = [*header], itertools.chain([(first_line, first)], rows)
    check_header(path, names, label, labelled)
    place = names.index(label) if label in names else None
    columns = tuple(name for name in names if name != label)
    if not columns:
        raise ConfigError(f"{path} has no column besides {label!r}; a sample needs one number or more")

    def lines() -> Iterator[tuple[int, str | None, list[str]]]:
        line, word = 0, None
        for line, row in rows:
            if len(row) != len(names):
                raise ConfigError(f"{path}: line {line} has {len(row)} cells, but the header {len(names)}")
            if place is not None:
                word = row.pop(place).strip()
                if labelled and not word:
                    raise ConfigError(f"{path}: line {line}, column {label!r}: the cell is empty")
                word = str(UNLABELLED) if NONE.fullmatch(word) else word
            yield line, word, row
        if not line:
            raise ConfigError(f"{path} has no row besides its header; leave out what holds no sample")

    return columns, lines()


def check_header(path: Path, names: Sequence[str], label: str, labelled: bool) -> None:
    """Check that a file's first line names its columns, and that one is the label if there must be one."""
    # A number that says which column it is may be a name.
    values = [n for i, n in enumerate(names) if NUMBER.fullmatch(n.replace(",", ".")) and n not in (str(i), str(i + 1))]
    if label not in names and values and (labelled or len(values) == len(names)):
        raise ConfigError(
            f"{path}: the first line holds values, as {values[0]}, where the columns' names are expected; write a line "
            f"such as a,b,{label} before it"
        )
    if "" in names:
        hint = "" if names[0] else "; pandas writes its row numbers so, but for to_csv(..., index=False)"
        raise ConfigError(f"{path}: column {names.index('') + 1} of {len(names)} has no name in the first line{hint}")
    if len(set(names)) < len(names):
        raise ConfigError(f"{path}: two columns have the name {next(n for n in names if names.count(n) > 1)!r}")
    if label not in names and labelled:
        if len(names) == 1 and label in re.split(r"[\s,;|:]+", names[0]):
            raise ConfigError(
                f"{path}: its first line is the one word {names[0]!r}; separate columns by commas, semicolons or tabs, "
                "as many in each line"
            )
        raise ConfigError(f"{path} has no column {label!r}: {nearest(label, names)}")


def number(path: Path, line: int, column: str, cell: str) -> float:
    """A cell as a finite number.

    Raises:
        ConfigError: it is none.
    """
    text = cell.strip()
    if not text:
        raise ConfigError(f"{path}: line {line}, column {column!r}: the cell is empty")
    try:
        value = float(text)
    except ValueError:
        value = None
    if value is None or "_" in text:  # Python reads 1_000 as a number
        if "," in text and NUMBER.fullmatch(text.replace(",", ".", 1)):  # 1,234 may be more than a thousand
            raise ConfigError(
                f"{path}: line {line}, column {column!r}: {text!r} is no number; write a decimal point in place of the "
                "comma, in all lines"
            )
        raise ConfigError(f"{path}: line {line}, column {column!r}: {text!r} is no number")
    if not math.isfinite(value):
        raise ConfigError(f"{path}: line {line}, column {column!r}: {text} is not finite; remove or replace it")
    return value


def difference(mine: Sequence[str], other: Sequence[str]) -> str:
    """How two files' columns differ, up to the other's name."""
    for one in mine:
        if one not in other:
            return f"it has the column {one!r}, which is not"
    for one in other:
        if one not in mine:
            return f"it has no column {one!r}, which is"
    return f"its columns should stand in the order {', '.join(other)}, as"
