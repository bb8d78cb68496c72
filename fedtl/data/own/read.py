"""What one participant of a deployment holds on its own disk."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.data.arrays import MOST_CLASSES, UNLABELLED, check_alike, check_layout, doubts, numbered, samples
from fedtl.data.columns import Columns
from fedtl.data.dataset import Samples
from fedtl.data.federation import Domain, Federation, Shards
from fedtl.data.memory import enough_memory
from fedtl.data.own.arrays import call, read_npz
from fedtl.data.own.cells import CellTable
from fedtl.data.own.columns import ColumnRules, Summaries, as_decided, summary, unknown_words
from fedtl.data.own.images import Change, changed, read_images
from fedtl.data.own.lines import SUFFIXES as TABLES
from fedtl.data.own.lines import difference, is_table, tables_in
from fedtl.data.own.listing import unread
from fedtl.data.own.part import (
    DOMAIN,
    FRAME,
    HELD_OUT,
    PARTS,
    PUBLIC,
    TARGET_TEST,
    TARGET_TRAIN,
    TEST,
    TRAIN,
    VALIDATION,
    Part,
    has_labels,
)
from fedtl.data.own.rules import TableRules
from fedtl.data.own.table import read_table, read_tables
from fedtl.data.schema import DataSchema
from fedtl.data.validation import drawn_for_validation
from fedtl.data.views.images import LARGEST_SIDE
from fedtl.moments import Sums
from fedtl.tasks import CLASSIFICATION, LearningTask
from fedtl.tasks.outcomes import Outcomes, joined

DOMAIN_NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,59}", re.ASCII)
"""Of a domain, which names files and scores."""


@dataclass(frozen=True)
class Undecided:
    """Tables whose columns become numbers only when all participants' are known.

    Attributes:
        rules: how cells become numbers.
        tables: one for each part that the participant has, in the order of :attr:`Own.x`.
        training: which of them is the training part.
    """

    rules: ColumnRules
    tables: tuple[CellTable, ...]
    training: tuple[bool, ...]

    def summaries(self) -> Summaries:
        """What the participant says of its columns."""
        return summary(self.tables, self.training, self.rules)


@dataclass(frozen=True)
class Own:
    """A participant's samples in one array, and what each is for.

    Attributes:
        source: where they are from, for messages.
        x: samples ``[n, *shape]``; images ``[n, channels, height, width]`` uint8, other data float32.
        y: labels ``[n]`` from 0; -1 for a training sample without a label, and where ``target_train`` and ``public``
            stand.
        train, test, target_train, target_test, public: places in ``x``, each possibly none. A client without test
            samples takes part in training and is not scored.
        names: the words that labels are places in, sorted; None if labels are the classes' own numbers.
        server: whether these are the server's data, which has no training samples.
        notes: sentences on what may not be meant as it was read, for the participant's own terminal.
        validation: places in ``x`` of labelled samples that models are scored on and not trained with, possibly none.
        outcomes: what is predicted of each of ``x``, where that is no label; ``y`` then says only who has one.
        task: what they are read for.
        columns: of tables, what their columns are called, in their order; as in :class:`Part`.
        held_out: of the server, places in ``x`` of each domain that no client has, by its name.
        domain: of a client, the name of the domain that its samples are of; empty where it does not say.
        table: of tables, what their columns have become.
        undecided: of tables whose columns become numbers only when all participants' are known, see :meth:`decided`;
            ``x`` has no numbers then, ``[n, 0]``.
        positive: of tables that are read by rules, the labels that are class 1 by these; None of others.
        others: of tables that are read by such rules, the labels that are class 0; None where no rule names class 1.
        places: of samples that were drawn for testing out of a folder, where each of ``x`` stands there.
    """

    source: str
    x: Samples
    y: NDArray[np.int64]
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    target_train: NDArray[np.int64]
    target_test: NDArray[np.int64]
    public: NDArray[np.int64]
    names: tuple[str, ...] | None = None
    server: bool = False
    notes: tuple[str, ...] = ()
    validation: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    outcomes: Outcomes | None = None
    task: LearningTask = CLASSIFICATION
    columns: tuple[str, ...] = ()
    held_out: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    domain: str = ""
    table: Columns | None = None
    undecided: Undecided | None = None
    positive: tuple[str, ...] | None = None
    others: tuple[str, ...] | None = None
    places: NDArray[np.int64] | None = None

    def decided(self, columns: Columns) -> Own:
        """The same with numbers, now that it is known what columns become; as it is where it had them already.

        Raises:
            ConfigError: its tables have other columns, or cells that are no such numbers.
        """
        if self.undecided is None:
            return self
        tables, rules = self.undecided.tables, self.undecided.rules
        if (mine := tuple(tables[0].cells)) != columns.names:
            raise ConfigError(f"{tables[0].path}: {difference(mine, columns.names)} in this experiment")
        for column in columns.each:  # or words of a column of numbers would count who has which number
            becomes = (bool(column.words), column.fill is not None)
            if becomes != (column.name in rules.categorical, rules.fills) or (
                column.indicator and not rules.indicators
            ):
                raise ConfigError(
                    f"{tables[0].path}: this experiment makes of the column {column.name!r} what data.missing, "
                    "data.categorical and data.indicators do not say here"
                )
        numbers = [(str(table.path), as_decided(table, columns)) for table in tables]
        strange = [(table, *each) for table in tables for each in unknown_words(table, columns)]
        unknown = [
            f"{table.path}: column {column.name!r}: {rows.sum()} of {len(table)} rows have a word that no training row "
            f"of the clients had that were asked, as {str(table.cells[column.name][rows][0])!r}; it counts as none"
            for table, column, rows in strange
        ]
        doubtful = [note for where, x in numbers for note in doubts(where, x)]
        notes = tuple(dict.fromkeys([*self.notes, *unknown, *doubtful]))
        x = np.concatenate([samples(where, x) for where, x in numbers])
        return replace(self, x=x, notes=notes, table=columns, undecided=None)

    def with_validation(self, share: float, seed: int, client: int) -> Own:
        """The same with ``share`` of the training samples that have labels as validation samples.

        As it is where it brings validation samples of its own, or ``share`` is 0.

        Args:
            share: as ``data.validation_share``.
            seed: the run's.
            client: which of the clients this is.

        Raises:
            ConfigError: there is a single such training sample.
        """
        if not share or len(self.validation):
            return self
        labelled = self.train[self.y[self.train] != UNLABELLED]
        chosen = labelled[drawn_for_validation(len(labelled), share, seed, client)]
        return replace(self, train=self.train[~np.isin(self.train, chosen)], validation=chosen)

    @property
    def unlabelled(self) -> bool:
        """Whether some training samples have no label."""
        return bool((self.y[self.train] == UNLABELLED).any())

    @property
    def labels(self) -> list[int]:
        """The labels that samples here have, ascending, each once."""
        present: list[int] = np.unique(self.y[self.y != UNLABELLED]).tolist()
        return present

    def describe(self) -> dict[str, Any]:
        """What the server learns of a participant's data, besides sums; JSON's types alone."""
        labelled = self.y[self.train] != UNLABELLED
        if self.outcomes is not None:
            values = self.outcomes.values
            kind = {"shape": list(values.shape[1:]), "dtype": str(values.dtype), "outputs": self.outcomes.outputs}
            return {**self._described(labelled), "largest_label": None, "labels": None, "outcomes": kind}
        return self._described(labelled)

    def _described(self, labelled: NDArray[np.bool_]) -> dict[str, Any]:
        """What every task's description says."""
        return {
            **({"columns": list(self.columns)} if self.columns else {}),
            **({"boolean": list(self.table.boolean)} if self.table is not None and self.table.boolean else {}),
            "train": int(labelled.sum()),
            "unlabelled": len(self.target_train) if labelled.all() else len(self.train),
            "test": len(self.test),
            "validation": len(self.validation),
            "target_test": len(self.target_test),
            "public": len(self.public),
            "shape": list(self.x.shape[1:]),
            "dtype": str(self.x.dtype),
            "largest_label": None if self.names is not None else int(self.y.max(initial=UNLABELLED)),
            "labels": None if self.names is not None else self.labels,
            "names": None if self.names is None else list(self.names),
            **({"domain": self.domain} if self.domain else {}),
            **({} if self.others is None or len(self.others) > MOST_CLASSES else {"others": list(self.others)}),
        }

    def as_federation(self, frame: DataSchema, client: int, clients: int) -> Federation:
        """The federation as this participant sees it: all others hold nothing.

        Where some training samples have no label, all of them are the unlabelled ones, and those with a label, in
        order, the training samples, as with ``data.labelled_fraction``. A sample without a label gets a 0, which
        means nothing.

        Args:
            frame: what all participants' samples have in common.
            client: which of the clients this is; for the server's data it does not matter.
            clients: number of clients.

        Raises:
            ConfigError: these samples or labels are not as the frame says.
        """
        if not 0 <= client < clients:
            raise ValueError(f"client is {client}; there are {clients}, who are 0..{clients - 1}")
        self._check_samples(frame)
        y = self._classes(frame) if frame.outcomes is None else np.minimum(self.y, 0)
        outcomes = self._outcomes(frame)
        nobody, nothing = Shards.none(clients), self.public[:0]

        def mine(places: NDArray[np.int64]) -> Shards:
            return Shards.of([places]).moved(before=client, after=clients - 1 - client)

        train, target = self.train, None
        if self.unlabelled:
            target = Domain(mine(train), nobody, nothing)
            train = train[y[train] != UNLABELLED]
        elif self.server and len(self.target_test):
            target = Domain(nobody, nobody, self.target_test)
        elif len(self.target_train) + len(self.target_test):
            target = Domain(mine(self.target_train), mine(self.target_test), nothing)
        return Federation(
            x=self.x,
            y=np.maximum(y, 0),
            classes=frame.classes,
            scale=frame.scale,
            shift=frame.shift,
            train=nobody if self.server else mine(train),
            test=nobody if self.server else mine(self.test),
            server_test=self.test if self.server else nothing,
            label_names=frame.labels,
            target=target,
            public=self.public,
            validation=mine(self.validation) if len(self.validation) else None,
            task=frame.task,
            outcomes=outcomes,
            held_out=self.held_out,
            columns=frame.columns,
        )

    def of_task(self, task: LearningTask) -> Own:
        """The same, read for a task that may have other options.

        Raises:
            ConfigError: what is predicted of these samples is something else.
        """
        if task.labelled and self.outcomes is None:
            return replace(self, task=task)
        if self.outcomes is None or type(task) is not type(self.task):
            raise ConfigError(
                f"{self.source} is read for data.task = {self.task.name!r}, and this experiment's is {task.name!r}; "
                f"fedtl deploy client --task {task.name} reads it so"
            )
        with_one, values = self.y != UNLABELLED, self.outcomes.values
        read = task.outcomes(f"{self.source}: y", values[with_one], int(with_one.sum()))
        all_values = np.zeros((len(values), *read.values.shape[1:]), read.values.dtype)
        all_values[with_one] = read.values
        return replace(self, task=task, outcomes=replace(read, values=all_values, names=self.outcomes.names))

    def outcome_sums(self) -> Sums | None:
        """The task's own sums over this client's training and validation samples; None where it has none."""
        rows = np.concatenate([self.train, self.validation])
        if self.outcomes is None or not self.task.summed or not len(rows):
            return None
        return self.task.sums(self.outcomes.values[rows])

    def _outcomes(self, frame: DataSchema) -> Outcomes | None:
        """What is predicted of all samples, in the frame's terms."""
        if frame.outcomes is None and self.outcomes is None:
            return None
        if frame.outcomes is not None and (self.y == UNLABELLED).all():
            return frame.outcomes.none_of(len(self.y))
        mine, kind = self.of_task(frame.task).outcomes, frame.outcomes
        if mine is None or kind is None:
            raise ConfigError(f"{self.source}: labels do not go with this experiment's outcomes")
        if mine.values.shape[1:] != kind.values.shape[1:]:
            raise ConfigError(
                f"{self.source}: what is predicted of a sample has shape {list(mine.values.shape[1:])}, but "
                f"{list(kind.values.shape[1:])} in this experiment"
            )
        if mine.outputs > kind.outputs:
            raise ConfigError(
                f"{self.source} needs {mine.outputs} outputs, but this experiment's model has {kind.outputs}"
            )
        return replace(kind, values=mine.values)

    def _check_samples(self, frame: DataSchema) -> None:
        if self.x.shape[1:] != frame.shape or self.x.dtype != frame.dtype:
            raise ConfigError(
                f"{self.source}: a sample is {self.x.dtype} {list(self.x.shape[1:])}, but {frame.dtype} "
                f"{list(frame.shape)} in this experiment"
            )

    def _classes(self, frame: DataSchema) -> NDArray[np.int64]:
        """``y`` as the frame's classes; -1 where there is none."""
        y = self.y
        if self.names is not None:
            number = [*(_class_of(word, frame.labels, self.source) for word in self.names), UNLABELLED]
            y = np.array(number, np.int64)[y]  # -1 is the last
        if y.max(initial=UNLABELLED) >= frame.classes:
            raise ConfigError(
                f"{self.source} has the label {y.max()}, but this experiment has {frame.classes} classes; labels begin "
                "at 0"
            )
        return y


