"""Where time goes: in a process by what it is doing, among a grid's actors by whether they have work.

Both are off until somebody profiles, and then cost a call that returns at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType

OTHER = "other"
"""What is in no part."""

_NOTHING: AbstractContextManager[None] = nullcontext()


class Clock:
    """Tells a process's time apart by parts.

    A moment belongs to one part alone, the innermost that has begun, so that the parts add up to the whole.

    Args:
        settle: is called before each change of part: waits for what a device has not finished yet.
        now: the time in seconds.
    """

    def __init__(
        self, settle: Callable[[], object] | None = None, now: Callable[[], float] = time.perf_counter
    ) -> None:
        self._settle, self._now = settle, now
        self._on = False
        self._part, self._since = OTHER, 0.0
        self._seconds: dict[str, float] = {}

    def part(self, name: str) -> AbstractContextManager[None]:
        """In the ``with`` block time is that of the part ``name``; afterwards that of the part before."""
        return _TimedBlock(self, name) if self._on else _NOTHING

    def start(self) -> None:
        """Count from now on, from nothing."""
        self._on, self._part, self._since, self._seconds = True, OTHER, self._now(), {}

    def lap(self) -> dict[str, float]:
        """Each part's seconds since the start or the lap before; together they are all that passed."""
        self.turn_to(self._part)
        seconds, self._seconds = self._seconds, {}
        return seconds

    def stop(self) -> dict[str, float]:
        """Count no longer; as :meth:`lap`."""
        seconds = self.lap()
        self._on = False
        return seconds

    def turn_to(self, name: str) -> str:
        """From now on time is that of another part; the name of the one before."""
        if self._settle:
            self._settle()
        now, before = self._now(), self._part
        self._seconds[before] = self._seconds.get(before, 0.0) + now - self._since
        self._part, self._since = name, now
        return before


class _TimedBlock:
    """A clock's part, for a ``with`` block: a third of the time of a generator's."""

    __slots__ = ("_before", "_clock", "_name")

    def __init__(self, clock: Clock, name: str) -> None:
        self._clock, self._name = clock, name

    def __enter__(self) -> None:
        self._before = self._clock.turn_to(self._name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._clock.turn_to(self._before)


class Headcount:
    """How long a grid's actors were at work, waited for each other, or waited for the server.

    Args:
        now: the time in seconds.
    """

    AT_WORK, FOR_OTHERS, FOR_SERVER = "at work", "waiting for others", "waiting for the server"

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self.on = False
        self._since = 0.0
        self._counts: dict[str, int] = {}
        self._seconds: dict[str, float] = {}

    def start(self) -> None:
        """Count from now on, from nothing."""
        self.on, self._since, self._counts, self._seconds = True, self._now(), {}, {}

    def now(self, at_work: int = 0, for_others: int = 0, for_server: int = 0) -> None:
        """From now on so many actors are in each state; nothing is counted where nobody profiles."""
        if self.on:
            self._count()
            self._counts = {self.AT_WORK: at_work, self.FOR_OTHERS: for_others, self.FOR_SERVER: for_server}

    def lap(self) -> dict[str, float]:
        """Each state's seconds, of all actors together, since the start or the lap before."""
        self._count()
        seconds, self._seconds = self._seconds, {}
        return seconds

    def _count(self) -> None:
        now = self._now()
        for state, actors in self._counts.items():
            self._seconds[state] = self._seconds.get(state, 0.0) + actors * (now - self._since)
        self._since = now
