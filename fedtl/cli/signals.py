"""Signals that end a command as Ctrl-C does."""

from __future__ import annotations

import signal
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

NOTICED_WITHIN = 0.5
"""Seconds after which a signal that nobody noticed is raised again."""


def of_a_run() -> tuple[signal.Signals, ...]:
    """What ends a run: a scheduler's SIGTERM, and Ctrl-C unless it is ignored, as in what a script began."""
    return (signal.SIGTERM,) if signal.getsignal(signal.SIGINT) == signal.SIG_IGN else (signal.SIGTERM, signal.SIGINT)


@contextmanager
def ended_by_signals(which: Collection[signal.Signals] = ENDING) -> Iterator[None]:
    """Make signals end the ``with`` block with KeyboardInterrupt, even those that a script's jobs ignore.

    An exception that a signal raises is lost where Python cannot let one out, as while it forks or collects garbage,
    so it is raised again until somebody handles it; and compiled code may make another exception of it, which then
    counts as the signal's.

    Raises:
        KeyboardInterrupt: a signal came.
    """
    signalled = False

    def interrupt(_: int, __: FrameType | None) -> None:
        nonlocal signalled
        signalled = True
        if isinstance(sys.exception(), KeyboardInterrupt):  # it is being handled, which takes a while
            signal.setitimer(signal.ITIMER_REAL, 0)
            return
        signal.setitimer(signal.ITIMER_REAL, NOTICED_WITHIN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (*which, signal.SIGALRM)}
    try:
        yield
    except Exception:
        if signalled:
            raise KeyboardInterrupt from None
        raise
    finally:
        for number in before:  # none may begin anew while they are put back
            signal.signal(number, signal.SIG_IGN)
        if signalled:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
