"""A user's own data, as NumPy's .npz files."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedtl.choice import ConfigError
from fedtl.data.arrays import (
    MOST_CLASSES,
    Labels,
    check_alike,
    check_classes,
    doubts,
    is_whole,
    labels,
    numbered,
    owners,
    samples,
    together,
)
from fedtl.data.dataset import Dataset, Samples, channel_statistics
from fedtl.data.own.listing import unread
from fedtl.data.own.words import doubtful_words
from fedtl.data.sets.place import readable
from fedtl.data.settings import DataChoice
from fedtl.tasks import LearningTask, Outcomes


class Npz(DataChoice):
    """A user's own data: a folder with one .npz file per client, or one file.

    Each file has ``x`` [n, ...] (bytes are images [n, channels, height, width], or [n, height, width] with one
    channel; other numbers become float32) and ``y`` [n], whole numbers from 0 or words, or what ``data.task`` predicts.

    - A folder: its files in the order of their names are clients 0, 1, ... (so write client-02, not client-2).
      ``x_test`` and ``y_test``, in all files or in none, are the client's own test data, and ``x_validation`` and
      ``y_validation`` likewise its validation data, with which ``validation_share`` is not used.
    - One file: ``user`` [n], numbers or words, says whose each sample is; in the order of ``numpy.unique`` they
      are clients 0, 1, ... ``x_test`` and ``y_test`` are the official test set, or, with ``user_test``, the
      users' own test data.

    Nothing is ever unpickled. Mean and standard deviation are those of ``x``, along a sample's first axis.

    Attributes:
        path: the folder or the file.
        classes: number of classes; the largest label and one, or as many as there are words, if not given.
    """

    default_partition: ClassVar[dict[str, Any]] = {"name": "natural"}

    name: str = "npz"
    path: str = Field(min_length=1)
    classes: int | None = Field(None, ge=1, le=MOST_CLASSES)

    def without_use(self) -> Mapping[str, str]:
        """See :class:`~fedtl.choice.Choice`."""
        return {} if self.task.labelled else {"classes": f"with data.task = {self.task.name!r} there are none"}

    def load(self) -> Dataset:
        """See :class:`~fedtl.data.settings.DataChoice`."""
        with readable(self.path, "file or folder") as path:
            if path.is_dir():
                return self._load_folder(path)
            if path.is_file():
                return self._load_file(path)
        raise ConfigError(f"data.path = {self.path!r}: there is no such file or folder")

    def _load_folder(self, path: Path) -> Dataset:
        files = sorted(file for file in path.iterdir() if file.suffix == ".npz" and not file.name.startswith("."))
        if not files:
            other = any(file.suffix == ".csv" for file in path.iterdir())
            hint = "; data.name = 'files' reads those that are there" if other else ""
            raise ConfigError(f"data.path = {self.path!r}: the folder has no .npz file{hint}")
        clients = [_read(file, self.task, of_one_client=True) for file in files]
        for file, client in zip(files, clients, strict=True):
            check_alike(f"{file}: a sample of x", client.train.x, f"x of {files[0].name}", clients[0].train.x)
            if (client.test is None) != (clients[0].test is None):
                raise ConfigError(f"{file}: either all files have x_test and y_test or none, unlike {files[0].name}")
            if (client.validation is None) != (clients[0].validation is None):
                raise ConfigError(
                    f"{file}: either all files have x_validation and y_validation or none, unlike {files[0].name}"
                )
        trains = [client.train for client in clients]
        tests = [client.test for client in clients if client.test is not None]
        validations = [client.validation for client in clients if client.validation is not None]
        for file, client in zip(files, clients, strict=True):
            if client.user is not None and (client.user != client.user[0]).any():
                raise ConfigError(
                    f"{file}: in a folder each file is one client's, but its user has several; give that file alone"
                )
        # Nobody's validation samples but its own: they stand behind all training samples, and before the test samples.
        own = [*trains, *validations]
        owner = np.concatenate([np.repeat(np.arange(len(p)), [len(one.y) for one in p]) for p in (trains, validations)])
        test_owner = np.repeat(np.arange(len(tests)), [len(part.y) for part in tests])
        validating = sum(len(part.y) for part in validations)
        dataset = self._dataset(own, tests, owner.astype(np.int64), test_owner, validating)
        return replace(dataset, notes=(*dataset.notes, *unread(path, files, "a client is a file .npz")))

    def _load_file(self, path: Path) -> Dataset:
        with opened(path) as archive:
            unused = "x_validation" in archive.files
        arrays = self._of_file(path)
        if not unused:
            return arrays
        note = (
            f"{path}: x_validation is not used, as only a folder's files, one for each client, have validation data of "
            "their own; data.validation_share draws some"
        )
        return replace(arrays, notes=(*arrays.notes, note))

    def _of_file(self, path: Path) -> Dataset:
        content = _read(path, self.task)
        tests = [] if content.test is None else [content.test]
        if content.user is None:
            return self._dataset([content.train], tests, None, None)
        users = content.user if content.user_test is None else together(str(path), content.user, content.user_test)
        names, ids = np.unique(users, return_inverse=True)
        ids = ids.astype(np.int64)
        owner, test_owner = ids[: len(content.user)], ids[len(content.user) :]
        untrained = np.setdiff1d(test_owner, owner)
        if len(untrained):
            raise ConfigError(f"{path}: user {names[untrained[0]]} has test samples only; each needs one in x as well")
        return self._dataset([content.train], tests, owner, None if content.user_test is None else test_owner)

    def _dataset(
        self,
        trains: list[_ArchivePart],
        tests: list[_ArchivePart],
        owner: NDArray[np.int64] | None,
        test_owner: NDArray[np.int64] | None,
        validation: int = 0,
    ) -> Dataset:
        """One data set of all parts; test samples without an owner are the official test set.

        Of the samples of ``trains`` the last ``validation`` ones are for validation.
        """
        x: Samples = np.concatenate([part.x for part in (*trains, *tests)])
        n, held_out = sum(len(part.y) for part in trains), None
        if owner is not None and tests:
            own = test_owner is not None
            owner = np.concatenate([owner, test_owner if test_owner is not None else np.full(len(x) - n, -1)])
            held_out = np.arange(len(x)) >= n if own else None
        mean, std = channel_statistics(x[: n - validation])
        places = np.arange(len(x))
        doubtful = [part for part in (*trains, *tests) if part.notes]
        notes = doubtful[0].notes if doubtful else ()
        if len(doubtful) > 1:
            notes += (f"{self.path}: the like is true of {len(doubtful) - 1} other arrays",)
        said: dict[str, Any] = {
            "owner": owner,
            "official_test": n if tests and held_out is None else None,
            "held_out": held_out,
            "whole_numbers": any(part.whole for part in trains),
            "validation": (places >= n - validation) & (places < n) if validation else None,
        }
        outcomes = [part.outcomes for part in (*trains, *tests) if part.outcomes is not None]
        if outcomes:
            return Dataset.of_outcomes(x, self.task, outcomes, mean, std, notes=notes, **said)
        y, names = numbered([(part.where, part.y) for part in (*trains, *tests)])
        classes, doubt = self._classes(y, names)
        if names is not None and owner is not None:
            words: dict[str, set[str]] = {}
            for client, label in np.unique(np.stack([owner, y], axis=1)[owner >= 0], axis=0):
                words.setdefault(f"client {client}", set()).add(names[label])
            doubt += doubtful_words(words)
        return Dataset(x, y, classes, mean, std, label_names=names or (), notes=(*doubt, *notes), **said)

    def _classes(self, y: NDArray[np.int64], names: tuple[str, ...] | None) -> tuple[int, tuple[str, ...]]:
        """How many there are, and a note if some seem to be none."""
        if names is not None:
            if self.classes not in (None, len(names)):
                raise ConfigError(
                    f"data.classes = {self.classes}: the labels in {self.path} are {len(names)} different words; leave "
                    "it out"
                )
            return len(names), ()
        if self.classes is None:
            note = check_classes(f"{self.path}: y", np.unique(y), len(y))
            return int(y.max()) + 1, (note,) if note else ()
        if y.max() >= self.classes:
            raise ConfigError(f"data.classes = {self.classes}: {self.path} has the label {y.max()}; labels begin at 0")
        return self.classes, ()


@dataclass(frozen=True)
class _ArchivePart:
    where: str
    x: Samples
    y: Labels
    whole: bool
    notes: tuple[str, ...]
    outcomes: Outcomes | None = None


@dataclass(frozen=True)
class _Content:
    train: _ArchivePart
    test: _ArchivePart | None
    validation: _ArchivePart | None
    user: NDArray[Any] | None
    user_test: NDArray[Any] | None


def _read(path: Path, task: LearningTask, of_one_client: bool = False) -> _Content:
    """A file's content, checked."""
    known = {"x", "y", "x_test", "y_test", "user", "user_test"}
    if of_one_client:
        known |= {"x_validation", "y_validation"}
    with opened(path) as archive:
        arrays = {key: array_of(path, archive, key) for key in archive.files if key in known}
    for key in ("x", "y"):
        if key not in arrays:
            raise ConfigError(f"{path} has no array {key!r}; save it with numpy.savez(path, x=..., y=...)")
    for kind in ("test", "validation"):
        if (f"x_{kind}" in arrays) != (f"y_{kind}" in arrays):
            raise ConfigError(f"{path}: x_{kind} and y_{kind} come together, but it has only one of them")
    if "user_test" in arrays and not {"x_test", "user"} <= arrays.keys():
        raise ConfigError(f"{path}: user_test says whose the samples of x_test are, so it needs x_test and user")
    train = _part(path, arrays, "", task)
    test = _part(path, arrays, "_test", task) if "x_test" in arrays else None
    validation = _part(path, arrays, "_validation", task) if "x_validation" in arrays else None
    for part, ending in ((test, "_test"), (validation, "_validation")):
        if part is not None:
            check_alike(f"{path}: a sample of x{ending}", part.x, f"x of {path.name}", train.x)
    for key, part in (("user", train), ("user_test", test)):
        if key in arrays and part is not None:
            arrays[key] = owners(f"{path}: {key}", arrays[key], len(part.y))
    return _Content(train, test, validation, arrays.get("user"), arrays.get("user_test"))


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An .npz file's archive, nothing of which is ever unpickled.

    Raises:
        ConfigError: it is no such file.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ConfigError(f"{path} holds a single array; save it with numpy.savez(path, x=..., y=...)")
        with archive:
            yield archive
    except ConfigError:
        raise
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError(f"{path} is not an .npz file that NumPy can read; save it with numpy.savez") from error


def array_of(path: Path, archive: Any, key: str) -> NDArray[Any]:
    """One array of an opened file.

    Raises:
        ConfigError: it would have to be unpickled.
    """
    try:
        values: NDArray[Any] = archive[key]
    except ValueError as error:  # NumPy's way to say that it would have to unpickle
        raise ConfigError(
            f"{path}: {key} cannot be read as numbers; an array of Python objects is never unpickled"
        ) from error
    return values


def _part(path: Path, arrays: dict[str, NDArray[Any]], ending: str, task: LearningTask) -> _ArchivePart:
    """X and y of one name ending, checked and in our dtypes."""
    where, x = f"{path}: x{ending}", arrays["x" + ending]
    read = samples(where, x)
    if not task.labelled:
        outcomes = task.outcomes(f"{path}: y{ending}", arrays["y" + ending], len(read))
        unlabelled = np.zeros(len(read), np.int64)
        return _ArchivePart(str(path), read, unlabelled, is_whole(x), doubts(where, x), outcomes)
    y = labels(f"{path}: y{ending}", arrays["y" + ending], len(read))
    return _ArchivePart(str(path), read, y, is_whole(x), doubts(where, x))