def read_own(
    path: str,
    *,
    label: str | None = None,
    task: LearningTask = CLASSIFICATION,
    rules: TableRules | None = None,
    size: int | None = None,
    channels: Literal[1, 3] | None = None,
    test_share: float = 0.25,
    server: bool = False,
) -> Own:
    """Read a participant's data.

    - A folder with ``train.npz`` and ``test.npz``: ``x`` [n, ...] (bytes are images [n, channels, height, width], or
      [n, height, width] with one channel; other numbers become float32) and ``y`` [n], whole numbers from 0 or words.
    - A folder with ``train.csv`` and ``test.csv``: a row per sample; the column ``label`` is its class, a whole number
      or a word, all other columns are numbers; commas, semicolons, tabs or bars separate them. One .csv file is both:
      ``test_share`` of its rows are for testing. Parquet, ``train.parquet`` and so on, is as good.
    - A folder with ``train/CLASS/*.png`` and ``test/CLASS/*.png`` (or another of Pillow's formats), or with
      ``CLASS/*.png`` alone: then ``test_share`` of the files are for testing. Which, a hash of a file's name and class
      decides, so that each stays where it is when others are added. Classes are words.
    - ``"package.module:function"``: called without arguments, it returns a dict of arrays ``x``, ``y``, ``x_test`` and
      ``y_test``, and if need be ``x_validation``, ``y_validation``, ``x_target``, ``x_target_test``,
      ``y_target_test`` and ``x_public``.

    A folder with ``train`` may also have validation samples as ``validation``; any may have another domain's samples as
    ``target/train`` (without labels) and ``target/test``, and ``public`` (without labels), of the same kind, and a file
    ``domain.txt`` with the name of the domain that its own samples are of. The label -1 in the training part stands for
    a sample without one. Without a test part the client takes part in training and is not scored. The training part may
    be missing only where there is ``target/train``. Nothing is ever unpickled.

    Args:
        path: the folder, the file or the function.
        label: the column of .csv files that is the class; "label" if not given. Of another task the columns with what
            is predicted, separated by commas.
        task: what is predicted, of which ``y`` and the labels' columns then hold the outcomes.
        rules: how tables are read; as above if not given, and then ``label`` counts for nothing. Where by these others'
            rows decide what columns become, see :attr:`Own.undecided`.
        size: height and width that images are resized to (bilinear, with antialiasing).
        channels: of images: grey ones are repeated, of coloured ones the luma is taken.
        test_share: as above.
        server: read the server's data: ``test``, ``target/test``, ``public``, and ``held-out/NAME`` of each domain that
            no client has, each of which may be missing, or ``frame.json`` alone. A file, a function and a folder
            ``CLASS/*.png`` are then read for their test part, of which a .csv file and such a folder are the whole.

    Raises:
        ConfigError: the data are not there or not what they should be; one sentence that names the file.
    """
    if not 0 <= test_share < 1:
        raise ConfigError(f"test_share = {test_share:g}: should be 0 or more and less than 1")
    for key, value in (("size", size), ("channels", channels)):
        if value is not None and value < 1:
            raise ConfigError(f"{key} = {value}: should be greater than 0")
    if size is not None and size > LARGEST_SIDE:
        raise ConfigError(f"size = {size}: should be less than or equal to {LARGEST_SIDE}")
    try:
        place = Path(path).expanduser()
    except RuntimeError as error:  # pathlib's word for ~somebody who is not there
        raise ConfigError(f"{path}: there is no such file or folder") from error
    wanted = (TEST, TARGET_TEST, PUBLIC, *_held_out(place)) if server else PARTS
    kind = "table" if rules is not None and place.is_file() else kind_of(place, path)
    if label is not None and kind not in ("tables", "table"):
        raise ConfigError(f"label = {label!r}: only tables have columns, but {path} is none; leave it out")
    column = "label" if label is None else label
    if rules is None and not task.labelled:
        rules = TableRules(tuple(name.strip() for name in column.split(",")), task=task)
    framed = server and kind == "images" and [e.name for e in place.iterdir() if e.name[0] != "."] == [FRAME]
    if kind == "images" and not task.labelled and not framed:
        raise ConfigError(f"{path}: folders of images say classes, and data.task is {task.name!r}; use .npz files")

    def change(where: str, x: Samples) -> Samples:
        return changed(where, x, size, channels)

    try:
        with enough_memory(path):
            if kind in ("tables", "table") and rules is not None:
                parts = rules.parts(place, wanted, test_share)
            else:
                parts = _read(kind, path, place, wanted, column, test_share, change, task)
            if kind != "images":
                parts = {name: replace(part, x=change(part.where, part.x)) for name, part in parts.items()}
    except OSError as error:
        raise ConfigError(f"{error.filename or path} cannot be read: {error.strerror or error}") from error
    if not parts and server and (place / FRAME).is_file():
        frame = DataSchema.read(place / FRAME)
        parts[PUBLIC] = Part(path, np.empty((0, *frame.shape), frame.dtype))
    if not parts:
        raise ConfigError(f"{path} has none of {', '.join(wanted)}, as .npz, .csv, .parquet or folders of images")
    if not server and TRAIN not in parts and TARGET_TRAIN not in parts:
        raise ConfigError(f"{path} has nothing to train with: neither {TRAIN} nor {TARGET_TRAIN}")
    own = gathered(path, parts, server, task)
    if kind in ("npz", "tables"):
        notes = unread_parts(place, ".npz" if kind == "npz" else next(iter(tables_in(place, wanted).values())).suffix)
        own = replace(own, notes=(*own.notes, *notes))
    if rules is not None and kind in ("tables", "table"):
        told = [part.others for part in parts.values() if part.others is not None]
        others = tuple(sorted({word for each in told for word in each})) if told else None
        own = replace(_with_undecided(own, parts, rules.columns), positive=rules.positive, others=others)
    return own if server else replace(own, domain=_domain(place))


