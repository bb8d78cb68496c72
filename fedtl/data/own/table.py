"""A participant's own data as tables: a row per sample, its class in one column, numbers in all others."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.data.arrays import UNLABELLED, Labels, doubts, labels, samples
from fedtl.data.columns import Columns
from fedtl.data.own.cells import as_words
from fedtl.data.own.lines import NUMBER, checked_rows, difference, number, rows_of, tables_in
from fedtl.data.own.part import TEST, TRAIN, Part, has_labels
from fedtl.data.own.words import check_one_kind

WHOLE = re.compile(r"[+-]?[0-9]+(\.0*)?")


@dataclass(frozen=True)
class CsvTable:
    """A .csv file.

    Attributes:
        path: where it is.
        columns: names of those with numbers.
        x: ``[n, columns]``.
        words: of the column with the class, ``[n]``; None if it was not read.
        notes: how the file was read, where that is not as it usually is.
    """

    path: Path
    columns: tuple[str, ...]
    x: NDArray[np.float64]
    words: NDArray[np.str_] | None
    notes: tuple[str, ...] = ()


def read_tables(folder: Path, wanted: Sequence[str], label: str) -> dict[str, Part]:
    """Each wanted part that the folder has: ``train.csv`` and so on, all with the same columns.

    Raises:
        ConfigError: a file is not what it should be.
    """
    files = tables_in(folder, wanted)
    tables = {part: read_rows(file, label, has_labels(part)) for part, file in files.items()}
    for table in tables.values():
        first = next(iter(tables.values()))
        if table.columns != first.columns:
            raise ConfigError(f"{table.path}: {difference(table.columns, first.columns)} in {first.path}")
    return parts_of(tables)


def read_table(file: Path, wanted: Sequence[str], label: str, test_share: float) -> dict[str, Part]:
    """One file as a training and a test part; all is the latter where no training part is wanted.

    Of the n labelled rows ``test_share`` is drawn for testing, at least one and at most n - 1, at random, with the
    number of the file's rows as the seed: the same file gives the same parts.

    Raises:
        ConfigError: the file is not what it should be.
    """
    table = read_rows(file, label, True)
    assert table.words is not None
    if TRAIN not in wanted:
        return parts_of({TEST: table})
    drawn = test_rows(table.words, test_share)
    pieces = {TRAIN: ~drawn, TEST: drawn}
    return parts_of({p: replace(table, x=table.x[r], words=table.words[r]) for p, r in pieces.items() if r.any()})


def test_rows(words: NDArray[np.str_], test_share: float) -> NDArray[np.bool_]:
    """Which rows of a file are for testing ``[n]``, see :func:`read_table`, given the words of its labels ``[n]``."""
    order = np.random.default_rng(len(words)).permutation(len(words))
    order = order[words[order] != str(UNLABELLED)]
    most = max(len(order) - 1, 0)
    drawn = np.zeros(len(words), np.bool_)
    if test_share > 0:
        drawn[order[: min(max(round(len(order) * test_share), 1), most)]] = True
    return drawn


def labels_of(tables: Sequence[tuple[str, NDArray[np.str_], int]]) -> list[Labels]:
    """Labels of files: whole numbers if all of all files are, else words, of which "1.0" and "1" are one.

    Args:
        tables: of each its file, the words of its labels ``[n]``, and the smallest label that it may have.

    Raises:
        ConfigError: they are numbers in one file and words in another one, or no whole numbers.
    """
    each: dict[str, set[str]] = {}
    for where, entries, _ in tables:
        each.setdefault(where, set()).update(map(str, np.unique(entries)))
    check_one_kind(each)
    words = [str(word) for _, entries, _ in tables for word in np.unique(entries)]
    several = len({*map(str, as_words(np.array(words)))}) < len({*words})
    whole = all(map(WHOLE.fullmatch, words))
    read = []
    for where, entries, least in tables:
        fractions = [word for word in entries if not WHOLE.fullmatch(word)]
        if fractions and all(map(NUMBER.fullmatch, words)):
            raise ConfigError(f"{where} has the label {fractions[0]}; labels are whole numbers, or words")
        kept = _as_numbers(entries) if whole else as_words(entries) if several else entries
        read.append(labels(where, kept, len(entries), least))
    return read


def parts_of(tables: dict[str, CsvTable]) -> dict[str, Part]:
    """Labels are whole numbers if all of all tables are."""
    parts = {
        part: Part(
            str(table.path),
            samples(str(table.path), table.x),
            None,
            table.notes + doubts(str(table.path), table.x),
            columns=table.columns,
            table=Columns.of_numbers(table.columns),
        )
        for part, table in tables.items()
    }
    worded = {part: table.words for part, table in tables.items() if table.words is not None}
    least = {part: UNLABELLED if part == TRAIN else 0 for part in worded}
    read = labels_of([(parts[part].where, words, least[part]) for part, words in worded.items()])
    return {**parts, **{part: replace(parts[part], y=y) for part, y in zip(worded, read)}}


def _as_numbers(words: NDArray[np.str_]) -> NDArray[np.int64]:
    return np.clip(words.astype(np.float64), -(2.0**53), 2.0**53).astype(np.int64)  # so that none wraps around


def read_rows(path: Path, label: str, labelled: bool) -> CsvTable:
    """Read a table, whose column ``label`` is the class; if not ``labelled``, it is left out where it is there.

    Its columns are separated by commas, semicolons, tabs or bars, whichever its first two lines agree on; it is UTF-8,
    or UTF-16 that says so with a byte order mark.

    Raises:
        ConfigError: it is no such file, or a cell is not what it should be.
    """
    with rows_of(path, label) as (rows, notes):
        return _table(path, rows, label, labelled, notes)


def _table(
    path: Path, rows: Iterator[tuple[int, list[str]]], label: str, labelled: bool, notes: tuple[str, ...]
) -> CsvTable:
    """Lines with their numbers as a table, the first of them being its header."""
    columns, lines = checked_rows(path, rows, label, labelled)
    x = array("d")  # a quarter of a list's memory
    words: list[str] = []
    for line, word, cells in lines:
        if word is not None:
            words.append(word)
        x.extend(number(path, line, column, cell) for column, cell in zip(columns, cells))
    return CsvTable(path, columns, np.array(x).reshape(-1, len(columns)), np.array(words) if labelled else None, notes)
