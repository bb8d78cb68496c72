"""A study's folder: what is written when it begins, and what must be the same when it goes on."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import tomli_w

from fedtl.choice import ConfigError
from fedtl.config.read import build, is_run, load_tables
from fedtl.disk.durable import put
from fedtl.studies import Cell, Planned, Study, is_study
from fedtl.studies.record import FILE
from fedtl.sweeps.file import BASE, STUDY
from fedtl.sweeps.plan import Plan


def open_record(plan: Plan, folder: Path, command: tuple[str, ...]) -> Study:
    """The record of a plan: a new one, or that of the study that goes on in a folder.

    Runs that were going on, or whose folder is gone, wait; all others are as they were.

    Raises:
        ConfigError: the folder holds something else, or a study that differs.
    """
    if is_run(folder):
        raise ConfigError(f"{folder} is a run's folder: choose another with --out")
    before = Study.load(folder) if is_study(folder) else None
    if before is not None:
        _check_same(before, plan, folder)
    there = {} if before is None else {run.folder: run for run in before.runs}
    cells = {} if before is None else {cell.name: cell for cell in before.cells}
    return Study(
        folder=folder,
        name=plan.asked.file.name,
        question=plan.asked.file.question,
        command=before.command if before else command,
        base=_resolved(plan),
        variants=plan.variants,
        axes=plan.axes,
        seeds=plan.seeds,
        search=plan.record(),
        cells=tuple(_with_choice(each.cell, cells.get(each.cell.name)) for each in plan.cells),
        runs=tuple(_as_it_is(run, there.get(run.folder), folder) for run in plan.runs()),
    )


def write_inputs(plan: Plan, folder: Path) -> None:
    """Write the study's file and its base config, from which it goes on wherever they came from."""
    text = plan.asked.text
    if text is None:
        text = tomli_w.dumps(plan.asked.file.model_dump(mode="json", exclude_none=True, exclude_defaults=True))
    folder.mkdir(parents=True, exist_ok=True)
    for name in (BASE, STUDY, FILE):
        for left in folder.glob(f".{name}.*"):  # by a process that was killed
            left.unlink(missing_ok=True)
    for name, content in ((BASE, tomli_w.dumps(plan.asked.base)), (STUDY, text)):
        unfinished = folder / f".{name}.{os.getpid()}"
        unfinished.write_text(content, encoding="utf-8")
        put(unfinished, folder / name)


def _as_it_is(run: Planned, before: Planned | None, folder: Path) -> Planned:
    """A run with what became of it."""
    if before is None:
        return run
    gone = before.state == "finished" and not (folder / run.folder / "model.safetensors").is_file()
    return replace(before, state="waiting") if gone or before.state == "running" else before


def _with_choice(cell: Cell, before: Cell | None) -> Cell:
    return cell if before is None else replace(cell, chosen=before.chosen)


def _resolved(plan: Plan) -> Mapping[str, Any]:
    try:
        return build(plan.asked.base).tables()
    except ConfigError:  # what it lacks, the study's methods give
        return plan.asked.base


def _check_same(before: Study, plan: Plan, folder: Path) -> None:
    """Check that a study only has more methods, values or seeds than it had before.

    Raises:
        ConfigError: something else differs.
    """
    other = f"the study in {folder}"
    if (folder / BASE).is_file() and load_tables(folder / BASE) != _plain(plan.asked.base, toml=True):
        raise ConfigError(f"config: {other} began with another; restore it, or choose another folder with --out")
    cells = {each.cell.name: each.cell for each in plan.cells}
    for cell in before.cells:
        if cell.name not in cells:
            raise ConfigError(f"{other} has {cell.name!r}, and this one has not; put it back, or choose another --out")
        now = cells[cell.name]
        for key in {**cell.overrides, **now.overrides}:
            old, new = (_plain(each.overrides.get(key)) for each in (cell, now))
            if old != new:
                here = f"{key} = {new!r}" if key in now.overrides else f"{key} is not given"
                there = f"it is {old!r}" if key in cell.overrides else "it is not given"
                raise ConfigError(f"{cell.name}: {here}, and in {other} {there}; restore it, or choose another --out")
    cell_of = {run.folder: run.cell for run in before.runs}
    for run in plan.runs():
        if (had := cell_of.get(run.folder, run.cell)) != run.cell:
            raise ConfigError(
                f"{run.cell}: in {other} its folder {run.folder} is that of {had!r}; give it another name, or choose "
                "another --out"
            )
    missing = sorted(set(before.seeds) - set(plan.seeds))
    if missing:
        raise ConfigError(f"seeds: {other} has the seed {missing[0]}; put it back, or choose another --out")
    _check_search(before, plan, other)


def _check_search(before: Study, plan: Plan, other: str) -> None:
    old, new = _plain(before.search), _plain(plan.record())
    spaces_before, spaces = (each.pop("space", {}) for each in (old, new))
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            raise ConfigError(
                f"search.{key} = {new.get(key)!r}, and in {other} it is {old.get(key)!r}; restore it, or choose "
                "another --out"
            )
    for name, space in spaces_before.items():
        if spaces.get(name, {}) != space:
            raise ConfigError(f"{name}: {other} searches another space; restore it, or choose another --out")
    if old and before.seeds[0] != plan.seeds[0]:
        raise ConfigError(f"seeds: trials are made with the first, which is {before.seeds[0]} in {other}; restore it")


def _plain(value: Any, toml: bool = False) -> Any:
    """A value as a file gives it back."""
    return tomllib.loads(tomli_w.dumps(value)) if toml else json.loads(json.dumps(value, default=str))
