"""What a model must be told of data that it does not see."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from fedtl.choice import ConfigError, validate
from fedtl.data.arrays import MOST_CLASSES
from fedtl.data.columns import Columns
from fedtl.data.federation import Federation, Shards
from fedtl.disk.durable import replacing
from fedtl.failure import RunError
from fedtl.tasks import CLASSIFICATION, LearningTask, Outcomes, read_task


@dataclass(frozen=True)
class DataSchema:
    """What all participants' samples have in common; none of them is in it.

    Attributes:
        shape: of one sample.
        dtype: "uint8" or "float32", as samples are stored.
        classes: number of classes.
        labels: a word per class, or none at all.
        scale, shift: a model's input is ``x * scale + shift`` in float32; broadcastable to a sample.
        task: what is predicted.
        outcomes: none of anybody's, but of which kind they are, where these are not labels.
        columns: of a table, what its columns have become; None of what is none, or where nobody says.
    """

    shape: tuple[int, ...]
    dtype: Literal["uint8", "float32"]
    classes: int
    labels: tuple[str, ...]
    scale: NDArray[np.float32]
    shift: NDArray[np.float32]
    task: LearningTask = CLASSIFICATION
    outcomes: Outcomes | None = None
    columns: Columns | None = None

    def __post_init__(self) -> None:
        if self.dtype not in ("uint8", "float32"):
            raise ValueError(f"dtype is {self.dtype!r}; samples are uint8 or float32")
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"shape is {list(self.shape)}; a sample has one axis or more, each of length 1 or more")
        if self.classes < 1:
            raise ValueError(f"classes is {self.classes}; there must be 1 or more")
        if len(self.labels) not in (0, self.classes):
            raise ValueError(f"there are {len(self.labels)} labels for {self.classes} classes; give one each, or none")
        for name, array in (("scale", self.scale), ("shift", self.shift)):
            if array.dtype != np.float32 or not np.isfinite(array).all():
                raise ValueError(f"{name} has values that are no finite float32 numbers")
            if not _fits(array.shape, self.shape):
                raise ValueError(
                    f"{name} has shape {list(array.shape)}, which does not fit a sample of shape {list(self.shape)}"
                )
        if self.outcomes is not None:
            _check_scale(self.outcomes)
        if self.columns is not None and self.shape != (self.columns.width,):
            raise ValueError(
                f"columns become {self.columns.width} numbers, which does not fit a sample of shape {list(self.shape)}"
            )

    @classmethod
    def of(cls, federation: Federation) -> DataSchema:
        """What a federation's samples have in common."""
        return cls(
            federation.shape,
            "uint8" if federation.x.dtype == np.uint8 else "float32",
            federation.classes,
            federation.label_names,
            federation.scale,
            federation.shift,
            federation.task,
            None if federation.outcomes is None else federation.outcomes.none_of(0),
            federation.columns,
        )

    @property
    def outputs(self) -> int:
        """How many numbers a model gives for a sample, or for each of its tokens."""
        return self.task.outputs(self.classes) if self.outcomes is None else self.outcomes.outputs

    def without_samples(self, clients: int) -> Federation:
        """The federation as somebody sees it who holds none of its samples."""
        x, nobody, none = np.empty((0, *self.shape), self.dtype), Shards.none(clients), np.empty(0, np.int64)
        return Federation(
            *(x, none, self.classes, self.scale, self.shift, nobody, nobody, none, self.labels),
            task=self.task,
            outcomes=self.outcomes,
            columns=self.columns,
        )

    def to_json(self) -> str:
        """One line of text, of which :meth:`from_json` makes an equal frame, bit by bit."""
        numbers = {"scale": self.scale.tolist(), "shift": self.shift.tolist()}
        known = {"shape": self.shape, "dtype": self.dtype, "classes": self.classes, "labels": self.labels}
        further: dict[str, Any] = {}
        if self.task != CLASSIFICATION:
            further["task"] = self.task.model_dump(mode="json", exclude_none=True)
        if self.outcomes is not None:
            further["outcomes"] = _outcomes_table(self.outcomes)
        if self.columns is not None:
            further["columns"] = self.columns.to_list()
        return json.dumps({**known, **numbers, **further}, allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, where: str = "frame", of: LearningTask | None = None) -> DataSchema:
        """Read what :meth:`to_json` made.

        Args:
            text: JSON.
            where: what an error names.
            of: the only task that it may be of; no other's class is looked for. Any if None.

        Raises:
            ConfigError: it is no such text, or what it says is no frame.
        """
        try:
            table = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"{where} is not JSON, as fedtl partition --export writes it") from error
        if not isinstance(table, dict):
            raise ConfigError(f"{where} is no table with shape, dtype, classes, labels, scale and shift")
        read = validate(_SchemaTable, table, where)
        try:
            scale, shift = _numbers(read.scale, "scale"), _numbers(read.shift, "shift")
            task, outcomes = _task(read.task, where, of), _outcomes(read.outcomes)
            columns = None if read.columns is None else Columns.from_list(read.columns, where)
            if task.labelled != (outcomes is None):
                raise ValueError(f"outcomes do not go with the task {task.name!r}, or are missing")
            return cls(read.shape, read.dtype, read.classes, read.labels, scale, shift, task, outcomes, columns)
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from error

    def write(self, path: Path) -> None:
        """Write it as JSON.

        Raises:
            RunError: the file cannot be written.
        """
        try:
            with replacing(path) as unfinished:
                unfinished.write_text(self.to_json() + "\n", encoding="utf-8")
        except OSError as error:
            raise RunError(f"{path} cannot be written: {error.strerror or error}") from error

    @classmethod
    def read(cls, path: Path) -> DataSchema:
        """Read what :meth:`write` wrote.

        Raises:
            ConfigError: it is not there, or no frame.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} is not JSON, as fedtl partition --export writes it") from error
        return cls.from_json(text, str(path))


def _task(value: Any, where: str, of: LearningTask | None) -> LearningTask:
    if of is None:
        return read_task(value, f"{where}: task")
    if value != ("classification" if of == CLASSIFICATION else of.model_dump(mode="json", exclude_none=True)):
        raise ValueError(f"task is not {of.name!r} with the options of data.task")
    return of


def _check_scale(outcomes: Outcomes) -> None:
    shape = outcomes.values.shape[1:]
    for name, array in (("mean", outcomes.mean), ("std", outcomes.std)):
        if array is not None and (array.shape != shape or not np.isfinite(array).all()):
            raise ValueError(f"outcomes.{name} is no finite number for each of {list(shape)}")
    if outcomes.std is not None and not (outcomes.std > 0).all():
        raise ValueError("outcomes.std is not above 0")


class _SchemaTable(BaseModel):
    """A frame as JSON has it; scale and shift are nested lists, or single numbers."""

    model_config = ConfigDict(extra="forbid")

    shape: tuple[PositiveInt, ...]
    dtype: Literal["uint8", "float32"]
    classes: int = Field(ge=1, le=MOST_CLASSES)
    labels: tuple[str, ...]
    scale: Any
    shift: Any
    task: Any = "classification"
    outcomes: _OutcomesTable | None = None
    columns: Any = None


class _OutcomesTable(BaseModel):
    """Outcomes without any sample's, as JSON has them."""

    model_config = ConfigDict(extra="forbid")

    shape: tuple[PositiveInt, ...]
    dtype: Literal["float32", "int64"]
    outputs: int = Field(ge=1, le=MOST_CLASSES)
    names: tuple[str, ...] = ()
    mean: Any = None
    std: Any = None


def _outcomes_table(outcomes: Outcomes) -> dict[str, Any]:
    values = outcomes.values
    scale = (
        {}
        if outcomes.mean is None or outcomes.std is None
        else {"mean": outcomes.mean.tolist(), "std": outcomes.std.tolist()}
    )
    known = {"shape": values.shape[1:], "dtype": str(values.dtype), "outputs": outcomes.outputs}
    return {**known, "names": outcomes.names, **scale}


def _outcomes(table: _OutcomesTable | None) -> Outcomes | None:
    if table is None:
        return None
    values: Any = np.empty((0, *table.shape), table.dtype)
    if table.mean is None or table.std is None:
        return Outcomes(values, table.outputs, names=table.names)
    return Outcomes(values, table.outputs, _numbers(table.mean, "mean"), _numbers(table.std, "std"), table.names)


def _numbers(value: Any, name: str) -> NDArray[np.float32]:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is a list whose parts differ in length") from error
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} holds something that is no number")
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, which is then refused
        return array.astype(np.float32)


def _fits(part: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(part, whole) == whole
    except ValueError:
        return False
