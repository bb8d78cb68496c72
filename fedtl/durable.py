"""Files that are there whole or not at all, after a crash and, where that is asked for, after a power cut."""

from __future__ import annotations

import os
from pathlib import Path


def put(unfinished: Path, target: Path, durable: bool = False) -> None:
    """Give a finished file its name, in place of what had it before.

    Args:
        unfinished: the file, in the same folder.
        target: its name.
        durable: wait until the disk has it.
    """
    if durable:
        settle(unfinished)
    unfinished.replace(target)
    if durable:
        settle(target.parent)


def settle(path: Path) -> None:
    """Wait until the disk has a file's content, or a folder's names."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
