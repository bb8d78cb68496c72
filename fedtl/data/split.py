"""A split as a file: who holds which samples, for training or for testing, and with which labels."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError, nearest
from fedtl.data.own.lines import rows_of
from fedtl.data.sets.npz import array_of, opened
from fedtl.disk.durable import replacing
from fedtl.failure import RunError

SERVER = "server"
"""In a .csv file, the client of samples of the server's test set."""

FORMATS = (".npz", ".csv")

NAMES = ("sample", "row", "client", "test", "validation", "label", "turn")
"""Columns of a .csv file, and arrays of an .npz file with an element per entry."""

Index = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Split:
    """Entries, each a sample that a client holds, in the order in which the client holds its samples.

    Attributes:
        sample: places in the data set, ``[m]``: of its training samples first, then of its official test set.
        client: who holds it, ``[m]``: 0, 1, ..., each at least once. No client holds a sample twice.
        test: whether it is one of the client's test samples, ``[m]``; None where the file does not say.
        validation: whether it is one of the client's validation samples, ``[m]``; None where the file does not say.
        label: with which label the client holds it, ``[m]``; None for the data set's own.
        turn: when it is its turn among the client's samples as a partition on top of the file changes them, which
            decides its noise, ``[m]``; None for the order of entries.
        server_test: places of the server's test set, which no client holds; None where the file does not say.
        total: how many samples the data set has; None where the file does not say.
        listed: whether the file has a list of entries; else it has an element for each sample of the data set.
        by_row: whether places and total are of the rows of the files that the data set is read from, as they stand
            there; a file has ``row`` then in place of ``sample``.
    """

    sample: Index
    client: Index
    test: Flags | None = None
    validation: Flags | None = None
    label: Index | None = None
    turn: Index | None = None
    server_test: Index | None = None
    total: int | None = None
    listed: bool = True
    by_row: bool = False

    @property
    def clients(self) -> int:
        """How many clients there are."""
        return int(self.client.max()) + 1

    def by_client(self) -> Split:
        """The same entries, client by client."""
        order = np.argsort(self.client, kind="stable")
        optional = {
            name: values[order]
            for name in ("test", "validation", "label", "turn")
            if (values := getattr(self, name)) is not None
        }
        return replace(self, sample=self.sample[order], client=self.client[order], **optional)


