"""Clients' own files, as a deployment reads them: .csv tables, images, arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from fedtl.choice import ConfigError, nearest
from fedtl.data.arrays import UNLABELLED, Labels, check_alike, check_classes, doubts, samples
from fedtl.data.dataset import Dataset, channel_statistics
from fedtl.data.file_rows import FileRows, one_after_another, rows_by_lines
from fedtl.data.own.cells import BOOLEAN, CellTable, as_words, is_missing, one_word_each
from fedtl.data.own.columns import ColumnRules, Missing, as_numbers, without_gaps
from fedtl.data.own.lines import is_table, tables_in
from fedtl.data.own.listing import NAMED, unread
from fedtl.data.own.part import PARTS, PUBLIC, TARGET_TEST, TARGET_TRAIN, TEST, TRAIN, VALIDATION, Part
from fedtl.data.own.read import Own, gathered, kind_of, read_own, unread_parts
from fedtl.data.own.redecided import TableRows
from fedtl.data.own.rules import TableRules, class_names
from fedtl.data.own.table import labels_of
from fedtl.data.own.words import doubtful_positive, doubtful_words, of_two_kinds
from fedtl.data.sets.place import readable
from fedtl.data.settings import DataChoice
from fedtl.tasks import CLASSIFICATION, LearningTask

NOT_HERE = (TARGET_TRAIN, TARGET_TEST, PUBLIC)
"""Parts of a real client's data that a simulation has elsewhere."""

IN_ORDER = (TRAIN, VALIDATION, TEST)
"""How a client's samples stand in the data set."""


ONE_CLIENTS = "a client is a folder, or a file .csv or .parquet, whose name does not begin with _"
"""What is read of a folder of clients."""


