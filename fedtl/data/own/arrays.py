"""A participant's own data as arrays: .npz files in a folder, or what a function returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError, load_object, nearest
from fedtl.data.arrays import UNLABELLED, doubts, is_whole, labels, samples
from fedtl.data.own.part import LABELLED, PARTS, TRAIN, Part, has_labels
from fedtl.data.sets.npz import array_of, opened
from fedtl.tasks import CLASSIFICATION, LearningTask

_ENDINGS = {part: "".join(f"_{word}" for word in part.split("/") if word != TRAIN) for part in PARTS}

KEYS = {part: (f"x{ending}", f"y{ending}") for part, ending in _ENDINGS.items()}
"""What a function calls each part's samples and labels: ``x_target_test`` and so on, without ``train``."""


TOKENS = "holds whole numbers; token ids need data.normalise = 'none', and x.long() in the model"


def read_npz(folder: Path, wanted: Sequence[str], task: LearningTask = CLASSIFICATION) -> dict[str, Part]:
    """Each wanted part that the folder has: ``train.npz`` and so on, with the arrays ``x`` and, if labelled, ``y``.

    Raises:
        ConfigError: a file is not what it should be.
    """
    files = {name: folder / f"{name}.npz" for name in wanted}
    return {name: read_part(file, name, task) for name, file in files.items() if file.is_file()}


def call(path: str, wanted: Sequence[str], task: LearningTask = CLASSIFICATION) -> dict[str, Part]:
    """The wanted parts that the function ``"package.module:function"`` returns, under the names in :data:`KEYS`.

    Raises:
        ConfigError: there is no such function, it fails, or what it returns is not what it should be.
    """
    function = load_object(path, "data")
    if not callable(function):
        raise ConfigError(f"data = {path!r}: it is a {type(function).__name__}, not a function")
    try:
        result = function()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"data = {path!r}: it failed: {' '.join(f'{type(error).__name__}: {error}'.split())}") from (
            error
        )
    if not isinstance(result, Mapping):
        raise ConfigError(
            f"data = {path!r}: it returns a {type(result).__name__}, not a dict with x, y, x_test, y_test"
        )
    known = [key for pair in KEYS.values() for key in pair]
    for key in result:
        if key not in known:
            raise ConfigError(f"data = {path!r}: it returns {key!r}, which is unknown: {nearest(str(key), known)}")
    for part in LABELLED:
        x, y = KEYS[part]
        if (x in result) != (y in result):
            there, missing = (x, y) if x in result else (y, x)
            raise ConfigError(f"data = {path!r}: it returns {there} without {missing}")

    def array(key: str) -> NDArray[Any]:
        if np.ma.is_masked(result[key]):
            raise ConfigError(f"data = {path!r}: {key} has masked values; fill them in, or leave these samples out")
        try:
            return np.asarray(result[key])
        except Exception as error:  # a ragged list; a tensor on another device
            raise ConfigError(f"data = {path!r}: {key} cannot be made an array") from error

    parts = [part for part in PARTS if part in wanted and KEYS[part][0] in result]
    return {part: _part(path, part, KEYS[part], array, task) for part in parts}


def read_part(path: Path, part: str, task: LearningTask = CLASSIFICATION) -> Part:
    """Read one .npz file, of a part that has labels or of one that has none.

    Raises:
        ConfigError: it is no such file, or its arrays are not what they should be.
    """
    with opened(path) as archive:
        for key in ("x", "y") if has_labels(part) else ("x",):
            if key not in archive.files:
                raise ConfigError(f"{path} has no array {key!r}; save it with numpy.savez(path, x=..., y=...)")
        return _part(str(path), part, ("x", "y"), lambda key: array_of(path, archive, key), task)


def _part(
    where: str, part: str, keys: tuple[str, str], array: Callable[[str], NDArray[Any]], task: LearningTask
) -> Part:
    x, y = keys
    values = array(x)
    read, notes = samples(f"{where}: {x}", values), doubts(f"{where}: {x}", values)
    if is_whole(values):
        notes += (f"{where}: {x} {TOKENS}",)
    if not has_labels(part):
        return Part(where, read, notes=notes)
    if not task.labelled:
        outcomes = task.outcomes(f"{where}: {y}", array(y), len(read))
        return Part(where, read, np.zeros(len(read), np.int64), notes, outcomes)
    words = labels(f"{where}: {y}", array(y), len(read), UNLABELLED if part == TRAIN else 0)
    if words.dtype != np.str_ and np.array_equal(np.unique(words), [-1, 1]):
        notes += (f"{where}: {y} holds -1 and 1, and -1 is a sample without a label; if not, save (y + 1) // 2",)
    return Part(where, read, words, notes)
