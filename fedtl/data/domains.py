"""A data set with its target and its public samples, made to one shape."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from fedtl.choice import ConfigError
from fedtl.data.arrays import check_layout
from fedtl.data.columns import check_same_columns
from fedtl.data.dataset import Dataset
from fedtl.data.settings import DataChoice
from fedtl.data.views.images import fit, prepared
from fedtl.tasks import LearningTask

OF_CLIENTS = {
    "partition",
    "test_share",
    "validation_share",
    "held_out_clients",
    "server_test_share",
    "pool",
    "normalise",
    "labelled_fraction",
    "target",
    "public",
}
"""Options of a data set that say what becomes of its samples once they are read."""

_kept: dict[str, Dataset] | None = None


def keep_data_sets(there: Mapping[str, Dataset] | None = None) -> None:
    """Let this process, and what is forked from it, read each data set once; nobody can then write to its samples.

    Args:
        there: what another process has read already.
    """
    global _kept
    _kept = {**(_kept or {}), **(there or {})}


def kept_data_sets() -> dict[str, Dataset]:
    """What was read since :func:`keep_data_sets`."""
    return dict(_kept or {})


def forget_data_sets() -> None:
    """Keep none any more."""
    global _kept
    _kept = None


def kept_bytes() -> int:
    """How many bytes of samples are kept."""
    return sum(dataset.x.nbytes for dataset in (_kept or {}).values())


def load_all(data: DataChoice) -> tuple[Dataset, Dataset | None, Dataset | None]:
    """The data set, its target and its public samples, where there are such; samples of all have one shape.

    Raises:
        ConfigError: they cannot be had, or do not go together.
    """
    source = _prepared(data)
    target = _load(_of_task(data.target, data.task, "data.target"), "data.target", source)
    if data.target is not None and target is not None:
        if target.classes != source.classes and source.outcomes is None:
            raise ConfigError(
                f"data.target.name = {data.target.name!r}: it has {target.classes} classes, but [data] has "
                f"{source.classes}; both must have the same labels"
            )
        source, target = _fitted(source, _alike(source, target), f"data.target.name = {data.target.name!r}")
    public = _load(_of_task(data.public, data.task, "data.public"), "data.public", source)
    if data.public is not None and public is not None:
        key = f"data.public.name = {data.public.name!r}"
        source, public = _fitted(source, public, key)
        if target is not None:  # coloured public samples have made the source coloured
            source, target = _fitted(source, target, key)
    return source, target, public


def _load(data: DataChoice | None, key: str, source: Dataset) -> Dataset | None:
    if data is None:
        return None
    with named(key, data):
        # Resized before its look is changed, so that the changes are as fine as the source's pixels.
        return _prepared(data, source.x.shape[2:] if source.x.ndim == 4 else None)


def _of_task(data: DataChoice | None, task: LearningTask, key: str) -> DataChoice | None:
    """A further data set, of which the same is predicted as of the first."""
    if data is None or data.task == task:
        return data
    if "task" in data.model_fields_set and data.task.name != task.name:
        raise ConfigError(f"{key}.task = {data.task.name!r}: data.task is {task.name!r}; leave it out")
    return data.model_copy(update={"task": task})


def _prepared(data: DataChoice, size: tuple[int, int] | None = None) -> Dataset:
    """The data set as :func:`prepared` makes it; read once where they are kept."""
    if _kept is None:
        return prepared(data, loaded(data), size)
    key = f"{read_by(data)} {size}"
    if key not in _kept:
        dataset = _kept[key] = prepared(data, loaded(data), size)
        dataset.x.setflags(write=False)
        dataset.y.setflags(write=False)
    return _kept[key]


def read_by(data: DataChoice, but: Collection[str] = ()) -> str:
    """A data set's kind and those of its options by which it is read, some left out: alike where samples are alike."""
    kind = f"{type(data).__module__}:{type(data).__qualname__}"
    return json.dumps([kind, data.model_dump(mode="json", exclude={*(OF_CLIENTS - data.load_reads), *but})])


