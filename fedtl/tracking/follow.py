"""Follows a run's record, and writes its rounds to trackers: the process beside the run."""

from __future__ import annotations

import fcntl
import json
import os
import select
import time
import tomllib
import traceback
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from fedtl.config.tracking import End, TrackedRun, Writer, read_tracker
from fedtl.runs.history import numbers_of
from fedtl.tracking.place import ID, LOCK, PLACE

PATIENCE = 1.0
"""Seconds between two looks at the record, and between two words of how far it is."""


def follow(folder: Path, orders: IO[bytes], notes: IO[str]) -> None:
    """Write a run's rounds to its trackers until the run has ended.

    Args:
        folder: the run's.
        orders: says how the run ended, in one line; it is closed without a line if the run's process was killed.
        notes: gets a line of JSON for each tracker that has failed, and now and then the round that is written.
    """
    with _only_one(folder):
        config = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
        trackers = _Trackers(TrackedRun(folder, _id_of(folder), config), notes)
        record = _Record(folder / "rounds.jsonl")
        end: End | None = None
        while end is None:
            for line in record.new_lines():
                trackers.write(line)
            if select.select([orders], [], [], PATIENCE)[0]:
                end = _end_of(orders.readline())
        for line in record.new_lines():
            trackers.write(line)
        trackers.close(end)


def _end_of(order: bytes) -> End:
    text = order.decode().strip()
    return "finished" if text == "finished" else "failed" if text == "failed" else "killed"


class _Trackers:
    """A run's trackers, of which each is left out from its first failure on."""

    def __init__(self, run: TrackedRun, notes: IO[str]) -> None:
        self._notes, self._told = notes, 0.0
        self._writers: dict[str, Writer] = {}
        for i, table in enumerate(run.config.get("tracking", ())):
            name = str(table["name"])
            with self._failing(name):
                self._writers[name] = read_tracker(table, f"tracking[{i}]").open(run)

    def write(self, line: dict[str, Any]) -> None:
        """Write a round's record."""
        numbers = numbers_of(line)
        for name, writer in list(self._writers.items()):
            with self._failing(name):
                writer.write(int(line["round"]), numbers)
        if time.monotonic() - self._told >= PATIENCE:
            self._told = time.monotonic()
            self._tell({"round": line["round"]})

    def close(self, end: End) -> None:
        """Close those that are left."""
        for name, writer in list(self._writers.items()):
            with self._failing(name):
                writer.close(end)

    @contextmanager
    def _failing(self, name: str) -> Iterator[None]:
        try:
            yield
        except (Exception, SystemExit) as error:
            self._writers.pop(name, None)
            traceback.print_exc()
            first, *_ = str(error).splitlines() or [""]  # a database's error goes on with the whole statement
            what = f"{type(error).__name__}: {first.rstrip('.')}" if first else type(error).__name__
            self._tell({"tracker": name, "error": what})

    def _tell(self, note: Mapping[str, Any]) -> None:
        """Tell the run's process, if it has not been killed."""
        with suppress(OSError):
            print(json.dumps(note), file=self._notes, flush=True)


class _Record:
    """A file of lines that grows."""

    def __init__(self, file: Path) -> None:
        self._file, self._read = file, 0

    def new_lines(self) -> Iterator[dict[str, Any]]:
        """The rounds that have been written since the last call."""
        with self._file.open("rb") as file:
            file.seek(self._read)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + len(newline)
        for text in whole.split(b"\n") if newline else ():
            yield json.loads(text)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Wait until no other process writes this run's trackers: that of a killed run may be at its last rounds."""
    with (folder / PLACE / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _id_of(folder: Path) -> str:
    """The run's id, which is made once."""
    file = folder / PLACE / ID
    try:
        return file.read_text(encoding="ascii")
    except FileNotFoundError:
        unfinished = file.with_name(f"{ID}.unfinished")
        unfinished.write_text(uuid.uuid4().hex, encoding="ascii")
        os.replace(unfinished, file)
        return file.read_text(encoding="ascii")