def read_split(path: Path) -> Split:
    """Read a ``.npz`` or ``.csv`` file, checked as far as it can be without the data.

    Raises:
        ConfigError: it cannot be read, or what it says is no split.
    """
    check_format(path, f"{path}")
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file")
    try:
        arrays = _read_csv(path) if path.suffix == ".csv" else _read_npz(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    return _checked(path, arrays)


def write_split(split: Split, path: Path) -> None:
    """Write what :func:`read_split` reads.

    Raises:
        ConfigError: the name ends in neither ``.npz`` nor ``.csv``.
        RunError: the file cannot be written.
    """
    check_format(path, f"{path}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as unfinished:
            if path.suffix == ".npz":
                with unfinished.open("wb") as file:
                    np.savez_compressed(file, allow_pickle=False, **_as_arrays(split))
            else:
                with unfinished.open("w", encoding="utf-8", newline="") as text:
                    _write_csv(split, csv.writer(text, lineterminator="\n"))
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}") from error


def check_format(path: Path, what: str) -> None:
    """Check a split's file name.

    Raises:
        ConfigError: it ends in neither ``.npz`` nor ``.csv``; ``what`` begins the message.
    """
    if path.suffix not in FORMATS:
        raise ConfigError(f"{what}: a split is a .npz or a .csv file; give a name that ends so")


def _as_arrays(split: Split) -> dict[str, NDArray[Any]]:
    """What an .npz file holds, in the smallest types that do."""
    arrays = {
        _place(split): split.sample.astype(np.min_scalar_type(int(split.sample.max(initial=0)))),
        "client": split.client.astype(np.min_scalar_type(int(split.client.max(initial=0)))),
    }
    for name in ("test", "validation"):
        flags = getattr(split, name)
        if flags is not None:
            arrays[name] = flags
    for name in ("label", "turn", "server_test"):
        values = getattr(split, name)
        if values is not None:
            arrays[name] = values.astype(np.min_scalar_type(int(values.max(initial=0))))
    if split.total is not None:
        arrays["total"] = np.array(split.total)
    return arrays


def _place(split: Split) -> str:
    return "row" if split.by_row else "sample"


def _write_csv(split: Split, writer: Any) -> None:
    columns = [name for name in NAMES if getattr(split, name, None) is not None]
    writer.writerow([_place(split) if name == "sample" else name for name in columns])
    writer.writerows(zip(*(getattr(split, name).astype(np.int64).tolist() for name in columns)))
    for sample in [] if split.server_test is None else split.server_test.tolist():
        # Its label is the data set's own; the reader takes no other.
        server = {"sample": sample, "client": SERVER, "test": 1, "validation": 0, "label": "", "turn": ""}
        writer.writerow([server[name] for name in columns])


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    known = [*NAMES, "server_test", "total"]
    with opened(path) as archive:
        for name in archive.files:
            if name not in known:
                raise ConfigError(f"{path}: {name!r} is no array of a split: {nearest(name, known)}")
        arrays = {name: array_of(path, archive, name) for name in archive.files}
    for name, values in arrays.items():
        if values.ndim != (name != "total"):
            raise ConfigError(f"{path}: {name} has shape {list(values.shape)}; it should be a list of numbers")
        if values.dtype.kind not in "iub":
            raise ConfigError(f"{path}: {name} holds {values.dtype}; a split is whole numbers")
        if values.dtype == np.uint64 and values.size and int(values.max()) >= 2**63:
            raise ConfigError(f"{path}: {name} has {int(values.max())}, which is no number of a sample or a client")
    return arrays


def _read_csv(path: Path) -> dict[str, NDArray[Any]]:
    with rows_of(path, "client") as (rows, _):
        _, header = next(rows, (1, []))
        names = [name.strip() for name in header]
        if "client" not in names and not any(name in NAMES for name in names):
            raise ConfigError(
                f"{path}: its first line names none of a split's columns, sample, client, test; write "
                "sample,client,test before the entries"
            )
        for name in names:
            if name not in NAMES:
                raise ConfigError(f"{path}: {name!r} is no column of a split: {nearest(name, NAMES)}")
        if len(set(names)) < len(names):
            raise ConfigError(f"{path}: two columns have the name {next(n for n in names if names.count(n) > 1)!r}")
        at_client = names.index("client") if "client" in names else None
        at_sample = next((names.index(name) for name in ("sample", "row") if name in names), None)
        entries: list[list[int]] = []
        server: list[int] = []
        for line, row in rows:
            if len(row) != len(names):
                raise ConfigError(f"{path}: line {line} has {len(row)} cells, but the header {len(names)}")
            if at_client is not None and row[at_client].strip() == SERVER:
                if at_sample is None:
                    raise ConfigError(
                        f"{path}: line {line}: only a list with a column 'sample' or 'row' may have {SERVER!r}"
                    )
                server.append(_whole(path, line, names[at_sample], row[at_sample]))
                continue
            entries.append([_whole(path, line, name, cell) for name, cell in zip(names, row)])
    arrays = dict(zip(names, np.array(entries, np.int64).reshape(-1, len(names)).T))
    if server:
        arrays["server_test"] = np.array(server, np.int64)
    return arrays


_WORDS = {"true": 1, "false": 0}


def _whole(path: Path, line: int, column: str, cell: str) -> int:
    text = cell.strip()
    if re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        return int(text)
    if column in ("test", "validation") and text.lower() in _WORDS:
        return _WORDS[text.lower()]
    raise ConfigError(f"{path}: line {line}, column {column!r}: {text!r} is no whole number")


def _checked(path: Path, arrays: Mapping[str, NDArray[Any]]) -> Split:
    if "client" not in arrays:
        raise ConfigError(f"{path} does not say who holds what: it has no 'client'")
    client = arrays["client"].astype(np.int64)
    m = len(client)
    if not m:
        raise ConfigError(f"{path} has no entry: give the client of each sample")
    for name in NAMES:
        if name in arrays and len(arrays[name]) != m:
            raise ConfigError(f"{path}: {name} has {len(arrays[name])} elements, but client {m}; each entry needs both")
    if "sample" in arrays and "row" in arrays:
        raise ConfigError(
            f"{path} has 'sample' and 'row', which both say where an entry's sample stands; give one of them"
        )
    for name in ("sample", "row", "client", "label", "turn", "server_test"):
        values = arrays.get(name)
        if values is not None and values.size and (least := int(values.min())) < 0:
            raise ConfigError(
                f"{path}: {name} has {least}, at place {int(np.argmin(values))}; numbers begin at 0, and samples that "
                "nobody holds are left out of a list of entries"
            )
    for name in ("test", "validation"):
        values = arrays.get(name)
        if values is not None and not np.isin(values, (0, 1)).all():
            wrong = values[~np.isin(values, (0, 1))][0]
            raise ConfigError(f"{path}: {name} has {wrong}; it should be 0 or 1, or false or true")
    _check_numbers(path, client)
    place = next((name for name in ("sample", "row") if name in arrays), None)
    listed, by_row = place is not None, place == "row"
    sample = np.arange(m) if place is None else arrays[place].astype(np.int64)
    _check_distinct(path, "sample", sample, client, "a client holds a sample once, for one purpose")
    if "turn" in arrays:
        _check_distinct(path, "turn", arrays["turn"], client, "each of a client's entries has one of its own")
    flags = {name: arrays[name].astype(np.bool_) for name in ("test", "validation") if name in arrays}
    numbers = {name: arrays[name].astype(np.int64) for name in ("label", "turn", "server_test") if name in arrays}
    if len(flags) == 2 and (both := flags["test"] & flags["validation"]).any():
        raise ConfigError(
            f"{path}: the entry at place {int(np.argmax(both))} is for testing and for validation; give one of them"
        )
    server = numbers.get("server_test")
    if server is not None and len(server):
        if len(np.unique(server)) < len(server):
            raise ConfigError(f"{path}: a sample stands twice in the server's test set")
        if (shared := np.isin(server, sample)).any():
            raise ConfigError(
                f"{path}: sample {int(server[shared][0])} is in the server's test set and at a client; give one of them"
            )
    trained = np.ones(m, np.bool_)
    for flag in flags.values():
        trained &= ~flag
    if len(without := np.setdiff1d(client, client[trained])):
        raise ConfigError(f"{path}: client {int(without[0])} has no training sample; each needs one to train with")
    total = int(arrays["total"]) if "total" in arrays else None
    return Split(sample, client, **flags, **numbers, total=total, listed=listed, by_row=by_row)  # type: ignore[arg-type]


def _check_numbers(path: Path, client: Index) -> None:
    """Check that clients are 0, 1, 2, ... without a gap."""
    there = np.unique(client)
    if len(there) <= there[-1]:
        gap = int(np.argmax(there != np.arange(len(there))))
        raise ConfigError(
            f"{path}: client {gap} holds nothing, but client {int(there[-1])} does; number clients 0, 1, 2, ... "
            "without a gap"
        )


def _check_distinct(path: Path, name: str, number: Index, client: Index, why: str) -> None:
    """Check that no two entries of a client have one ``number``, of the column ``name``; ``why`` ends the message."""
    order = np.lexsort((number, client))
    again = (np.diff(number[order]) == 0) & (np.diff(client[order]) == 0)
    if again.any():
        entry = order[int(np.argmax(again))]
        raise ConfigError(f"{path}: {name} {int(number[entry])} stands twice at client {int(client[entry])}; {why}")
