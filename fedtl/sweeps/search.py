"""Choosing hyperparameters: what is tried next, and which of what was tried is best on validation samples."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from fedtl.comparison.naming import shown
from fedtl.runs.best import VALIDATION, first_best, serving_score
from fedtl.runs.history import Coverage, load
from fedtl.studies import Planned
from fedtl.sweeps.file import Search
from fedtl.sweeps.plan import PlannedCell, Trial
from fedtl.sweeps.space import Space, Values


class Value(NamedTuple):
    """What a trial has scored.

    Attributes:
        value: the number.
        coverage: over which part of the clients it is; None where that is not known.
    """

    value: float
    coverage: Coverage | None = None

    @property
    def part(self) -> str:
        """The mark that it needs where clients are missing from it; else empty."""
        return "" if self.coverage is None or self.coverage.complete else str(self.coverage)


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


def recorded(folder: Path, search: Search) -> dict[int, Value]:
    """What a trial has scored so far, by round, out of its records; not finite where a score is no number."""
    run = load(folder)
    curves = run.scores(metric_of(search))
    name = score_of(curves.keys(), search)
    if name is None:
        return {}
    return {int(at): Value(float(value), run.coverage(name, int(at))) for at, value in zip(*curves[name])}


def outcome(seen: Mapping[int, Value], search: Search) -> Value | None:
    """The value that counts of what a trial has scored; None where it has none.

    A trial whose last score is no number, as of a model that has diverged, has none in its last round. Of its rounds
    one from whose score clients are missing is the best only where there are no others.
    """
    if not seen:
        return None
    if search.at == "last":
        last = seen[max(seen)]
        return last if math.isfinite(last.value) else None
    values = [*seen.values()]
    place = first_best([each.value for each in values], metric_of(search), [not each.part for each in values])
    return None if place is None else values[place]


def best(trials: Iterable[Planned], search: Search) -> Planned | None:
    """The finished trial with the best value, of equals the first; None where none has one.

    A trial from whose value clients are missing comes behind all others: what breaks a client's model would else be
    chosen for the sake of the clients that are left.
    """
    finished = [run for run in trials if run.state == "finished"]
    values = [math.nan if run.value is None else run.value for run in finished]
    place = first_best(values, metric_of(search), [not run.part for run in finished])
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
    lacking = [run for run in trials if run.state == "finished" and run.part]
    if lacking:
        finished = sum(run.state == "finished" for run in trials)
        few = f"{len(lacking)} of {finished} finished trials"
        example = f"as trial {lacking[0].trial}, whose score is over {lacking[0].part}"
        notes.append(
            f"{cell}: clients are missing from the scores of {few}, {example}; "
            + (
                "so trials are compared over different clients."
                if len(lacking) == finished
                else "such a trial is chosen only where there is no other."
            )
        )
    failed = [run for run in trials if run.state == "failed"]
    if failed:
        notes.append(
            f"{cell}: {len(failed)} of {len(trials)} trials failed, as trial {failed[0].trial}: {failed[0].failure}."
        )
    return notes
