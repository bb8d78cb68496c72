"""From runs to lines: runs that differ in their seed alone are one line, with one readable label."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.runs.history import Axis, Counts, Coverage, Run, Series


@dataclass(frozen=True)
class Group:
    """Runs of one config under different seeds, and the name that tells them from the picture's other groups."""

    label: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Line:
    """A group's curve: mean, smallest and largest value over its seeds, in the rounds that all of them scored.

    Attributes:
        x: cost at the end of each round, averaged over the seeds.
        runs: how many runs have this score.
        stops_early: some of them are further than the line, which ends with the slowest.
        fewer: where one of the means is over fewer clients than were asked, ``[points]``.
        lacking: of each of those means, over which part of the clients it is.
        drawn_from: of how many clients a sample was asked each time; None if all were.
    """

    x: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    runs: int
    stops_early: bool
    fewer: NDArray[np.bool_]
    lacking: tuple[Coverage, ...] = ()
    drawn_from: int | None = None


def group(runs: Iterable[Run]) -> list[Group]:
    """Gather runs by config, in the order in which they were given; the same folder counts once.

    Raises:
        ConfigError: there is no run.
    """
    unique = {run.path.resolve(): run for run in runs}
    if not unique:
        raise ConfigError("there is no run to draw")
    members: dict[str, list[Run]] = {}
    for run in unique.values():
        same = {key: value for key, value in run.config.items() if key != "seed"}
        members.setdefault(json.dumps(same, sort_keys=True, default=str), []).append(run)
    groups = list(members.values())
    return [Group(label, tuple(inner)) for label, inner in zip(_labels([inner[0] for inner in groups]), groups)]


def line(group: Group, score: str, metric: str, statistic: str, axis: Axis) -> Line | None:
    """The group's curve of one score, or None where its runs have no scored round of it in common."""
    curves = [(run, run.scores(metric, statistic).get(score), run.scored(metric).get(score)) for run in group.runs]
    return joined([(run, curve, counts) for run, curve, counts in curves if curve], axis)


def term_line(group: Group, term: str, axis: Axis) -> Line | None:
    """The group's curve of one term of the objective, or None where its runs have no round of it in common."""
    curves = [(run, run.terms().get(term), run.trained()) for run in group.runs]
    return joined([(run, curve, counts) for run, curve, counts in curves if curve], axis)


def joined(curves: Sequence[tuple[Run, Series, Counts | None]], axis: Axis) -> Line | None:
    """One line out of each run's curve, in the rounds that all have; None if there is none.

    Args:
        curves: each with over how many clients its values are, where that is known.
        axis: what the line is over.
    """
    common = sorted(set.intersection(*({int(r) for r in curve.rounds} for _, curve, _ in curves))) if curves else []
    if not common:
        return None
    values = np.stack([curve.values[np.isin(curve.rounds, common)] for _, curve, _ in curves])
    costs = [run.costs(axis) for run, _, _ in curves]
    known = [counts for _, _, counts in curves if counts is not None]
    lacking = [(round, coverage) for counts in known for round, coverage in _lacking(counts) if round in common]
    return Line(
        x=np.mean([cost.values[np.isin(cost.rounds, common)] for cost in costs], axis=0),
        mean=values.mean(axis=0),
        low=values.min(axis=0),
        high=values.max(axis=0),
        runs=len(curves),
        stops_early=any(curve.rounds[-1] > common[-1] for _, curve, _ in curves),
        fewer=np.isin(common, [round for round, _ in lacking]),
        lacking=tuple(coverage for _, coverage in lacking),
        drawn_from=next((counts.drawn_from for counts in known if counts.drawn_from is not None), None),
    )


def _lacking(counts: Counts) -> Iterable[tuple[int, Coverage]]:
    """The rounds in which somebody is missing."""
    for at in np.flatnonzero(counts.clients < counts.of):
        yield int(counts.rounds[at]), Coverage(int(counts.clients[at]), int(counts.of[at]))


def parts_of(coverages: Iterable[Coverage]) -> str:
    """Over which parts of the clients several means are, as ``"7 to 9 of 10 clients"``; empty if there is none."""
    parts = list(coverages)
    if not parts:
        return ""

    def span(numbers: Iterable[int]) -> str:
        low, *_, high = sorted([*numbers] * 2)
        return f"{low}" if low == high else f"{low} to {high}"

    return f"{span(c.scored for c in parts)} of {span(c.of for c in parts)} clients"


def _labels(runs: Sequence[Run]) -> list[str]:
    """The shortest kind of name that is different for every run: method, name, or what their configs differ in."""
    flat = [dict(_flatten(run.config)) for run in runs]
    differing = sorted(key for key in set().union(*flat) if len({repr(config.get(key)) for config in flat}) > 1)
    options = [key for key in differing if key not in ("name", "strategy.name")]

    def settings(run: Run) -> str:
        config = flat[runs.index(run)]
        return ", ".join(f"{key.rpartition('.')[2]}={config.get(key, 'none')}" for key in options)

    kinds: tuple[Callable[[Run], str], ...] = (
        _method,
        lambda run: f"{_method(run)}, {run.objective or 'cross_entropy'}",
        lambda run: run.name,
        lambda run: f"{_method(run)}, {settings(run)}",
        lambda run: f"{run.name}, {settings(run)}",
    )
    for kind in kinds:
        labels = [kind(run) for run in runs]
        if len(set(labels)) == len(labels) and max(map(len, labels)) <= 60:
            return labels
    # Configs that differ in too much to say: the folders are different in any case.
    return [str(run.path) for run in runs]


def _method(run: Run) -> str:
    """The method's name; of a dotted path the class."""
    return run.method.rpartition(":")[2]


def _flatten(table: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
