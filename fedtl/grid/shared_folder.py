"""Whether a process on another machine sees the same folder."""

from __future__ import annotations

import uuid
from pathlib import Path


class FolderMark:
    """A file with a name of its own in a folder; who finds it there sees the same folder.

    Args:
        folder: is made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        # A new name each time: what a network file system has never been asked for, it has not cached as absent.
        self.file = folder / f".seen-{uuid.uuid4().hex}"
        self.file.touch()

    def remove(self) -> None:
        """Leave the folder as it was."""
        self.file.unlink(missing_ok=True)
