"""What an exported model says of samples."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedtl.choice import ConfigError, nearest
from fedtl.data.arrays import samples
from fedtl.data.columns import Columns
from fedtl.data.dataset import Samples
from fedtl.data.own import arrays as own_arrays
from fedtl.data.own import images as own_images
from fedtl.data.own import lines as own_lines
from fedtl.data.own import table as own_table
from fedtl.data.own.cells import CellTable, is_missing
from fedtl.data.own.columns import as_decided, unknown_words
from fedtl.data.own.part import PUBLIC, TEST, Part
from fedtl.data.own.read import gathered
from fedtl.data.own.rules import TableRules
from fedtl.data.schema import DataSchema
from fedtl.data.views.images import resize, with_channels
from fedtl.export.file import About, OnStored, existing, import_onnx, load_exported, read_about, replacing
from fedtl.metrics import read_metrics
from fedtl.tasks import LearningTask

BLOCK = 500
"""Samples that are given to the model at a time."""

LABEL = "label"
"""The column of a table that is the class, where it has one of this name; as in a participant's own data."""


@dataclass(frozen=True)
class Model:
    """An exported model, of whichever kind of file.

    Attributes:
        frame: what it takes and answers.
        about: what it is.
        logits: of samples as they are stored, ``[n, *shape]`` to ``[n, outputs]``.
    """

    frame: DataSchema
    about: About
    logits: Callable[[Samples], NDArray[np.float32]]


@dataclass(frozen=True)
class InputSamples:
    """Samples to say something of.

    Attributes:
        names: one each: its place, or its file.
        x: as they are stored, ``[n, *shape]``.
        y: their classes ``[n]``, or what else is predicted ``[n, ...]``, where the data say them.
        notes: sentences on what may not be meant as it was read.
    """

    names: Sequence[str]
    x: Samples
    y: NDArray[np.int64] | NDArray[np.float32] | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Numbers:
    """What a model says where that is no class: several labels' probabilities, numbers in their own units, log-risks.

    Attributes:
        samples: what was predicted.
        columns: what the numbers are called.
        values: ``[n, columns]`` float64.
        scores: the task's metrics, where the data say what is to be predicted.
    """

    samples: InputSamples
    columns: tuple[str, ...]
    values: NDArray[np.float64]
    scores: Mapping[str, float]

    def write(self, file: Path) -> None:
        """Write them as .csv: a row per sample with its name and the numbers.

        Raises:
            RunError: the file cannot be written.
        """
        with replacing(file) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as opened:
            rows = csv.writer(opened, lineterminator="\n")
            rows.writerow(["sample", *self.columns])
            for name, row in zip(self.samples.names, self.values):
                rows.writerow([name, *(f"{number:.7g}" for number in row)])


@dataclass(frozen=True)
class Predictions:
    """What a model says of classes.

    Attributes:
        samples: what was predicted.
        labels: the classes' names, or their numbers.
        probabilities: ``[n, classes]`` float32, of each class.
    """

    samples: InputSamples
    labels: tuple[str, ...]
    probabilities: NDArray[np.float32]

    @property
    def classes(self) -> NDArray[np.int64]:
        """The likeliest class of each sample, ``[n]``."""
        return np.asarray(self.probabilities.argmax(1), np.int64)

    @property
    def accuracy(self) -> float | None:
        """The share of the samples whose class it says; None where the data do not say them."""
        return None if self.samples.y is None else float((self.classes == self.samples.y).mean())

    def write(self, file: Path) -> None:
        """Write them as .csv: a row per sample with its name, the likeliest class, and each class's probability.

        Raises:
            RunError: the file cannot be written.
        """
        with replacing(file) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as opened:
            rows = csv.writer(opened, lineterminator="\n")
            rows.writerow(["sample", "label", *(f"p({label})" for label in self.labels)])
            for name, chosen, row in zip(self.samples.names, self.classes, self.probabilities):
                rows.writerow([name, self.labels[chosen], *(f"{p:.7g}" for p in row)])


def open_model(path: str | Path) -> Model:
    """Open a file that ``fedtl export`` wrote, .safetensors or .onnx.

    Raises:
        ConfigError: it is no such file, or what reads it is not installed.
    """
    file = existing(path)
    if file.suffix.lower() == ".onnx":
        return _open_onnx(file)
    if file.suffix.lower() != ".safetensors":
        raise ConfigError(f"{file}: give a model that fedtl export wrote, .safetensors or .onnx")
    module, frame, about = load_exported(file)
    network = OnStored(module, frame).eval()

    def logits(x: Samples) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(network(torch.from_numpy(x)).numpy(), np.float32)

    return Model(frame, about, logits)


def _open_onnx(file: Path) -> Model:
    runtime = import_onnx("onnxruntime")
    try:
        session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # of onnxruntime's own many kinds
        raise ConfigError(f"{file} cannot be read as ONNX: {' '.join(str(error).split()).rstrip('.')}") from error
    about, frame = read_about(session.get_modelmeta().custom_metadata_map, file)

    def logits(x: Samples) -> NDArray[np.float32]:
        return np.asarray(session.run(["logits"], {"x": x})[0], np.float32)

    return Model(frame, about, logits)


