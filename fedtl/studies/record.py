"""A study's folder: ``study.json`` says which runs belong to it, why, and what became of each.

The runs lie below it, each a run's folder as any other: those that answer the question under ``runs/``, those that
only served to choose hyperparameters under ``search/``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from fedtl.choice import ConfigError, shown
from fedtl.disk.durable import put
from fedtl.runs.history import Run, load

FILE = "study.json"
FORMAT = 1

State = Literal["waiting", "running", "finished", "pruned", "failed"]


@dataclass(frozen=True)
class Cell:
    """One method in one setting: what all of its seeds have in common.

    Attributes:
        name: unlike any other cell's, as ``"pfedme alpha=0.1"``.
        variant: the variant's name.
        setting: the axes' keys and values, as ``{"data.partition.alpha": 0.1}``.
        overrides: every dotted key that differs from the study's base config, with its value; of a cell that is tuned
            without what the search has to choose.
        chosen: the hyperparameters that the search chose; None where nothing was searched, or not yet.
    """

    name: str
    variant: str
    setting: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    chosen: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Planned:
    """One run of a study.

    Attributes:
        folder: the run's, relative to the study's.
        cell: the name of its cell.
        seed: of the run.
        state: ``waiting``, ``running``, ``finished``, ``pruned`` (a trial that its search gave up) or ``failed``.
        trial: the number of the trial that it is in its cell's search; None for a run that answers the question.
        values: a trial's hyperparameters.
        value: a trial's score on validation samples; None while it has none.
        part: over which part of the clients it is, as ``"4 of 5 clients"``, where some are missing from it; empty where
            none is, and None where nobody has looked, as in records of earlier versions.
        failure: why it failed, in a sentence.
        seconds: that its process worked on it.
    """

    folder: str
    cell: str
    seed: int
    state: State = "waiting"
    trial: int | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    value: float | None = None
    part: str | None = None
    failure: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Study:
    """What was asked, and which runs are to answer it.

    Attributes:
        folder: the study's.
        name: as of its first line.
        question: in the words of who asks; may be empty.
        command: that began it.
        base: the config that all runs start from, resolved.
        variants: the names of the methods compared, in order.
        axes: the settings: dotted keys with their values, in order.
        seeds: of each cell.
        search: how hyperparameters are chosen, as the study's file says; empty where none are.
        cells: variants in every setting.
        runs: trials and runs of all cells.
        notes: what a reader must know, a sentence each.
    """

    folder: Path
    name: str
    question: str = ""
    command: tuple[str, ...] = ()
    base: Mapping[str, Any] = field(default_factory=dict)
    variants: tuple[str, ...] = ()
    axes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    search: Mapping[str, Any] = field(default_factory=dict)
    cells: tuple[Cell, ...] = ()
    runs: tuple[Planned, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def load(cls, folder: str | Path) -> Study:
        """Read a study.

        Raises:
            ConfigError: there is none, or its file cannot be read.
        """
        folder = Path(folder)
        file = folder / FILE
        try:
            table = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{folder} is no study: it has no {FILE}") from None
        except (OSError, ValueError) as error:
            raise ConfigError(f"{file} cannot be read: {error}") from None
        if not isinstance(table, dict):
            raise ConfigError(f"{file} is damaged: it holds {shown(table)}, and no table; restore it from a copy")
        if table.get("format") != FORMAT:
            raise ConfigError(f"{file} has format {table.get('format')!r}; this version of fedtl reads {FORMAT}")
        try:
            return TypeAdapter(cls).validate_python({**table, "folder": folder})
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ConfigError(f"{file} is damaged: {place}: {first['msg']}; restore it from a copy") from error

    def save(self) -> None:
        """Write the study's file, whole or not at all."""
        table = asdict(self)
        del table["folder"]
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / f".{FILE}.{os.getpid()}"
        unfinished.write_text(json.dumps({"format": FORMAT, **table}, indent=1, default=str) + "\n")
        put(unfinished, self.folder / FILE)

    @property
    def finals(self) -> tuple[Planned, ...]:
        """The runs that answer the question, without trials."""
        return tuple(run for run in self.runs if run.trial is None)

    @property
    def failed(self) -> tuple[Planned, ...]:
        """Runs and trials that failed."""
        return tuple(run for run in self.runs if run.state == "failed")

    def trials(self, cell: str) -> tuple[Planned, ...]:
        """The trials of a cell's search, in order."""
        return tuple(run for run in self.runs if run.cell == cell and run.trial is not None)

    def load_runs(self) -> list[Run]:
        """The records of the finished runs that answer the question."""
        return [load(self.folder / run.folder) for run in self.finals if run.state == "finished"]


def is_study(folder: str | Path) -> bool:
    """Whether a folder is a study's."""
    return (Path(folder) / FILE).is_file()
