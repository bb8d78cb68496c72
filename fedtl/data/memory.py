"""Data that no memory holds are an error before they are made, and not the end of the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from fedtl.choice import ConfigError


def need_memory(key: str, needed: int) -> None:
    """Check that an array of so many bytes could be in this machine's memory.

    Linux promises more memory than there is, and ends whichever process then uses it.

    Raises:
        ConfigError: there is less memory than that in all; ``key`` begins the message.
    """
    there = _memory()
    if there is not None and needed > there:
        raise ConfigError(
            f"{key}: that takes {_in_words(needed)} of memory, and this machine has {_in_words(there)}; make it smaller"
        )


@contextmanager
def enough_memory(key: str) -> Iterator[None]:
    """Make one sentence of whatever array there was no room for; ``key`` begins it."""
    try:
        yield
    except MemoryError as error:
        what = " ".join(str(error).split()) or "there is no room for an array"
        raise ConfigError(f"{key}: this machine's memory does not hold it ({what}); make it smaller") from error


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # systems that do not say it
        return None


def _in_words(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
