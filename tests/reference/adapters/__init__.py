"""Adapters of reference cases to methods, a module for each group; every module here is found."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from tests.reference.adapter import Adapter


@functools.cache
def adapters() -> dict[str, Adapter]:
    """All of them, by the names of cases and of methods that they are for.

    Raises:
        ValueError: two are for the same.
    """
    by_case = dict[str, Adapter]()
    for module in sorted(each.name for each in pkgutil.iter_modules(__path__)):
        for member in vars(importlib.import_module(f"{__name__}.{module}")).values():
            own = isinstance(member, type) and issubclass(member, Adapter) and "cases" in vars(member)
            if own and member.__module__ == f"{__name__}.{module}":
                adapter = member()
                for name in adapter.cases:
                    if name in by_case:
                        raise ValueError(
                            f"{name!r} has two adapters: {type(by_case[name]).__name__}, {member.__name__}"
                        )
                    by_case[name] = adapter
    return by_case


def adapter_of(case: str) -> Adapter | None:
    """The adapter for a case's name: the longest name that it begins with, part by part; None if there is none."""
    parts = case.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((adapters()[name] for name in names if name in adapters()), None)