def _with_undecided(own: Own, parts: Mapping[str, Part], rules: ColumnRules) -> Own:
    tables = [(name, parts[name].undecided) for name in _in_order(parts)]
    undecided = [(name, table) for name, table in tables if table is not None]
    if not undecided:
        return own
    kept = Undecided(rules, tuple(table for _, table in undecided), tuple(name == TRAIN for name, _ in undecided))
    return replace(own, undecided=kept)


def _in_order(parts: Mapping[str, Part]) -> list[str]:
    """The names of a participant's parts in the order of :attr:`Own.x`."""
    order = [*PARTS, *(name for name in parts if name.startswith(HELD_OUT))]
    return [name for name in order if name in parts]


def unread_parts(folder: Path, suffix: str) -> tuple[str, ...]:
    """A sentence on what a participant's folder of ``train.npz``, or of tables, has besides its parts."""
    parts = [*PARTS, *_held_out(folder)]
    files = {folder / f"{part}{each}" for part in parts for each in (".npz", *TABLES)}
    what = f"a participant's parts are {', '.join(f'{part}{suffix}' for part in PARTS)}"
    within = sorted({part.partition("/")[0] for part in parts if "/" in part})
    return unread(folder, {*files, folder / DOMAIN, folder / FRAME}, what, within)


