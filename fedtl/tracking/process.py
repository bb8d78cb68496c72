"""The process beside a run that fills its trackers, as the run sees it.

It reads the run's record alone, so that no tracker can change a bit of the run, slow its rounds down or end it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from fedtl.tracking.place import LOG, PLACE

LONGEST = 300.0
"""Seconds that a run's end waits for trackers that go on writing."""

SILENT = 60.0
"""Seconds without a round written after which nothing more is waited for; a tracker may take some of it to open."""

HURRIED = 10.0
"""Seconds that a run waits which Ctrl-C has ended; another Ctrl-C is not heard then."""

SAID_AFTER = 3.0
"""Seconds after which a run says what it waits for; and that it gives the last notes to come in."""

LOOK = 0.5
"""Seconds between two looks at the clock."""


class Tracking:
    """Starts the process when it is entered, and ends it with the run.

    Args:
        folder: the run's.
        tables: the config's entries of ``tracking``; without any nothing happens.
        note: told, in a sentence, of a tracker that has failed.
        say: told what is waited for, which need not be recorded.
    """

    def __init__(
        self,
        folder: Path,
        tables: Sequence[Mapping[str, Any]],
        note: Callable[[str], None],
        say: Callable[[str], None],
    ) -> None:
        self._folder, self._tables, self._note, self._say = folder, tables, note, say
        self._heard = 0.0
        """When the process last told something, or the wait for it began, of :func:`time.monotonic`."""
        self._process: subprocess.Popen[bytes] | None = None
        self._listener: threading.Thread | None = None

    def __enter__(self) -> Tracking:
        """Start."""
        if not self._tables:
            return self
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        try:
            (self._folder / PLACE).mkdir(exist_ok=True)
            with (self._folder / PLACE / LOG).open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "fedtl.tracking", str(self._folder)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=environment,
                    start_new_session=True,  # Ctrl-C ends the run, and the run ends this
                )
        except OSError as error:
            self._note(f"tracking could not start: {error.strerror or error}; the run goes on without it")
            return self
        assert self._process.stdout is not None
        self._listener = threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True)
        self._listener.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Say how the run has ended, and wait for the last rounds."""
        process = self._process
        if process is None or process.stdin is None or self._listener is None:
            return
        with suppress(OSError):  # it may have died
            process.stdin.write(b"failed\n" if error else b"finished\n")
            process.stdin.close()
        hurried = error is not None and not isinstance(error, Exception)  # Ctrl-C
        try:
            late = self._late(process, hurried)
        except BaseException:  # Ctrl-C while it waits
            self._end(process)
            self._note(f"tracking was not finished when the run was stopped; {self._remedy}")
            raise
        if late:
            self._end(process)
            self._note(f"tracking was not finished {late}; {self._remedy}")
        elif process.returncode:
            log = self._folder / PLACE / LOG
            self._note(f"tracking has ended with exit status {process.returncode}, see {log}; {self._remedy}")
        self._listener.join(SAID_AFTER)

    def _late(self, process: subprocess.Popen[bytes], hurried: bool) -> str:
        """Wait until the process has ended; gives in words when it should have, and nothing if it has."""
        began = self._heard = time.monotonic()
        longest, said = HURRIED if hurried else LONGEST, False
        while True:
            with suppress(subprocess.TimeoutExpired):
                process.wait(LOOK)
                return ""
            now = time.monotonic()
            if now - began > SAID_AFTER and not said:
                names = " and ".join(str(table["name"]) for table in self._tables)
                self._say(
                    f"waiting until {names} {'has' if len(self._tables) == 1 else 'have'} the last rounds, for "
                    f"{longest:g} s at most{'' if hurried else '; Ctrl-C leaves them out'}"
                )
                said = True
            if now - began > longest:
                return f"{longest:g} s after the run"
            if now - self._heard > SILENT:
                return f"after the run, and wrote nothing for {SILENT:g} s"

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Kill the process and what it has started."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    @property
    def _remedy(self) -> str:
        return f"fedtl run {self._folder} --resume writes what is missing"

    def _listen(self, notes: IO[bytes]) -> None:
        """Pass on what the process tells."""
        for line in notes:
            told = json.loads(line)
            if "error" in told:
                self._note(
                    f"tracking: {told['tracker']} has failed: {told['error']}; the run goes on without it, and "
                    f"{self._remedy}"
                )
            self._heard = time.monotonic()
