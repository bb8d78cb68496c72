"""``python -m fedtl.tracking RUN``: started by a run, beside itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fedtl.tracking.follow import follow


def main() -> None:
    """Follow the run in the folder that is the only argument."""
    notes = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what trackers print goes to the log
    follow(Path(sys.argv[1]), sys.stdin.buffer, notes)


if __name__ == "__main__":
    main()
