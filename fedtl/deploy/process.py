"""Programs that run as long as a command does, and end with it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from fedtl.deploy.flower import Command
from fedtl.failure import RunError

STOP_WITHIN = 10.0
"""Seconds that a program has to end by itself before it is killed."""

DIE_WITH_PARENT = 1
"""Linux's ``PR_SET_PDEATHSIG``."""


class Program:
    """A program that was started, with its output in a file.

    It is in a session of its own, so that a Ctrl-C on the terminal ends it only through :meth:`stop`, and what it has
    started ends with it. On Linux it is also ended when this process is killed.
    """

    def __init__(self, command: Command, output: Path) -> None:
        self.command, self.output = command, output
        output.parent.mkdir(exist_ok=True)
        with output.open("ab") as file:
            self._process = subprocess.Popen(
                command.words,
                env={**os.environ, **command.environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """End it, and whatever it has started."""
        if self.code is None:
            self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_WITHIN)
        _kill_session(self._process.pid)
        self._process.wait()

    def last_lines(self, most: int = 12) -> str:
        """The end of its output."""
        return "\n".join(self.output.read_text(encoding="utf-8", errors="replace").splitlines()[-most:])


def run(command: Command, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run a program to its end.

    Raises:
        RunError: it takes too long.
    """
    try:
        return subprocess.run(
            command.words, env={**os.environ, **command.environment}, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired as error:
        raise RunError(f"{' '.join(command.words[:3])} did not end within {timeout:g} s") from error


def wait_until(ready: Callable[[], bool], program: Program, timeout: float) -> None:
    """Wait until a program is ready.

    Raises:
        RunError: it ended before, or the time is over.
    """
    deadline = time.monotonic() + timeout
    while not ready():
        if program.code is not None:
            raise RunError(f"{program.command.words[0]} ended with exit code {program.code}; see {program.output}")
        if time.monotonic() > deadline:
            raise RunError(f"{program.command.words[0]} is not ready after {timeout:g} s; see {program.output}")
        time.sleep(0.1)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Make SIGTERM what Ctrl-C is, also where a script started this in the background, which ignores Ctrl-C."""

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGTERM)


def _kill_session(leader: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
