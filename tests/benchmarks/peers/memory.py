"""Peak memory of a process and all that it started, as the sum of proportional set sizes (Linux)."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

EVERY = 0.1
"""Seconds between two looks. They cost some 5 % of a core: the kernel walks each process's page tables."""
SELDOM = 1.0
"""Seconds between two looks at who is there, not at how large they are, which costs next to nothing."""


class Watch(threading.Thread):
    """Follows a tree of processes.

    Args:
        root: where it begins.
        sizes: look at the processes' sizes; if not, only at which there are.

    Attributes:
        peak: the largest sum of sizes seen, in MiB; memory that processes share counts once.
        processes: the most processes seen at one time.
        seen: pid and start time of each process that was ever part of the tree.
    """

    def __init__(self, root: int, sizes: bool) -> None:
        super().__init__(daemon=True)
        self.root, self.sizes = root, sizes
        self.peak, self.processes = 0.0, 0
        self.seen: set[tuple[int, str]] = set()
        self._done = threading.Event()

    def run(self) -> None:
        """Look until :meth:`close`."""
        while True:
            tree = descendants(self.root)
            self.seen.update(tree.items())
            self.processes = max(self.processes, len(tree))
            if self.sizes:
                self.peak = max(self.peak, sum(proportional_set_size(pid) for pid in tree))
            if self._done.wait(EVERY if self.sizes else SELDOM):
                return

    def close(self, grace: float = 5.0) -> None:
        """Stop looking; what the tree has left behind may end by itself within ``grace`` seconds, then is killed."""
        self._done.set()
        self.join()
        until = time.monotonic() + grace
        while (left := [pid for pid, started in self.seen if start_time(pid) == started]) and time.monotonic() < until:
            time.sleep(0.05)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def descendants(root: int) -> dict[int, str]:
    """The tree's processes and when each began, in the kernel's clock ticks."""
    parents, began = {}, {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents[int(entry.name)], began[int(entry.name)] = int(fields[1]), fields[19]
    pids = {root} & parents.keys()
    while more := {pid for pid, parent in parents.items() if parent in pids} - pids:
        pids |= more
    return {pid: began[pid] for pid in pids}


def start_time(pid: int) -> str | None:
    """When a process began, or None if there is none or it is dead and only waits to be reaped."""
    fields = _stat(pid)
    return fields[19] if fields and fields[0] != "Z" else None


def proportional_set_size(pid: int) -> float:
    """In MiB; 0 for a process that is gone."""
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
    return 0.0


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the state on; the command before it may hold blanks and brackets."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []
