"""Clients' own files, as a deployment reads them: .csv tables, images, arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fedtl.choice import ConfigError, nearest
from fedtl.data.arrays import UNLABELLED, numbered, samples
from fedtl.data.dataset import Dataset, channel_statistics
from fedtl.data.own.cells import CellTable, is_missing, read_cells
from fedtl.data.own.columns import ColumnRules, Missing, decide, without_gaps
from fedtl.data.own.part import TEST, TRAIN, VALIDATION
from fedtl.data.own.read import Own, read_own
from fedtl.data.own.table import labels_of, test_rows
from fedtl.data.settings import DataChoice

PARTS = (TRAIN, VALIDATION, TEST)
NOT_HERE = ("target_train", "target_test", "public")


class Files(DataChoice):
    """Clients' own files: a folder with one .csv file or one folder per client, or one .csv file.

    - A folder of .csv files, in the order of their names clients 0, 1, ... ``test_share`` of a file's rows are test
      data, drawn as a real client draws them (``fedtl deploy client``).
    - A folder of folders, each a client's as a deployment reads it: ``train.csv`` and ``test.csv``, ``CLASS/*.png``,
      ``train/CLASS/*.png`` and ``test/CLASS/*.png``, ``train.npz`` and ``test.npz``, and perhaps ``validation``.
    - One .csv file: the column ``owner`` says whose each row is; without one, the partition divides the rows.

    Labels are whole numbers from 0, or words, which are numbered in their order. Columns of .csv files are separated by
    commas, semicolons, tabs or bars; they hold numbers, or yes and no, or true and false.

    Attributes:
        path: the folder or the file.
        label: the column with the class.
        owner: the column of a single file that says whose a row is.
        positive: the labels that are class 1; all others are class 0. Classes are as they stand if not given.
        missing: what becomes of a gap (an empty cell, "?", "NA"): "error"; its row is left out, "drop"; or it gets the
            column's "mean" or "median", and in columns of words the most frequent one. These follow from the clients'
            own sums and medians over their training rows.
        indicators: whether columns with gaps each get another one that says where they were.
        categorical: columns of words, each of which becomes a column of zeros and ones.
        leave_out: columns that are not used.
    """

    default_partition: ClassVar[dict[str, Any]] = {"name": "natural"}

    name: str = "files"
    path: str = Field(min_length=1)
    label: str = "label"
    owner: str | None = None
    positive: tuple[str, ...] = ()
    missing: Missing = "error"
    indicators: bool = False
    categorical: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _fill_goes_with_indicators(self) -> Files:
        if self.indicators and self.missing not in ("mean", "median"):
            raise ValueError(f"indicators = true needs missing = 'mean' or 'median': {self.missing!r} fills no gap")
        return self

    def load(self) -> Dataset:
        """See :class:`~fedtl.data.settings.DataChoice`."""
        place = self.place()
        try:
            if place.is_dir():
                entries = sorted(each for each in place.iterdir() if not each.name.startswith((".", "_")))
                clients = [each for each in entries if each.is_dir() or each.suffix.lower() in (".csv", ".data")]
                if not clients:
                    raise ConfigError(f"data.path = {self.path!r}: the folder has no .csv file and no folder")
                return self._of_clients(clients)
            if place.is_file():
                return self._of_file(place)
        except OSError as error:
            raise ConfigError(f"data.path = {self.path!r} cannot be read: {error.strerror or error}") from error
        raise ConfigError(f"data.path = {self.path!r}: there is no such file or folder")

    def place(self) -> Path:
        """Where the files are."""
        return Path(self.path).expanduser()

    def _of_clients(self, entries: Sequence[Path]) -> Dataset:
        if self.owner is not None:
            raise ConfigError(f"data.owner = {self.owner!r}: in a folder each entry is a client; leave it out")
        if all(_is_table(entry) for entry in entries):
            return self._of_tables([self._parts(entry) for entry in entries])
        tables = [entry for entry in entries if _is_table(entry)]
        if tables:
            raise ConfigError(
                f"data.path = {self.path!r}: {tables[0].name} is a table, and others are none; keep one kind"
            )
        self._only_of_tables()
        owns = [read_own(str(e), size=self.size, channels=self.channels, test_share=self.test_share) for e in entries]
        return _joined(owns)

    def _only_of_tables(self) -> None:
        fields = type(self).model_fields
        for key in ("label", "positive", "missing", "indicators", "categorical", "leave_out"):
            if (value := getattr(self, key)) != fields[key].default:
                raise ConfigError(f"data.{key} = {value!r}: only .csv files have columns; leave it out")

    def _parts(self, entry: Path) -> dict[str, CellTable]:
        """A client's rows by part, before any is drawn for testing."""
        if entry.is_file():
            return {TRAIN: read_cells(entry, self.label)}
        files = {part: entry / f"{part}.csv" for part in PARTS}
        parts = {part: read_cells(file, self.label) for part, file in files.items() if file.is_file()}
        if TRAIN not in parts:
            raise ConfigError(f"{entry} has no train.csv")
        return parts

    def _of_file(self, file: Path) -> Dataset:
        table = read_cells(file, self.label)
        if self.owner is None:
            return self._of_tables([{TRAIN: table}], owned=False)
        if self.owner not in table.cells:
            raise ConfigError(
                f"data.owner = {self.owner!r}: {file} has no such column: {nearest(self.owner, table.cells)}"
            )
        owners = table.cells.pop(self.owner)
        if (nobodys := is_missing(owners)).any():
            line = table.lines[nobodys][0]
            raise ConfigError(f"{file}: line {line}, column {self.owner!r}: the cell does not say whose the row is")
        return self._of_tables([{TRAIN: table.rows(owners == name)} for name in np.unique(owners)])

    def _of_tables(self, clients: Sequence[Mapping[str, CellTable]], owned: bool = True) -> Dataset:
        flat = [(client, part, table) for client, parts in enumerate(clients) for part, table in parts.items()]
        rules = ColumnRules(self.missing, self.indicators, self.categorical, self.leave_out)
        whole, notes = without_gaps([table for _, _, table in flat], rules)
        pieces: list[tuple[int, str, CellTable]] = []
        for (client, part, _), table in zip(flat, whole):
            if part != TRAIN or not owned or len(clients[client]) > 1:
                pieces.append((client, part, table))
                continue
            drawn = test_rows(table.label, self.test_share)
            pieces += [
                (client, kind, table.rows(rows)) for kind, rows in ((TRAIN, ~drawn), (TEST, drawn)) if rows.any()
            ]
        columns = decide([table for _, part, table in pieces if part == TRAIN], rules)
        x = np.concatenate([np.concatenate([c.encode(table) for c in columns], axis=1) for _, _, table in pieces])
        y, names, classes = self._classes([table for _, _, table in pieces])
        sizes = [len(table) for _, _, table in pieces]
        owner = np.repeat([client for client, _, _ in pieces], sizes).astype(np.int64)
        kinds = np.repeat([part for _, part, _ in pieces], sizes)
        stored = samples(f"data.path = {self.path!r}", x)
        mean, std = channel_statistics(stored[kinds == TRAIN])
        read_as = (note for _, _, table in pieces for note in table.notes)
        return Dataset(
            stored,
            y,
            classes,
            mean,
            std,
            owner=owner if owned else None,
            held_out=kinds == TEST if owned and (kinds == TEST).any() else None,
            validation=kinds == VALIDATION if (kinds == VALIDATION).any() else None,
            label_names=names,
            notes=tuple(dict.fromkeys([*notes, *read_as])),
        )

    def _classes(self, tables: Sequence[CellTable]) -> tuple[NDArray[np.int64], tuple[str, ...], int]:
        """Labels ``[n]``, the classes' names and their number."""
        words = np.concatenate([table.label for table in tables])
        if (words == str(UNLABELLED)).any():
            raise ConfigError(f"data.path = {self.path!r}: a row's label is -1; leave out rows without a label")
        if self.positive:
            present = set(map(str, np.unique(words)))
            for word in self.positive:
                if word not in present:
                    raise ConfigError(f"data.positive = {word!r}: no row has this label: {nearest(word, present)}")
            others = ", ".join(sorted(present - set(self.positive)))
            if not others:
                raise ConfigError("data.positive: all rows' labels are among them, so that there is one class")
            return np.isin(words, self.positive).astype(np.int64), (others, ", ".join(self.positive)), 2
        read = labels_of([(str(table.path), table.label, 0) for table in tables])
        y, names = numbered([(str(table.path), each) for table, each in zip(tables, read)])
        return y, names or (), len(names) if names else int(y.max()) + 1


def _is_table(entry: Path) -> bool:
    return entry.is_file() or (entry / "train.csv").is_file()


def _joined(owns: Sequence[Own]) -> Dataset:
    """Clients' images or arrays as one data set."""
    for own in owns:
        for part in NOT_HERE:
            if len(getattr(own, part)):
                raise ConfigError(
                    f"{own.source} has {part.replace('_', '/')}, which data.target and data.public give here"
                )
        if own.unlabelled:
            raise ConfigError(
                f"{own.source} has training samples without labels; data.labelled_fraction makes such here"
            )
        if own.x.shape[1:] != owns[0].x.shape[1:] or own.x.dtype != owns[0].x.dtype:
            raise ConfigError(
                f"{own.source}: a sample is {own.x.dtype} {list(own.x.shape[1:])}, but {owns[0].x.dtype} "
                f"{list(owns[0].x.shape[1:])} in {owns[0].source}; data.size and data.channels make images alike"
            )
    worded = [own.names is not None for own in owns]
    if any(worded) and not all(worded):
        raise ConfigError(
            f"labels are words in {owns[worded.index(True)].source} and numbers in {owns[worded.index(False)].source}"
        )
    names = tuple(sorted({word for own in owns for word in own.names or ()}))
    rows = [np.concatenate([own.train, own.validation, own.test]) for own in owns]
    y = [np.array([names.index(word) for word in own.names])[own.y] if own.names else own.y for own in owns]
    kinds = [np.repeat([0, 1, 2], [len(own.train), len(own.validation), len(own.test)]) for own in owns]
    x, labels, kind = (
        np.concatenate(parts)
        for parts in ([own.x[r] for own, r in zip(owns, rows)], [each[r] for each, r in zip(y, rows)], kinds)
    )
    mean, std = channel_statistics(x[kind == 0])
    return Dataset(
        x,
        labels.astype(np.int64),
        len(names) or int(labels.max()) + 1,
        mean,
        std,
        owner=np.repeat(np.arange(len(owns)), [len(r) for r in rows]).astype(np.int64),
        held_out=kind == 2 if (kind == 2).any() else None,
        validation=kind == 1 if (kind == 1).any() else None,
        label_names=names,
        notes=tuple(dict.fromkeys(note for own in owns for note in own.notes)),
    )
