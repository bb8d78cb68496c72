"""One writer a run: who holds a run's folder, on this machine or on another that shares its file system."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import IO, Any

from fedtl.choice import ConfigError
from fedtl.failure import OutputError

NAME = "lock"
"""In a run's folder: the file whose holder writes the run."""

HEARTBEAT = 3.0
"""Seconds between the signs of life of a holder."""

SILENCE = 15.0
"""Seconds without one after which a holder on another machine is gone."""


class RunLock:
    """The right to write a run's folder, for as long as this object is not released and its process lives.

    On one machine the kernel gives it to one open file at a time, and takes it back however a process ends. Not every
    network file system does that between machines, so the file also says who holds it, and its holder touches it now
    and then. Whoever finds another machine's name there watches the file before it takes over; no clocks are compared.

    Args:
        folder: the run's, which is made if need be.

    Raises:
        ConfigError: somebody else is writing the run.
        OutputError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._file = folder, folder / NAME
        entry = {"host": _host(), "process": os.getpid(), "id": uuid.uuid4().hex}
        self._entry = f"{json.dumps(entry)}\n".encode()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._opened = self._take()
        except OSError as error:
            raise OutputError(f"{error.filename or folder} cannot be written: {error.strerror or error}") from error
        # Looked at after every round, so without a Path and a call that can be spared.
        self._path, self._stat = os.fspath(self._file), os.fstat(self._opened.fileno())
        self._released = threading.Event()
        threading.Thread(target=self._live, name="fedtl-lock", daemon=True).start()

    def check(self) -> None:
        """Check that the folder is still the one that was locked, and still this run's.

        Raises:
            OutputError: it was deleted or moved, or this process was silent for so long that another one took over.
        """
        try:
            there = os.path.samestat(self._stat, os.stat(self._path))
        except OSError:
            there = False
        if not there:
            raise OutputError(f"{self.folder} was deleted or moved while the run was going on")
        if not self._is_ours():
            raise OutputError(f"{self.folder} was taken over by another process while this one was suspended")

    def release(self) -> None:
        """Let others write."""
        if self._released.is_set():
            return
        self._released.set()
        try:
            if _is_at(self._opened, self._file) and self._is_ours():
                self._file.unlink(missing_ok=True)
        except OSError:
            pass  # what is left says who held it, and that is over once the file is closed
        finally:
            self._opened.close()

    def _is_ours(self) -> bool:
        return os.pread(self._opened.fileno(), len(self._entry), 0) == self._entry

    def _take(self) -> IO[str]:
        while True:
            opened = self._file.open("a+", encoding="utf-8")
            try:
                if not _lock(opened):
                    raise _taken(self.folder, _holder(opened))
                if not _is_at(opened, self._file):  # its last holder has just removed it
                    opened.close()
                    continue
                holder = _holder(opened)
                if holder.get("host", _host()) != _host():
                    if self._lives():
                        raise _taken(self.folder, holder)
                    if not _is_at(opened, self._file):
                        opened.close()
                        continue
                opened.truncate(0)
                opened.write(self._entry.decode())
                opened.flush()
                return opened
            except BaseException:
                opened.close()
                raise

    def _lives(self) -> bool:
        """Whether a holder on another machine gives a sign of life; it gives none once it has removed the file."""
        before, deadline = _touched(self._file), time.monotonic() + SILENCE
        while before and time.monotonic() < deadline:
            time.sleep(HEARTBEAT / 5)
            now = _touched(self._file)
            if now != before:
                return now != 0
        return False

    def _live(self) -> None:
        while not self._released.wait(HEARTBEAT):
            try:
                os.utime(self._opened.fileno())
            except OSError:
                continue  # a network file system may answer next time; a folder that is gone is noticed by who writes
            except ValueError:
                return  # released just now


def _lock(opened: IO[str]) -> bool:
    """Take the kernel's lock; False if another open file has it."""
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # this file system knows no locks
        holder = _holder(opened)
        return holder.get("host") != _host() or not _runs(int(holder.get("process", 0)))
    return True


def _runs(process: int) -> bool:
    """Whether a process of this machine, and not this one, runs."""
    if process in (0, os.getpid()):
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _holder(opened: IO[str]) -> dict[str, Any]:
    """Who holds the lock, or held it when it was last written; empty if nobody is named."""
    opened.seek(0)
    try:
        holder = json.loads(opened.read())
        return {"host": str(holder["host"]), "process": int(holder["process"])}
    except (ValueError, TypeError, KeyError):
        return {}


def _taken(folder: Path, holder: dict[str, Any]) -> ConfigError:
    by = f"process {holder['process']} on {holder['host']}" if holder else "another process"
    if holder == {"host": _host(), "process": os.getpid()}:
        by += ", which is this one"
    return ConfigError(f"{folder} is being written by {by}; wait for it to end, or choose another folder with --out")


def _touched(file: Path) -> int:
    """When a file was last touched, by the clock of its file system; 0 if it is gone."""
    try:
        with file.open("rb") as opened:  # a network file system asks its server when a file is opened, not for a stat
            return os.fstat(opened.fileno()).st_mtime_ns
    except FileNotFoundError:
        return 0


def _is_at(opened: IO[str], path: Path) -> bool:
    """Whether the open file is the one that has this name."""
    try:
        return os.path.samestat(os.fstat(opened.fileno()), os.stat(path))
    except OSError:
        return False


def _host() -> str:
    return socket.gethostname()