class Files(DataChoice):
    """Clients' own files: a folder with one .csv file or one folder per client, or one .csv file.

    Where .csv is said, Parquet (.parquet) is as good.

    - A folder of .csv files, in the order of their names clients 0, 1, ... ``test_share`` of a file's rows are test
      data, drawn as a real client draws them (``fedtl deploy client``).
    - A folder of folders, each a client's as a deployment reads it: ``train.csv`` and ``test.csv``, ``CLASS/*.png``,
      ``train/CLASS/*.png`` and ``test/CLASS/*.png``, ``train.npz`` and ``test.npz``, and perhaps ``validation``.
    - One .csv file: the column ``owner`` says whose each row is; without one, the partition divides the rows.

    Labels are whole numbers from 0, or words, which are numbered in their order. Columns of .csv files are separated by
    commas, semicolons, tabs or bars; they hold numbers, or yes and no, or true and false.

    Attributes:
        path: the folder or the file.
        label: the column with the class, or with what ``data.task`` predicts; where that is several numbers, as times
            and events, a list of columns.
        owner: the column of a single file that says whose a row is.
        positive: the labels that are class 1; all others are class 0. Classes are as they stand if not given.
        missing: what becomes of a gap (an empty cell, "?", "NA"): "error"; its row is left out, "drop"; or it gets the
            column's "mean" or "median", and in columns of words the most frequent one. These follow from the clients'
            own sums and medians over their training rows, whatever divides these from others.
        indicators: whether columns with gaps each get another one that says where they were.
        categorical: columns of words, each of which becomes a column of zeros and ones.
        leave_out: columns that are not used.
    """

    default_partition: ClassVar[dict[str, Any]] = {"name": "natural"}
    load_reads = frozenset({"test_share"})
    header: ClassVar[tuple[str, ...]] = ()
    """The columns' names, where files need not have a first line with these."""

    name: str = "files"
    path: str = Field(min_length=1)
    label: str | tuple[str, ...] = "label"
    owner: str | None = None
    positive: tuple[str, ...] = ()
    missing: Missing = "error"
    indicators: bool = False
    categorical: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _predicts_one_label(self) -> Files:
        if not self.predicted or (self.task.labelled and len(self.predicted) > 1):
            raise ValueError(f"label = {list(self.predicted)} should be one column: data.task is {self.task.name!r}")
        return self

    @model_validator(mode="after")
    def _positive_are_labels(self) -> Files:
        if self.positive and not self.task.labelled:
            raise ValueError(f"positive = {list(self.positive)} is about labels: data.task is {self.task.name!r}")
        return self

    @model_validator(mode="after")
    def _columns_are_for_one_thing(self) -> Files:
        uses = {"label": self.predicted, "owner": (self.owner,), "leave_out": self.leave_out}
        for key, others in (("categorical", uses), ("leave_out", {**uses, "leave_out": ()})):
            for name in getattr(self, key):
                if other := next((each for each, names in others.items() if name in names), None):
                    raise ValueError(f"{key} = {name!r}: {other} names this column too; leave it out of one of them")
        return self

    @model_validator(mode="after")
    def _fill_goes_with_indicators(self) -> Files:
        if self.indicators and not self.rules.columns.fills:
            raise ValueError(f"indicators = true needs missing = 'mean' or 'median': {self.missing!r} fills no gap")
        return self

    @property
    def fills_gaps_by(self) -> str | None:
        """The option that fills gaps by a statistic of all clients' rows."""
        return f"data.missing = {self.missing!r}" if self.rules.columns.fills else None

    @property
    def predicted(self) -> tuple[str, ...]:
        """The columns with what is predicted; the first is the label's."""
        return (self.label,) if isinstance(self.label, str) else self.label

    @property
    def rules(self) -> TableRules:
        """How tables are read, here and by real clients."""
        columns = ColumnRules(self.missing, self.indicators, self.categorical, self.leave_out)
        return TableRules(self.predicted, self.positive, columns, self.header, self.task)

    def load(self) -> Dataset:
        """See :class:`~fedtl.data.settings.DataChoice`."""
        with readable(self.path, "file or folder") as place:
            if place.is_dir():
                entries = sorted(each for each in place.iterdir() if not each.name.startswith((".", "_")))
                clients = [each for each in entries if each.is_dir() or is_table(each)]
                if not clients:
                    raise ConfigError(f"data.path = {self.path!r}: the folder has no table, as .csv, and no folder")
                dataset = _with_owners(self.of_clients(clients), [each.stem for each in clients])
                return replace(dataset, notes=(*dataset.notes, *unread(place, clients, ONE_CLIENTS)))
            if place.is_file():
                return self._of_file(place)
        raise ConfigError(f"data.path = {self.path!r}: there is no such file or folder")

    def own(self, path: str, server: bool = False) -> Own:
        """What one client, or the server, holds of such data, as :func:`~fedtl.data.own.read.read_own` reads it."""
        owner = () if self.owner is None else (self.owner,)  # the same in all of a client's rows, and nothing of them
        return read_own(
            path,
            rules=replace(self.rules, unread=owner),
            task=self.task,
            size=self.size,
            channels=self.channels,
            test_share=self.test_share,
            server=server,
        )

    def of_clients(self, entries: Sequence[Path]) -> Dataset:
        """The data set of clients, of whom each has a file or a folder."""
        if self.owner is not None:
            raise ConfigError(f"data.owner = {self.owner!r}: in a folder each entry is a client; leave it out")
        tables = [entry for entry in entries if entry.is_file() or kind_of(entry, str(entry)) == "tables"]
        if len(tables) == len(entries):
            return self._of_tables([self._parts(entry) for entry in entries], [entry.name for entry in entries])
        if tables:
            raise ConfigError(
                f"data.path = {self.path!r}: {tables[0].name} is a table, and others are none; keep one kind"
            )
        self._only_of_tables()
        return _joined([self.own(str(entry)) for entry in entries], [entry.name for entry in entries], self.task)

    def _only_of_tables(self) -> None:
        fields = type(self).model_fields
        for key in ("label", "positive", "missing", "indicators", "categorical", "leave_out"):
            if (value := getattr(self, key)) != fields[key].default:
                raise ConfigError(f"data.{key} = {value!r}: only tables have columns; leave it out")

    def _parts(self, entry: Path) -> dict[str, CellTable]:
        """A client's rows by part, before any is drawn for testing."""
        if entry.is_file():
            return {TRAIN: self.rules.read(entry)}
        files = tables_in(entry, PARTS)
        for part in NOT_HERE:
            if part in files:
                raise ConfigError(_not_here(str(entry), part))
        if TRAIN not in files:
            raise ConfigError(f"{entry} has no train.csv")
        tables = {part: self.rules.read(file) for part, file in files.items()}
        first = tables[TRAIN]
        return {**tables, TRAIN: replace(first, notes=(*first.notes, *unread_parts(entry, first.path.suffix)))}

    def _of_file(self, file: Path) -> Dataset:
        table = self.rules.read(file)
        if self.owner is None:
            return self._of_tables([{TRAIN: table}], [file.name], owned=False)
        if self.owner not in table.cells:
            raise ConfigError(
                f"data.owner = {self.owner!r}: {file} has no such column: {nearest(self.owner, table.cells)}"
            )
        owners = table.cells.pop(self.owner)
        if (nobodys := is_missing(owners)).any():
            line = table.lines[nobodys][0]
            raise ConfigError(f"{file}: line {line}, column {self.owner!r}: the cell does not say whose the row is")
        owners = one_word_each(owners)
        names = [str(name) for name in np.unique(owners)]
        return _with_owners(self._of_tables([{TRAIN: table.rows(owners == name)} for name in names], names), names)

    def _of_tables(
        self, clients: Sequence[Mapping[str, CellTable]], called: Sequence[str], owned: bool = True
    ) -> Dataset:
        flat = [(client, part, table) for client, parts in enumerate(clients) for part, table in parts.items()]
        rules = self.rules
        whole, notes = without_gaps([table for _, _, table in flat], rules.columns)
        pieces: list[tuple[int, str, CellTable]] = []
        for (client, part, _), table in zip(flat, whole):
            if part != TRAIN or not owned or len(clients[client]) > 1:
                pieces.append((client, part, table))
                continue
            pieces += [(client, kind, rows) for kind, rows in rules.drawn(table, self.test_share).items()]
        tables = [table for _, _, table in pieces]
        numbers = as_numbers(tables, [part == TRAIN for _, part, _ in pieces], rules.columns)
        labels, names = self._labels(tables)
        if self.positive:
            words: dict[str, set[str]] = {}
            for client, _, table in pieces:
                words.setdefault(called[client], set()).update(map(str, np.unique(table.label)))
            notes += doubtful_positive(words, self.positive)
        outcomes = [rules.outcomes(table) for table in tables]
        parts: list[dict[str, Part]] = [{} for _ in clients]
        for (client, part, table), x, y, own in zip(pieces, numbers.each, labels, outcomes):
            where = str(table.path)
            parts[client][part] = Part(where, samples(where, x), y, (*table.notes, *doubts(where, x)), own)
        owns = [gathered(next(iter(each.values())).where, each, server=False) for each in parts]
        dataset = _joined(owns, called, self.task)
        names = names or dataset.label_names
        if self.task.kind == "binary" and not self.positive and names and names[-1].lower() not in BOOLEAN:
            notes = (*notes, f"data.task = 'binary': a yes is {names[-1]!r}; data.positive says it otherwise")
        dataset = replace(dataset, notes=(*notes, *dataset.notes), label_names=names, columns=numbers.columns)
        dataset = replace(dataset, rows=_rows(flat, pieces, owned and any(len(parts) == 1 for parts in clients)))
        if rules.columns.together:
            in_order = [table for _, _, table in sorted(pieces, key=lambda piece: _order(*piece[:2]))]
            dataset = replace(dataset, cells=TableRows(tuple(in_order), rules.columns, np.arange(len(dataset.y))))
        return dataset if owned else replace(dataset, owner=None)

    def _labels(self, tables: Sequence[CellTable]) -> tuple[list[Labels], tuple[str, ...]]:
        """The labels of each table ``[n]``, and the classes' names where :attr:`positive` makes these."""
        if not self.task.labelled:
            return [np.zeros(len(table), np.int64) for table in tables], ()
        if not self.positive:
            return labels_of([(str(table.path), table.label, UNLABELLED) for table in tables]), ()
        present = {str(word) for table in tables for word in np.unique(table.label)}
        words = sorted({*present, *self.positive})
        alike = dict(zip(words, as_words(np.array(words)).tolist()))
        named, known = ({alike[word] for word in each} for each in (self.positive, present))
        for word in self.positive:
            if alike[word] not in known:
                raise ConfigError(f"data.positive = {word!r}: no row has this label: {nearest(word, present)}")
        others = sorted(word for word in present if alike[word] not in named)
        if not others:
            raise ConfigError("data.positive: all rows' labels are among them, so that there is one class")
        each: list[Labels] = [self.rules.classes(table.label) for table in tables]
        return each, class_names(others, self.positive)


def _rows(
    before: Sequence[tuple[int, str, CellTable]], pieces: Sequence[tuple[int, str, CellTable]], drawn: bool
) -> FileRows | None:
    """Where tables' rows stand in their files; None where they stand so in the data set, however they are read.

    Args:
        before: of all files' tables the client, the part, and the rows.
        pieces: likewise of what became samples.
        drawn: whether some of them were drawn for testing.
    """
    each = [
        [(str(table.path), table.lines) for _, _, table in sorted(these, key=lambda piece: _order(*piece[:2]))]
        for these in (before, pieces)
    ]
    rows = rows_by_lines(each[0], each[1], drawn=drawn)
    gaps = len(rows.place) < rows.total or any(is_missing(c).any() for _, _, t in pieces for c in t.cells.values())
    return rows if drawn or gaps else None


def _order(client: int, part: str) -> tuple[int, int]:
    return client, IN_ORDER.index(part)


def _not_here(source: str, part: str) -> str:
    return f"{source} has {part}; in a simulation data.target and data.public give such"


def _with_owners(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """The same with a note on whom each number stands for."""
    named = ", ".join(f"{owner} is {name}" for owner, name in enumerate(names[:NAMED]))
    more = f", and so on to {len(names) - 1}" if len(names) > NAMED else ""
    return replace(dataset, notes=(f"owners in the order of their names: {named}{more}", *dataset.notes))


def _joined(owns: Sequence[Own], called: Sequence[str], task: LearningTask = CLASSIFICATION) -> Dataset:
    """Clients' own samples as one data set, given what each client is called."""
    for own in owns:
        for part in NOT_HERE:
            if len(getattr(own, part.replace("/", "_"))):
                raise ConfigError(_not_here(own.source, part))
        if own.unlabelled:
            signs = not any(each.names for each in owns) and {y for each in owns for y in each.labels} == {1}
            also = "; -1 is read as no label: where -1 and 1 are the labels, write 0 and 1" if signs else ""
            raise ConfigError(
                f"{own.source} has training samples without labels; in a simulation data.labelled_fraction gives "
                f"such{also}"
            )
        there = f"{owns[0].source}; data.size and data.channels make images alike"
        check_alike(f"{own.source}: a sample", own.x, there, owns[0].x)
    worded = [own.names is not None for own in owns]
    if any(worded) and not all(worded):
        raise ConfigError(of_two_kinds(owns[worded.index(True)].source, owns[worded.index(False)].source))
    names = tuple(sorted({word for own in owns for word in own.names or ()}))
    rows = [np.concatenate([own.train, own.validation, own.test]) for own in owns]
    y = [np.array([names.index(word) for word in own.names])[own.y] if own.names else own.y for own in owns]
    kind = np.concatenate([np.repeat([0, 1, 2], [len(o.train), len(o.validation), len(o.test)]) for o in owns])
    x = np.concatenate([own.x[r] for own, r in zip(owns, rows)])
    notes = [note for own in owns for note in own.notes]
    each_rows = [None if own.places is None else FileRows(own.places[r], len(r), True) for own, r in zip(owns, rows)]
    notes += doubtful_words({who: own.names for who, own in zip(called, owns) if own.names})
    mean, std = channel_statistics(x, np.flatnonzero(kind == 0))
    said: dict[str, Any] = {
        "owner": np.repeat(np.arange(len(owns)), [len(r) for r in rows]).astype(np.int64),
        "held_out": kind == 2 if (kind == 2).any() else None,
        "validation": kind == 1 if (kind == 1).any() else None,
        "rows": one_after_another([(each, len(r)) for each, r in zip(each_rows, rows)]),
    }
    outcomes = [own.outcomes.take(r) for own, r in zip(owns, rows) if own.outcomes is not None]
    if outcomes:
        return Dataset.of_outcomes(x, task, outcomes, mean, std, notes=tuple(dict.fromkeys(notes)), **said)
    labels = np.concatenate([each[r] for each, r in zip(y, rows)]).astype(np.int64)
    if not names and (note := check_classes(owns[0].source, np.unique(labels), len(labels))):
        notes.append(note)
    classes = len(names) or int(labels.max()) + 1
    return Dataset(x, labels, classes, mean, std, label_names=names, notes=tuple(dict.fromkeys(notes)), **said)
