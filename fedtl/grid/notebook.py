"""What a notebook or a script defines itself, for actors, whose processes have a ``__main__`` of their own."""

from __future__ import annotations

import functools
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from fedtl.choice import MAIN, ConfigError, load_object

T = TypeVar("T")


def definitions(tables: Mapping[str, Any]) -> bytes | None:
    """Everything that a config names in this process's ``__main__``, by value; None where it names nothing there.

    Args:
        tables: of the config.

    Raises:
        ConfigError: something cannot be pickled, as what it uses (an open file, a lock) is of this process.
    """
    objects: dict[str, Any] = {}
    for key, path in _names(tables, ""):
        outermost = path.partition(":")[2].split(".")[0]
        try:
            objects[outermost] = load_object(f"{MAIN}:{outermost}", key)
            _pickled(objects[outermost])
        except ConfigError:
            continue  # a mere label: the config would not have been read otherwise
        except Exception as error:  # whatever an object's own __reduce__ raises
            why = " ".join(f"{type(error).__name__}: {error}".split())
            raise ConfigError(f"{key} = {path!r}: it cannot be sent to actors ({why}); put it in a .py file") from error
    # Together, so that a class and one that derives from it stay related.
    return _pickled(objects) if objects else None


def with_definitions(make: Callable[..., T], defined: bytes | None) -> Callable[..., T]:
    """``make``, which first lets its process's ``__main__`` have what :func:`definitions` found elsewhere."""
    return make if defined is None else functools.partial(_define_and_make, defined, make)


def define(defined: bytes) -> None:
    """Let this process's ``__main__`` have what :func:`definitions` found in another one's."""
    for name, value in pickle.loads(defined).items():
        setattr(sys.modules[MAIN], name, value)


def module_path() -> list[str]:
    """Where this process looks for modules, as whole paths: another one may begin in another directory."""
    return [os.path.abspath(folder) for folder in ["", *sys.path]]


def _pickled(value: Any) -> bytes:
    from ray import cloudpickle  # what is of __main__ goes by value

    pickled: bytes = cloudpickle.dumps(value)  # type: ignore[no-untyped-call]
    return pickled


def _define_and_make(defined: bytes, make: Callable[..., T], *parts: Any) -> T:
    define(defined)
    return make(*parts)


def _names(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Where a config names something of ``__main__``, and what."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            below = f"{key}.{name}" if key else name
            yield from _names(inner, below)
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            yield from _names(inner, f"{key}[{i}]")
    elif isinstance(value, str) and value.startswith(f"{MAIN}:"):
        yield key, value
