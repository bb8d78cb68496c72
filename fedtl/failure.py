"""What ends a run that was asked for rightly."""

from __future__ import annotations


class RunError(RuntimeError):
    """A run cannot go on; the message is one sentence that says why."""


class OutputError(RunError):
    """The run's folder cannot be written."""
