"""Files that are there whole or not at all, after a crash and, where that is asked for, after a power cut."""

from __future__ import annotations

import ctypes
import errno
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

SHARE = 100
"""How many times as long as waiting for the disk took, it is not waited for again."""

LEAST = 2.0
"""Seconds between two waits at least."""


def put(unfinished: Path | str, target: Path | str, durable: bool = False) -> None:
    """Give a finished file its name, in place of what had it before.

    Args:
        unfinished: the file, in the same folder.
        target: its name.
        durable: wait until the disk has it.
    """
    if durable:
        settle(unfinished)
    os.replace(unfinished, target)
    if durable:
        settle(os.path.dirname(target))


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Where to write a file that takes the place of ``target``, in the same folder, once it is whole.

    Where it does not become whole, what stood there stays, and nothing lies beside it. What a link points to is
    replaced, not the link; what is no file, as ``/dev/stdout``, is written to itself.
    """
    if target.exists() and not target.is_file():
        yield target
        return
    place = target.resolve()
    unfinished = place.with_name(f"{place.name}.unfinished")
    try:
        yield unfinished
        put(unfinished, place)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise


def settle(path: Path | str) -> None:
    """Wait until the disk has a file's content, or a folder's names, as far as its file system can tell."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(opened)


def settle_all(folder: Path) -> None:
    """Wait until the disk has all that was written to a folder's file system, by whichever process of this machine.

    Other machines' files are on a network file system's server once they are closed.
    """
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:  # no Linux
        os.sync()
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        if syncfs(opened):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(folder))
    finally:
        os.close(opened)


class Settler:
    """Waits for the disk in a thread of its own, now and then: it takes at most one part in ``SHARE`` of the time."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="fedtl-settle")
        self._last: Future[float] | None = None
        self._next = time.monotonic() + LEAST

    @property
    def due(self) -> bool:
        """Whether it is time; what the last wait raised is raised here."""
        if self._last is not None:
            if not self._last.done():
                return False
            took, self._last = self._last.result(), None
            self._next = time.monotonic() + max(LEAST, SHARE * took)
        return time.monotonic() >= self._next

    def submit(self, wait: Callable[[], None]) -> None:
        """Begin to wait."""
        self._last = self._pool.submit(_timed, wait)

    def close(self) -> None:
        """Let the wait that goes on come to its end; it raises what that raised."""
        try:
            if self._last is not None:
                self._last.result()
        finally:
            self._last = None
            self._pool.shutdown()


def _timed(wait: Callable[[], None]) -> float:
    began = time.monotonic()
    wait()
    return time.monotonic() - began