def _held_out(place: Path) -> list[str]:
    """The parts of the server's folder that are domains which no client has."""
    folder = place / HELD_OUT
    if not folder.is_dir():
        return []
    entries = [each for each in folder.iterdir() if each.is_dir() or each.suffix == ".npz" or is_table(each)]
    names = sorted({each.name if each.is_dir() else each.stem for each in entries if not each.name.startswith(".")})
    for name in names:
        check_domain(name, str(folder))
    return [f"{HELD_OUT}{name}" for name in names]


def _domain(place: Path) -> str:
    """What a client's folder says of its domain; empty where it says nothing."""
    file = place / DOMAIN
    if not file.is_file():
        return ""
    try:
        name = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read as a domain's name: {error}") from error
    check_domain(name, str(file))
    return name


def check_domain(name: str, where: str) -> None:
    """Check the name of a domain.

    Raises:
        ConfigError: it would be no proper part of a score's name; ``where`` begins the message.
    """
    if not DOMAIN_NAME.fullmatch(name):
        raise ConfigError(
            f"{where}: {name[:60]!r} cannot be the name of a domain; take letters, digits, '_', '-' and '.', 60 at most"
        )


def _read(
    kind: str,
    path: str,
    place: Path,
    wanted: Sequence[str],
    label: str,
    test_share: float,
    change: Change,
    task: LearningTask,
) -> dict[str, Part]:
    if kind == "function":
        return call(path, wanted, task)
    if kind == "table":
        return read_table(place, wanted, label, test_share)
    if kind == "tables":
        return read_tables(place, wanted, label)
    if kind == "npz":
        return read_npz(place, wanted, task)
    return read_images(place, wanted, test_share, change)


