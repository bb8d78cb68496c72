"""The process beside a run that fills its trackers, as the run sees it.

It reads the run's record alone, so that no tracker can change a bit of the run, slow its rounds down or end it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from fedtl.tracking.place import LOG, PLACE

PATIENCE = 300.0
"""Seconds that a run's end waits for its trackers."""


class Tracking:
    """Starts the process when it is entered, and ends it with the run.

    Args:
        folder: the run's.
        tables: the config's entries of ``tracking``; without any nothing happens.
        note: told, in a sentence, of a tracker that has failed.
    """

    def __init__(self, folder: Path, tables: Sequence[Mapping[str, Any]], note: Callable[[str], None]) -> None:
        self._folder, self._tables, self._note = folder, tables, note
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
        try:
            code = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self._note(f"tracking was not finished {PATIENCE:g} s after the run; {self._remedy}")
        else:
            if code:
                log = self._folder / PLACE / LOG
                self._note(f"tracking has ended with exit status {code}, see {log}; {self._remedy}")
        self._listener.join(PATIENCE)

    @property
    def _remedy(self) -> str:
        return f"fedtl run {self._folder} --resume writes what is missing"

    def _listen(self, notes: IO[bytes]) -> None:
        """Pass on what the process tells."""
        for line in notes:
            failure = json.loads(line)
            self._note(
                f"tracking: {failure['tracker']} has failed: {failure['error']}; the run goes on without it, and "
                f"{self._remedy}"
            )
