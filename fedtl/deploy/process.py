"""Programs that run as long as a command of fedtl, and end with it."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fedtl.deploy.flower import Command
from fedtl.deploy.leash import LEASH
from fedtl.failure import RunError

STOP_WITHIN = 10.0
"""Seconds until a program that was asked to end is killed."""

LARGEST_LOG = 10 * 2**20
"""Bytes of output after which the next start of a program begins a new file."""

DIE_WITH_PARENT = 1
"""Linux's ``PR_SET_PDEATHSIG``."""


class ChildProcess:
    """A running program, with its output in a file.

    It has a session of its own: Ctrl-C on the terminal ends it only through :meth:`stop`, and whatever it started ends
    with it. On Linux it also gets SIGTERM when this process is killed.

    Args:
        command: what to start.
        output: the file, which is appended to.
        leash: whether to put it on a :mod:`leash <fedtl.deploy.leash>`.
    """

    def __init__(self, command: Command, output: Path, leash: bool = False) -> None:
        self.command, self.output = command, output
        output.parent.mkdir(exist_ok=True)
        if output.exists() and output.stat().st_size > LARGEST_LOG:
            output.replace(output.with_name(f"{output.name}.1"))
        with output.open("ab") as file:
            self._process = subprocess.Popen(
                command.words,
                env=command.whole_environment | ({LEASH: "1"} if leash else {}),
                stdin=subprocess.PIPE if leash else subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                **OF_THIS_PROCESS,
            )

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def tell(self, word: str) -> None:
        """Write a line to a program on a leash, unless it has ended."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(f"{word}\n".encode())
            self._process.stdin.flush()

    def stop(self) -> None:
        """End it, and whatever it has started."""
        if self.code is None:
            self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_WITHIN)
        _kill_session(self._process.pid)
        self._process.wait()


# Loaded here, as a process must do little between fork and exec.
_LIBC = ctypes.CDLL(None)


def _die_with_parent() -> None:
    _LIBC.prctl(DIE_WITH_PARENT, signal.SIGTERM)


OF_THIS_PROCESS: dict[str, Any] = {
    "start_new_session": True,
    "preexec_fn": _die_with_parent if sys.platform == "linux" else None,
}
"""Options of ``Popen`` for a program that ends with this process, and not by signals of the terminal."""


def run(command: Command, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run a program to its end.

    Raises:
        RunError: it takes longer than ``timeout`` seconds.
    """
    try:
        return subprocess.run(
            command.words, env=command.whole_environment, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired as error:
        raise RunError(f"{' '.join(command.words[:3])} did not end within {timeout:g} s") from error


def wait_until(ready: Callable[[], bool], program: ChildProcess, timeout: float) -> None:
    """Wait until a program is ready.

    Raises:
        RunError: the program ended, or is not ready after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while not ready():
        if program.code is not None:
            raise RunError(f"{program.command.words[0]} ended with exit code {program.code}; see {program.output}")
        if time.monotonic() > deadline:
            raise RunError(f"{program.command.words[0]} is not ready after {timeout:g} s; see {program.output}")
        time.sleep(0.1)


@contextmanager
def alone(file: Path, otherwise: str, patience: float = 0.0) -> Iterator[None]:
    """Lock a file that one process at a time can lock; the system releases it however the process ends.

    Args:
        file: created if it does not exist.
        otherwise: the text of the error.
        patience: seconds to wait for the lock.

    Raises:
        RunError: another process has the lock.
    """
    deadline = time.monotonic() + patience
    with file.open("a") as opened:
        while True:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= deadline:
                    raise RunError(otherwise) from None
                time.sleep(0.2)
        yield


def _kill_session(leader: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
