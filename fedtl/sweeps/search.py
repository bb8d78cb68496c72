"""Choosing hyperparameters: what is tried next, and which of what was tried is best on validation samples."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from fedtl.comparison.naming import shown
from fedtl.runs.best import VALIDATION, first_best, serving_score
from fedtl.runs.history import load
from fedtl.studies import Planned
from fedtl.sweeps.file import Search
from fedtl.sweeps.plan import PlannedCell, Trial
from fedtl.sweeps.space import Space, Values


class CellSearch(Protocol):
    """The search of one cell, trial by trial."""

    in_turn: bool
    """Whether a trial's values depend on how the trials before it ended."""

    def begin(self, trial: Trial) -> Values:
        """A trial's values, when it begins or goes on."""

    def goes_on(self, number: int, round: int, value: float) -> bool:
        """Told of a trial's score in a round, perhaps once more; whether it is worth going on."""

    def ended(self, run: Planned) -> None:
        """Told how a trial ended."""


class Fixed:
    """A search whose trials are all known beforehand."""

    in_turn = False

    def begin(self, trial: Trial) -> Values:
        """The plan's."""
        return trial.values or {}

    def goes_on(self, number: int, round: int, value: float) -> bool:
        """Always."""
        return True

    def ended(self, run: Planned) -> None:
        """Nothing depends on it."""


def make_search(search: Search, cell: PlannedCell, folder: Path, ended: Sequence[Planned]) -> CellSearch:
    """The search of a cell, of which some trials have ended already."""
    if search.by != "optuna":
        return Fixed()
    from fedtl.sweeps.with_optuna import OptunaSearch

    return OptunaSearch(search, cell.cell.name, cell.space, folder, ended)


def score_of(names: Collection[str], search: Search) -> str | None:
    """Which of a run's scores trials are compared by; None where it has no such score."""
    if search.score is None:
        return serving_score(names, VALIDATION)
    return search.score if search.score in names else None


def metric_of(search: Search) -> str:
    """What trials are compared by."""
    return search.metric or "accuracy"


def value_of(scores: Mapping[str, Mapping[str, float]], search: Search) -> float | None:
    """What a scored round says of a trial; None where it says nothing."""
    name = score_of(scores.keys(), search)
    value = None if name is None else scores[name].get(metric_of(search))
    return None if value is None or not math.isfinite(value) else value


def recorded(folder: Path, search: Search) -> dict[int, float]:
    """What a trial has scored so far, by round, out of its records."""
    curves = load(folder).scores(metric_of(search))
    name = score_of(curves.keys(), search)
    if name is None:
        return {}
    curve = curves[name]
    return {int(at): float(value) for at, value in zip(curve.rounds, curve.values) if math.isfinite(value)}


def outcome(seen: Mapping[int, float], search: Search) -> float | None:
    """The value that counts of what a trial has scored; None where it has not."""
    if not seen:
        return None
    if search.at == "last":
        return seen[max(seen)]
    values = [*seen.values()]
    place = first_best(values, metric_of(search))
    return None if place is None else values[place]


def best(trials: Iterable[Planned], search: Search) -> Planned | None:
    """The finished trial with the best value, of equals the first; None where none has one."""
    finished = [run for run in trials if run.state == "finished"]
    values = [math.nan if run.value is None else run.value for run in finished]
    place = first_best(values, metric_of(search))
    return None if place is None else finished[place]


def remarks(cell: str, space: Space, trials: Sequence[Planned], chosen: Values) -> list[str]:
    """What a reader must know of a cell's search."""
    notes = []
    for key, axis in space.items():
        if key in chosen and (end := axis.edge(chosen[key])) is not None:
            notes.append(
                f"{cell}: {key} = {shown(chosen[key])} was chosen at the {end} end of what was tried; a wider range "
                "may have better ones."
            )
    failed = [run for run in trials if run.state == "failed"]
    if failed:
        notes.append(
            f"{cell}: {len(failed)} of {len(trials)} trials failed, as trial {failed[0].trial}: {failed[0].failure}."
        )
    return notes