def predict(model: Model, samples: InputSamples) -> Predictions | Numbers:
    """Ask a model about samples, :data:`BLOCK` at a time.

    Raises:
        ConfigError: what it says of a sample is no row of a table.
    """
    frame, blocks = model.frame, list[NDArray[np.float64]]()
    if frame.task.per_token:
        raise ConfigError(
            f"a model of data.task = {frame.task.name!r} says something of each token of a sample, which is no row of "
            "a table; fedtl.load_exported opens it"
        )
    for start in range(0, len(samples.x), BLOCK):
        outputs = torch.from_numpy(model.logits(samples.x[start : start + BLOCK]))
        if frame.task.kind == "classification":
            blocks.append(outputs.softmax(1).numpy())
        else:
            blocks.append(frame.task.predictions(outputs, frame.outcomes).numpy())
    values = np.concatenate(blocks)
    if frame.outcomes is not None:
        scores = dict[str, float]()
        if samples.y is not None:
            truth: Any = samples.y
            scores = read_metrics(frame.task.metrics, frame.task.kind).of(truth, values)
        return Numbers(samples, frame.task.columns(frame.outcomes), values, scores)
    known = frame.labels if len(frame.labels) == values.shape[1] else ()
    labels = known or tuple(map(str, range(values.shape[1])))
    return Predictions(samples, labels, values.astype(np.float32))


def read_samples(path: str | Path, frame: DataSchema, label: str | None = None, resized: bool = False) -> InputSamples:
    """Read samples, and their classes, or what else the model's task predicts, where the data say them.

    - .npz: ``x`` [n, ...], and perhaps ``y`` [n], numbers or words.
    - .csv or .parquet: a row per sample. Where the model's file names the columns that it takes, they are found by
      their names, gaps are filled and words made numbers as in training, and further columns are left out; else all
      columns but that of the class, if there is one, hold numbers in the order of training.
    - A folder of images, ``*.png`` (or another of Pillow's formats), or ``CLASS/*.png``; or one image.

    Nothing is ever unpickled.

    Args:
        path: the file or folder.
        frame: what the samples must be like.
        label: the column of a table that is the class; "label" if not given, where there is such a column. Of
            another task the columns with what is predicted, separated by commas; those of training if not given.
        resized: make images the size of the model's, with as many channels, as a participant's own data may be.

    Raises:
        ConfigError: the data are not there or not what they should be.
    """
    place = Path(path).expanduser()
    kind = place.suffix.lower()
    table = own_lines.is_table(place)
    if label is not None and not table:
        raise ConfigError(f"--label = {label!r}: only tables have columns, but {path} is none; leave it out")
    if place.is_dir() or kind in own_images.SUFFIXES:
        return _images(place, frame, resized)
    if resized:
        raise ConfigError(f"--resize: only image files are resized, but {path} is none; leave it out")
    if not place.is_file():
        raise ConfigError(f"{path}: there is no such file or folder")
    if kind == ".npz":
        part, labelled = _npz(place, frame.task)
    elif table and frame.columns is not None:
        part, labelled = _by_name(place, label, frame, frame.columns)
        part = _as_named(part, frame.labels)
    elif table and frame.outcomes is not None:
        part, labelled = _csv_with_outcomes(place, label, frame)
    elif table:
        part, labelled = _csv(place, label)
        part = _as_named(part, frame.labels)
    else:
        raise ConfigError(f"{path}: give an .npz file, a .csv or .parquet file, an image, or a folder of images")
    return _input_samples(part, labelled, frame)


def _npz(file: Path, task: LearningTask) -> tuple[Part, bool]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            labelled = "y" in getattr(archive, "files", ())
    except Exception:  # the reader says what is wrong
        labelled = False
    return own_arrays.read_part(file, TEST if labelled else PUBLIC, task), labelled


def _by_name(file: Path, label: str | None, frame: DataSchema, columns: Columns) -> tuple[Part, bool]:
    """A table of which the model's columns are looked for by their names."""
    predicted = _predicted(label, frame)
    if label is None and {*predicted} & {*columns.names}:  # what is called so is learned from
        predicted = ("",)
    labelled = label is not None or {*predicted} <= {*own_lines.header_of(file, predicted[0])}
    rules = TableRules(predicted, task=frame.task)
    if both := [name for name in predicted if name in columns.names]:
        raise ConfigError(f"--label = {both[0]!r}: the model takes this column, and does not predict it")
    table = rules.read(file, labelled)
    if missing := [name for name in columns.names if name not in table.cells]:
        others = f", nor {', '.join(map(repr, missing[1:]))}" if missing[1:] else ""
        raise ConfigError(
            f"{file} has no column {missing[0]!r}, which the model takes{others}: {nearest(missing[0], table.cells)}"
        )
    x = as_decided(table, columns)
    notes = (*table.notes, *_unknown_words(table, columns))
    if further := [name for name in table.cells if name not in columns.names]:
        notes += (f"{file}: the model does not take the columns {', '.join(further)}",)
    y = own_table.labels_of([(str(file), table.label, 0)])[0] if labelled and frame.task.labelled else None
    if labelled and y is None:
        y = np.zeros(len(table), np.int64)
    return Part(str(file), samples(str(file), x), y, notes, rules.outcomes(table)), labelled


