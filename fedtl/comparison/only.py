"""Some of many: groups and cells that fit words, as ``pfedme`` and ``alpha=0.1``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from fedtl.choice import ConfigError, nearest
from fedtl.comparison.groups import Group, fits, group_runs
from fedtl.comparison.naming import flatten, short_keys, shown
from fedtl.runs.history import Run
from fedtl.studies import Cell, Study


def only_groups(groups: Sequence[Group], words: Iterable[str]) -> list[Group]:
    """The groups that fit: one of the methods that are named, and of each key one of its values.

    Raises:
        ConfigError: none does.
    """
    words = list(words)
    kept = [group for group in groups if _all(words, group.fits)]
    if not kept:
        raise _nothing("run", words, [(group.variant, group.setting) for group in groups])
    return kept


def only_study(study: Study, words: Iterable[str], runs: Sequence[Run] = ()) -> Study:
    """The study as if it had the cells alone that fit: by their runs' configs, else by what is planned for them.

    Raises:
        ConfigError: none does.
    """
    words = list(words)
    groups = {group.name: group for group in group_runs(runs, study).groups}
    cells = [
        cell
        for cell in study.cells
        if _all(words, groups[cell.name].fits if cell.name in groups else _planned(study, cell))
    ]
    if not cells:
        raise _nothing("cell", words, [(cell.variant, cell.setting) for cell in study.cells])
    names = {cell.name for cell in cells}
    variants = {cell.variant for cell in cells}
    return replace(
        study,
        cells=tuple(cells),
        variants=tuple(each for each in study.variants if each in variants),
        runs=tuple(run for run in study.runs if run.cell in names),
    )


def _planned(study: Study, cell: Cell) -> Callable[[str, str], bool]:
    """What fits a cell that has no run."""
    config = flatten(study.base) | flatten({**cell.overrides, **cell.setting, **(cell.chosen or {})})
    return partial(fits, config, cell.variant)


def _nothing(what: str, words: Sequence[str], known: Sequence[tuple[str, Mapping[str, Any]]]) -> ConfigError:
    """That no run or cell fits, with what there is: methods and settings."""
    short = short_keys({key for _, setting in known for key in setting})
    pairs = {f"{short[key]}={shown(value)}" for _, setting in known for key, value in setting.items()}
    near = nearest(words[0], {variant for variant, _ in known} | pairs)
    return ConfigError(f"--only = {', '.join(words)}: no {what} fits: {near}")


def _all(words: Sequence[str], has: Callable[[str, str], bool]) -> bool:
    """Whether of each key some value is had, and some of the words that have none."""
    pairs = [word.partition("=") for word in words]
    by_key: dict[str, list[tuple[str, str]]] = {}
    for key, sign, value in pairs:
        by_key.setdefault(key if sign else "", []).append((key, value))
    return all(any(has(key, value) for key, value in alternatives) for alternatives in by_key.values())
