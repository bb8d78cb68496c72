"""Data that no memory holds are an error before they are made, and not the end of the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedtl.choice import ConfigError

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]

CONTAINER = Path("/sys/fs/cgroup/memory.max")
"""Where Linux says how much memory a container may use."""


def need_memory(key: str, needed: int) -> None:
    """Check that an array of so many bytes could be in this machine's memory, or in what of it the process may use.

    Linux promises more memory than there is, and ends whichever process then uses it.

    Raises:
        ConfigError: there is less memory than that in all; ``key`` begins the message.
    """
    available = available_memory()
    if available is not None and needed > available:
        raise ConfigError(
            f"{key}: that takes {_in_words(needed)} of memory, and this machine has {_in_words(available)}; "
            "make it smaller"
        )


@contextmanager
def enough_memory(key: str) -> Iterator[None]:
    """Make one sentence of whatever array there was no room for; ``key`` begins it."""
    try:
        yield
    except MemoryError as error:
        what = " ".join(str(error).split()) or "there is no room for an array"
        raise ConfigError(f"{key}: this machine's memory does not hold it ({what}); make it smaller") from error


def available_memory() -> int | None:
    """The bytes that this process may have: the machine's, a container's, or those of ``ulimit -v``."""
    limits = [limit for limit in (_of_machine(), _of_container(), _of_process()) if limit is not None]
    return min(limits, default=None)


def _of_machine() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # systems that do not say it
        return None


def _of_container() -> int | None:
    try:
        text = CONTAINER.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # else "max"


def _of_process() -> int | None:
    if not hasattr(resource, "RLIMIT_AS"):
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _in_words(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
