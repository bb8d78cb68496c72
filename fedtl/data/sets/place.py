"""Where a user's own data are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedtl.choice import ConfigError


def expanded(path: str, what: str, key: str = "data.path") -> Path:
    """A path as the system knows it, ``what`` is to be there: a "file", a "folder".

    Raises:
        ConfigError: it is of somebody's home who is not there, or cannot be a path; ``key`` begins the message.
    """
    try:
        place = Path(path).expanduser()
    except RuntimeError:  # pathlib's word for ~somebody who is not there
        place = None
    if place is None or "\0" in path:
        raise ConfigError(f"{key} = {path!r}: there is no such {what}")
    return place


@contextmanager
def readable(path: str, what: str, key: str = "data.path") -> Iterator[Path]:
    """The same, with one sentence for what the system says while it is looked into."""
    place = expanded(path, what, key)
    try:
        yield place
    except OSError as error:
        raise ConfigError(f"{key} = {path!r} cannot be read: {error.strerror or error}") from error
