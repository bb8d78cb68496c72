"""How a participant's tables are read: which columns are predicted, and what becomes of gaps and words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from fedtl.choice import ConfigError
from fedtl.data.arrays import UNLABELLED, Labels, doubts, samples
from fedtl.data.own.cells import Cells, CellTable, as_words, read_cells
from fedtl.data.own.columns import ColumnRules, as_numbers, summary, without_gaps
from fedtl.data.own.lines import tables_in
from fedtl.data.own.part import TEST, TRAIN, Part, has_labels
from fedtl.data.own.table import labels_of, test_rows
from fedtl.data.own.words import doubtful_positive
from fedtl.tasks import CLASSIFICATION, LearningTask, Outcomes


def class_names(others: Sequence[str], positive: Sequence[str]) -> tuple[str, str]:
    """What the classes 0 and 1 are called, of all labels that are not ``positive`` and of those that are."""
    return ", ".join(others), ", ".join(positive)


@dataclass(frozen=True)
class TableRules:
    """How tables, .csv files and Parquet, are read.

    Attributes:
        predicted: the columns with what is predicted; the first is the label's.
        positive: the labels that are class 1; all others are class 0. Classes are as they stand if there are none.
        columns: how cells become numbers.
        header: the columns' names, where files need not have a first line with these.
        task: what is predicted.
        unread: columns that count for nothing where a file has them.
    """

    predicted: tuple[str, ...] = ("label",)
    positive: tuple[str, ...] = ()
    columns: ColumnRules = field(default_factory=ColumnRules)
    header: tuple[str, ...] = ()
    task: LearningTask = CLASSIFICATION
    unread: tuple[str, ...] = ()

    def read(self, file: Path, labelled: bool = True) -> CellTable:
        """A file's rows; those that are not ``labelled`` may have no column with what is predicted.

        Raises:
            ConfigError: it is no such file.
        """
        first, *others = self.predicted
        try:
            table = read_cells(file, first, self.header, labelled)
        except ConfigError as error:
            if str(error).startswith(f"{file} has no column {first!r}"):
                raise ConfigError(f"data.label = {first!r}: {error}") from error
            raise
        unread = self.unread if labelled else (*self.unread, *others)
        table = replace(table, cells={name: cells for name, cells in table.cells.items() if name not in unread})
        if not labelled:
            return table
        return table if self.task.labelled else table.with_outcomes(first, others)

    def drawn(self, table: CellTable, test_share: float) -> dict[str, CellTable]:
        """A file's rows for training and for testing, of which either may be missing; see :func:`test_rows`."""
        # A -1 is a label as others are where it is one of those that are not positive.
        drawn = test_rows(np.full(len(table), "") if self.positive else table.label, test_share)
        return {part: table.rows(rows) for part, rows in ((TRAIN, ~drawn), (TEST, drawn)) if rows.any()}

    def classes(self, words: Cells) -> Labels:
        """1 for labels ``[n]`` that are positive, and 0 for all others, be they -1."""
        return np.isin(as_words(words), as_words(np.array(self.positive))).astype(np.int64)

    def others(self, words: Cells) -> tuple[str, ...]:
        """The labels among ``[n]`` that are not positive, in order."""
        return tuple(sorted(map(str, np.unique(words[self.classes(words) == 0]))))

    def outcomes(self, table: CellTable) -> Outcomes | None:
        """What is predicted of a table's rows, where that is no label."""
        if table.outcomes is None:
            return None
        where = f"{table.path}: {', '.join(self.predicted)}"
        return self.task.outcomes(where, table.outcomes, len(table)).called(self.predicted)

    def parts(self, path: Path, wanted: Sequence[str], test_share: float) -> dict[str, Part]:
        """One participant's parts, of a file or of a folder with ``train.csv`` and so on.

        Where others' rows decide what its columns become, they are not numbers yet, see :attr:`Part.undecided`.

        Raises:
            ConfigError: the files are not what they should be.
        """
        if path.is_file():
            table = self.read(path)
            (table,), notes = without_gaps([table], self.columns)
            tables = self.drawn(table, test_share) if TRAIN in wanted else {TEST: table}
        else:
            read = {part: self.read(file, has_labels(part)) for part, file in tables_in(path, wanted).items()}
            whole, notes = without_gaps([*read.values()], self.columns)
            tables = dict(zip(read, whole))
        if not tables:
            return {}
        labels = self._labels(tables)
        if self.positive and labels:
            words = {str(word) for part in labels for word in np.unique(tables[part].label)}
            notes = (*notes, *doubtful_positive({str(path): words}, self.positive))
        bare = {
            part: Part(
                str(table.path),
                np.empty((len(table), 0), np.float32),
                labels.get(part),
                (*notes, *table.notes),
                self.outcomes(table),
                (*table.cells, *self._order),
                others=self.others(table.label) if self.positive and part in labels else None,
            )
            for part, table in tables.items()
        }
        if self.columns.together:
            summary([*tables.values()], [True] * len(tables), self.columns)  # says now which cell is no number
            return {name: replace(part, undecided=tables[name]) for name, part in bare.items()}
        numbers = as_numbers([*tables.values()], [True] * len(tables), self.columns)
        return {
            name: replace(
                part, x=samples(part.where, x), notes=(*part.notes, *doubts(part.where, x)), table=numbers.columns
            )
            for (name, part), x in zip(bare.items(), numbers.each)
        }

    @property
    def _order(self) -> tuple[str, ...]:
        """The columns that are predicted, where there are several, whose order means something."""
        return ("", *self.predicted) if len(self.predicted) > 1 else ()

    def _labels(self, tables: dict[str, CellTable]) -> dict[str, Labels]:
        labelled = {part: table for part, table in tables.items() if has_labels(part)}
        if not self.task.labelled:
            return {part: np.zeros(len(table), np.int64) for part, table in labelled.items()}
        if self.positive:
            return {part: self.classes(table.label) for part, table in labelled.items()}
        least = {part: UNLABELLED if part == TRAIN else 0 for part in labelled}
        read = labels_of([(str(table.path), table.label, least[part]) for part, table in labelled.items()])
        return dict(zip(labelled, read))