def _unknown_words(table: CellTable, columns: Columns) -> list[str]:
    """A sentence for each column with words that the model has not seen, which count as none of those it has.

    Raises:
        ConfigError: it has seen none of a column's.
    """
    notes = []
    for column, strange in unknown_words(table, columns):
        cells = table.cells[column.name]
        text = f"{table.path}: column {column.name!r}: {{}}, as {str(cells[strange][0])!r}"
        if (strange | is_missing(cells)).all():
            knows = ", ".join(column.words)
            raise ConfigError(f"{text.format('the model knows none of its words')}; it knows {knows}")
        notes.append(text.format(f"{strange.sum()} of {len(table)} rows have a word that the model does not know"))
    return notes


def _predicted(label: str | None, frame: DataSchema) -> tuple[str, ...]:
    """The columns of a table with what is predicted."""
    if label is None:
        return (frame.outcomes.names if frame.outcomes is not None else ()) or (LABEL,)
    return (label,) if frame.outcomes is None else tuple(name.strip() for name in label.split(","))


def _csv(file: Path, label: str | None) -> tuple[Part, bool]:
    labelled = label is not None or LABEL in own_lines.header_of(file, LABEL)
    part = TEST if labelled else PUBLIC
    return own_table.parts_of({part: own_table.read_rows(file, label or LABEL, labelled)})[part], labelled


def _as_named(part: Part, names: Sequence[str]) -> Part:
    """A table whose labels are classes' names as they stand there, of which one may list several, as "1, 2".

    So are the classes of data.positive called, and numbers that are such names are not places among them.
    """
    classes = {word: name for name in names for word in (*name.split(", "), name)}
    if part.y is None or not names or not np.isin(part.y.astype(str), [*classes]).all():
        return part  # the classes' numbers, or labels that are refused in a sentence
    return replace(part, y=np.array([classes[word] for word in part.y.astype(str)]))


def _csv_with_outcomes(file: Path, label: str | None, frame: DataSchema) -> tuple[Part, bool]:
    columns = _predicted(label, frame)
    if label is None and not {*columns} <= {*own_lines.header_of(file, columns[0])}:
        return _csv(file, None)
    return TableRules(columns, task=frame.task).parts(file, (TEST,), 0.0)[TEST], True


def _images(place: Path, frame: DataSchema, resized: bool) -> InputSamples:
    if not place.exists():
        raise ConfigError(f"{place}: there is no such file or folder")
    files = list(own_images.files_in(place, False)) if place.is_dir() else [(place, "")]
    if not files:
        raise ConfigError(f"{place} holds no images, neither itself nor in a folder for each class")
    kinds = {bool(kind) for _, kind in files}
    if len(kinds) > 1:
        raise ConfigError(f"{place} holds images itself and in folders of classes; give one of them at a time")

    def change(where: str, images: Samples) -> Samples:
        if resized and len(frame.shape) == 3 and {images.shape[1], frame.shape[0]} <= {1, 3}:
            images = with_channels(resize(images, *frame.shape[1:]), frame.shape[0])
        if not resized and len(frame.shape) == 3 and images.shape[1:] != frame.shape:
            raise ConfigError(
                f"{where}: the image has [channels, height, width] = {list(images.shape[1:])}, but the model takes "
                f"{list(frame.shape)}; --resize makes them alike"
            )
        return images

    like: list[tuple[Path, tuple[int, ...]]] = []
    x = np.concatenate([own_images.read_image(file, change, like) for file, _ in files])
    labelled = True in kinds
    notes = own_images.not_images(place, [file for file, _ in files]) if place.is_dir() else ()
    part = Part(str(place), x, np.array([kind for _, kind in files]) if labelled else None, notes)
    root = place if place.is_dir() else place.parent
    return _input_samples(part, labelled, frame, [file.relative_to(root).as_posix() for file, _ in files])


def _input_samples(part: Part, labelled: bool, frame: DataSchema, names: Sequence[str] | None = None) -> InputSamples:
    """A part's samples and classes, seen to be what the frame says."""
    own = gathered(part.where, {TEST if labelled else PUBLIC: part}, server=True, task=frame.task)
    federation = own.as_federation(frame, 0, 1)
    y: Any = federation.y if federation.outcomes is None else federation.outcomes.values
    names = names or [str(i) for i in range(len(federation.x))]
    return InputSamples(names, federation.x, y if labelled else None, own.notes)
