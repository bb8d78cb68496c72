"""Which runs there are: folders that were named, and those below them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from fedtl.choice import ConfigError
from fedtl.runs.history import Run, load
from fedtl.studies import Study, is_study


class Loaded(NamedTuple):
    """Runs, and a sentence for each that cannot be read."""

    runs: list[Run]
    notes: list[str]


def load_all(sources: Iterable[Run | str | Path]) -> Loaded:
    """Read runs; of a study those that answer its question, of another folder all below it. Each folder counts once.

    What lies within a run's folder, as its baselines do, has to be named itself.

    Raises:
        ConfigError: a folder is no run and holds none, or a run that was named itself is broken.
    """
    runs: dict[Path, Run] = {}
    notes = []
    for source in sources:
        if isinstance(source, Run):
            runs.setdefault(source.path.resolve(), source)
            continue
        path = Path(source)
        if is_study(path):
            folders, unfinished = _of_study(Study.load(path))
            notes += unfinished
        else:
            folders = [path] if (path / "config.toml").exists() or not path.is_dir() else runs_below(path)
        if not folders:
            raise ConfigError(f"{path} is not a run's folder, and holds none: a run has config.toml and rounds.jsonl")
        for folder in folders:
            try:
                runs.setdefault(folder.resolve(), load(folder))
            except ConfigError as error:
                if folder == path:
                    raise
                notes.append(f"Left out: {error}.")
    if not runs:
        raise ConfigError(notes[0].removeprefix("Left out: ").rstrip(".") if notes else "there is no run to compare")
    return Loaded(list(runs.values()), notes)


def _of_study(study: Study) -> tuple[list[Path], list[str]]:
    """The folders of a study's finished runs, and a sentence if others are missing; its trials are not compared."""
    finished = [run for run in study.finals if run.state == "finished"]
    missing = len(study.finals) - len(finished)
    failed = sum(run.state == "failed" for run in study.finals)
    note = f"Of the study {study.name!r} {missing} of {len(study.finals)} runs are missing; {failed} of them failed."
    return [study.folder / run.folder for run in finished], [note] * bool(missing)


def runs_below(folder: Path) -> list[Path]:
    """The runs' folders below a folder, in order, without those within a run."""
    folders = []
    for name, inner, files in os.walk(folder):
        if {"config.toml", "rounds.jsonl"} <= set(files):
            folders.append(Path(name))
            inner.clear()
        inner.sort()
    return folders
