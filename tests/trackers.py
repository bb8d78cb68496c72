"""Trackers for the tests of tracking; little is imported, as a process of its own imports them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedtl.config.tracking import TrackedRun, Tracker, Writer


class Lines(Tracker):
    """Appends what it is given to a file.

    Attributes:
        fails_at: a round that it cannot write.
        hangs: whether it never comes to its end.
    """

    fails_at: int = 0
    hangs: bool = False

    def open(self, run: TrackedRun) -> Writer:
        return LinesWriter(run.folder / f"lines-{run.id}.jsonl", self.fails_at, self.hangs)


class LinesWriter:
    def __init__(self, file: Path, fails_at: int, hangs: bool) -> None:
        self.file, self.fails_at, self.hangs = file, fails_at, hangs

    def write(self, round: int, numbers: Mapping[str, float]) -> None:
        if round == self.fails_at:
            raise OSError(28, "No space left on device")
        self.add({"round": round, **numbers})

    def close(self, end: str) -> None:
        while self.hangs:
            time.sleep(1)
        self.add({"end": end})

    def add(self, line: Mapping[str, Any]) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")


class Others(Lines):
    """Another one."""
