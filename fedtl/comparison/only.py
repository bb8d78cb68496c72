"""Some of many: groups and cells that fit words, as ``pfedme`` and ``alpha=0.1``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from fedtl.choice import ConfigError, nearest
from fedtl.comparison.groups import Group, fits
from fedtl.comparison.naming import shown
from fedtl.studies import Cell, Study


def only_groups(groups: Sequence[Group], words: Iterable[str]) -> list[Group]:
    """The groups that fit: one of the methods that are named, and of each key one of its values.

    Raises:
        ConfigError: none does.
    """
    words = list(words)
    kept = [group for group in groups if _all(words, partial(fits, group))]
    if not kept:
        known = {group.variant for group in groups} | {
            f"{key.rpartition('.')[2]}={shown(value)}" for group in groups for key, value in group.setting.items()
        }
        raise ConfigError(f"--only = {', '.join(words)}: no run fits: {nearest(words[0], known)}")
    return kept


def only_study(study: Study, words: Iterable[str]) -> Study:
    """The study as if it had the cells alone that fit."""
    words = list(words)
    cells = [cell for cell in study.cells if _all(words, partial(_has, cell))]
    names = {cell.name for cell in cells}
    variants = {cell.variant for cell in cells}
    return replace(
        study,
        cells=tuple(cells),
        variants=tuple(each for each in study.variants if each in variants),
        runs=tuple(run for run in study.runs if run.cell in names),
    )


def _has(cell: Cell, key: str, value: str) -> bool:
    """As :func:`fedtl.comparison.groups.fits`, of a cell that may have no run."""
    if not value:
        return key in (cell.variant, str(cell.overrides.get("strategy.name")))
    fitting = [each for each in cell.setting if each == key or each.endswith(f".{key}") or each == f"{key}.name"]
    return any(value in (shown(cell.setting[each]), str(cell.setting[each])) for each in fitting)


def _all(words: Sequence[str], has: Callable[[str, str], bool]) -> bool:
    """Whether of each key some value is had, and some of the words that have none."""
    pairs = [word.partition("=") for word in words]
    by_key: dict[str, list[tuple[str, str]]] = {}
    for key, sign, value in pairs:
        by_key.setdefault(key if sign else "", []).append((key, value))
    return all(any(has(key, value) for key, value in alternatives) for alternatives in by_key.values())
