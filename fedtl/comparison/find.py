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
    """Runs, and where they come from.

    Attributes:
        runs: in order.
        notes: a sentence for each that cannot be read.
        study: that all of them belong to; None where there is no such.
    """

    runs: list[Run]
    notes: list[str]
    study: Study | None = None


def load_all(sources: Iterable[Run | str | Path]) -> Loaded:
    """Read runs; of a study those that answer its question, of another folder all below it. Each folder counts once.

    What lies within a run's folder, as its baselines do, has to be named itself.

    Raises:
        ConfigError: a folder is no run and holds none, or a run that was named itself is broken.
    """
    runs: dict[Path, Run] = {}
    notes = []
    origins: list[Study | None] = []
    for source in sources:
        if isinstance(source, Run):
            runs.setdefault(source.path.resolve(), source)
            origins.append(None)
            continue
        path = Path(source)
        study = Study.load(path) if is_study(path) else None
        origins.append(study)
        if study is not None:
            folders, unfinished = _of_study(study)
            notes += unfinished
            if not folders:
                raise ConfigError(f"no run of the study {path} is finished yet")
        else:
            folders = [path] if (path / "config.toml").exists() or not path.is_dir() else runs_below(path)
        if not folders:
            raise ConfigError(f"{path} is not a run's folder, and holds none: a run has config.toml and rounds.jsonl")
        for folder in folders:
            try:
                run = load(folder)
                if folder != path:  # else whoever shows what is in a broken file says so
                    run.read_all()
                runs.setdefault(folder.resolve(), run)
            except ConfigError as error:
                if folder == path:
                    raise
                notes.append(f"Left out: {error}.")
    if not runs:
        raise ConfigError(notes[0].removeprefix("Left out: ").rstrip(".") if notes else "there is no run to compare")
    return Loaded(list(runs.values()), notes, origins[0] if len(origins) == 1 else None)


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
