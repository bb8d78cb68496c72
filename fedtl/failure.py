"""What ends a run that was asked for rightly."""

from __future__ import annotations


class RunError(RuntimeError):
    """A run cannot go on; the message is one sentence that says why."""


class OutputError(RunError):
    """The run's folder cannot be written."""


def may_fail(share: float, clients: int) -> int:
    """How many of some clients ``max_failures`` allows to fail: 0.58 of 50 are 29, which as floats is a little less."""
    return int(share * clients + 1e-9)