def kind_of(place: Path, path: str) -> str:
    """What ``path`` is: "function", "table" (a file), or a folder of "npz", "tables" or "images"."""
    if place.is_dir():
        wanted = [*PARTS, *_held_out(place)]
        arrays, tables = any((place / f"{part}.npz").is_file() for part in wanted), tables_in(place, wanted)
        if arrays and tables:
            ending = next(iter(tables.values())).suffix
            raise ConfigError(f"{path} holds both .npz and {ending} files of {', '.join(PARTS)}; keep one kind")
        return "npz" if arrays else "tables" if tables else "images"
    if place.is_file():
        if is_table(place):
            return "table"
        raise ConfigError(
            f"{path}: a single file must be .csv or .parquet; others go into a folder, as train.npz and test.npz"
        )
    if ":" in path:
        return "function"
    raise ConfigError(f"{path}: there is no such file or folder")


def gathered(path: str, parts: dict[str, Part], server: bool, task: LearningTask = CLASSIFICATION) -> Own:
    """All parts as one array, checked to be alike."""
    present = [(name, parts[name]) for name in _in_order(parts)]
    first = present[0][1]
    for _, part in present:
        check_alike(f"{part.where}: a sample", part.x, first.where, first.x)
    note = check_layout(f"{first.where}: x", first.x)
    y, names = numbered([(part.where, part.y) for name, part in present if has_labels(name) and part.y is not None])
    ends = np.cumsum([0, *(len(part.x) for _, part in present)])
    places = {name: np.arange(start, end) for (name, _), start, end in zip(present, ends, ends[1:])}
    none = np.arange(0)
    drawn = [part.places for _, part in present if part.places is not None]  # of all parts, or of none
    labels = np.full(ends[-1], UNLABELLED, np.int64)
    labels[np.concatenate([none, *(where for name, where in places.items() if has_labels(name))])] = y
    own = Own(
        source=path,
        x=np.concatenate([part.x for _, part in present]),
        y=labels,
        train=places.get(TRAIN, none),
        test=places.get(TEST, none),
        target_train=places.get(TARGET_TRAIN, none),
        target_test=places.get(TARGET_TEST, none),
        public=places.get(PUBLIC, none),
        names=names,
        server=server,
        validation=places.get(VALIDATION, none),
        outcomes=_outcomes([part for _, part in present]),
        task=task,
        columns=first.columns,
        table=first.table,
        places=np.concatenate(drawn) if drawn else None,
        held_out={n.removeprefix(HELD_OUT): rows for n, rows in places.items() if n.startswith(HELD_OUT)},
        notes=tuple(dict.fromkeys([*(note for _, part in present for note in part.notes), *([note] if note else [])])),
    )
    if own.unlabelled and len(own.target_train) + len(own.target_test):
        raise ConfigError(
            f"{parts[TRAIN].where} has training samples without labels, which do not go with a target, whose samples "
            "are the unlabelled ones; leave one of them out"
        )
    return own


def _outcomes(parts: Sequence[Part]) -> Outcomes | None:
    """All parts' outcomes, zeros of those that have none."""
    kind = next((part.outcomes for part in parts if part.outcomes is not None), None)
    if kind is None:
        return None
    each = [kind.none_of(len(part.x)) if part.outcomes is None else part.outcomes for part in parts]
    return joined(each)


def _class_of(word: str, labels: Sequence[str], source: str) -> int:
    if labels.count(word) == 1:
        return labels.index(word)
    if labels:
        known = ", ".join(labels[:10]) + (", …" if len(labels) > 10 else "")
        raise ConfigError(f"{source} has the label {word!r}, which is none of this experiment's: {known}")
    if not (word.isascii() and word.isdigit() and len(word) < 10):
        raise ConfigError(
            f"{source} has the label {word!r}, but this experiment's classes have no names; labels are whole numbers "
            "from 0"
        )
    return int(word)