def loaded(data: DataChoice) -> Dataset:
    """The data set as it is read, checked to have its channels first.

    Raises:
        ConfigError: it cannot be had, or has them last.
    """
    dataset = data.load()
    if not data.task.labelled and dataset.outcomes is None:
        raise ConfigError(
            f"data.task = {data.task.name!r}: the samples of data.name = {data.name!r} have labels; use "
            "'classification', or 'binary' where there are two"
        )
    outcomes = dataset.outcomes
    if outcomes is not None and data.task.per_token and outcomes.values.shape != dataset.x.shape:
        raise ConfigError(
            f"data.task = {data.task.name!r}: a sample is {list(dataset.x.shape[1:])}, and what is predicted of it "
            f"{list(outcomes.values.shape[1:])}; give one token for each of a sequence"
        )
    if outcomes is not None and ":" in data.task.name:
        again = data.task.outcomes("y", outcomes.values, len(outcomes)).values
        if not np.array_equal(again, outcomes.values):
            raise ConfigError(
                f"data.task.name = {data.task.name!r}: its outcomes change when they are read again, as clients' files "
                "have them; let it give its own values unchanged"
            )
    data.task.outputs(dataset.classes)  # which says whether so many classes are not what it is for
    note = check_layout(f"{getattr(data, 'path', f'data.name = {data.name!r}')}: x", dataset.x)
    return dataset if note is None else replace(dataset, notes=(*dataset.notes, note))


def _alike(source: Dataset, target: Dataset) -> Dataset:
    """The target, with a note if its classes have other names.

    Raises:
        ConfigError: a class of one name has different numbers.
    """
    if source.outcomes is not None:
        return target
    mine, others = source.label_names, target.label_names
    for number, name in enumerate(others):
        if name in mine and mine.index(name) != number:
            raise ConfigError(
                f"data.target: the class {name!r} is number {number} there, but {mine.index(name)} in [data]; both "
                "need the same classes in the same order"
            )
    if mine == others:
        return target
    differ = next((i for i, (a, b) in enumerate(zip(mine, others)) if a != b), None)
    why = "its classes have names, but not those of [data]" if others else "its classes have no names"
    if differ is not None:
        why = f"its class {differ} is {others[differ]!r}, but {mine[differ]!r} in [data]"
    return replace(target, notes=(*target.notes, f"{why}; a class is taken to be the one of the same number"))


def check_still_alike(data: DataChoice, source: Dataset, target: Dataset | None, public: Dataset | None) -> None:
    """Check that samples of all still are alike, once it is decided what their columns become.

    Raises:
        ConfigError: a column of tables has words, or an indicator, in one of them alone.
    """
    for key, choice, other in (("data.target", data.target, target), ("data.public", data.public, public)):
        if choice is not None and other is not None and other.columns is not None:
            _fitted(source, other, f"{key}.name = {choice.name!r}")


def _fitted(source: Dataset, other: Dataset, key: str) -> tuple[Dataset, Dataset]:
    check_same_columns(key, other.columns, "[data]", source.columns)
    x, z = fit(source, other, key)
    return replace(source, x=x), replace(other, x=z)


@contextmanager
def named(key: str, data: DataChoice) -> Iterator[None]:
    """Say ``key`` where an error says "data": data sets and partitions do not know whose table they stand in."""

    def renamed(match: re.Match[str]) -> str:
        field, value = match["field"], match["value"] or ""
        if field == "clients" and data.clients is None:  # then it is the number of [data]'s clients that does not suit
            return f"{match[0]} for {key}" if value else match[0]
        return f"{key}.{field}{value}" if field in type(data).model_fields else match[0]

    try:
        yield
    except ConfigError as error:
        text = re.sub(r"^data(?=:)", key, str(error))
        # Not within a path or a quoted word.
        text = re.sub(r"(?<![\w./\\'\"-])data\.(?P<field>\w+)(?P<value> = \d+)?", renamed, text)
        raise ConfigError(text) from error
