"""How methods converge: a picture for each setting, and its numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedtl.comparison import Comparison
from fedtl.comparison.formats import NOTHING, in_percent
from fedtl.plot.groups import Group, Line, line
from fedtl.reports import words
from fedtl.reports.layout import Method, Setting
from fedtl.reports.scale import Scale, Tick, over, path, thinned
from fedtl.reports.tables import Table, plain

WIDTH, HEIGHT = 380.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 40.0, 10.0, 18.0, 34.0
SHOWN_POINTS = 20
MOST_POINTS = 60
"""Of a line: those that show, and those that say their values; of more rounds some are left out."""


@dataclass(frozen=True)
class Mark:
    """A point that says its value."""

    x: str
    y: str
    text: str


@dataclass(frozen=True)
class Curve:
    """One method's line, the band from its worst to its best seed, and its points, of which ``every`` so many show."""

    colour: int
    line: str
    band: str
    marks: tuple[Mark, ...]
    every: int


@dataclass(frozen=True)
class Convergence:
    """One setting's picture, in its own coordinates.

    Attributes:
        setting: its name.
        summary: in words, for who does not see it.
        numbers: a row for each round that is drawn.
        notes: what is drawn otherwise than one might think.
    """

    setting: str
    summary: str
    unit: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    curves: tuple[Curve, ...]
    numbers: Table
    notes: tuple[str, ...]
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM


def convergence(setting: Setting) -> Convergence | None:
    """The picture of a setting; None where its methods have no curve."""
    comparison = setting.comparison
    lines = [(method, drawn) for method in setting.methods if (drawn := _line(method, comparison)) is not None]
    if not lines:
        return None
    rounds = sorted({float(x) for _, each in lines for x in each.x})
    x = over_rounds(rounds)
    y = over([float(v) for _, each in lines for part in (each.low, each.high) for v in part], HEIGHT - BOTTOM, TOP)
    curves = tuple(_curve(method, each, comparison, x, y) for method, each in lines)
    notes = []
    longest = max(len(each.x) for _, each in lines)
    if longest > MOST_POINTS:
        notes.append(f"Of up to {longest} scored rounds {MOST_POINTS} are drawn.")
    early = [method.label for method, each in lines if each.stops_early]
    if early:
        notes.append(f"The line of {words.listed(early)} ends with the slowest of its seeds.")
    fewer = [method.label for method, each in lines if each.fewer.any()]
    if fewer:
        notes.append(
            f"In some rounds, + in the table, means of {words.listed(fewer)} are over fewer clients than were asked."
        )
    absent = [method.label for method in setting.methods if all(method is not one for one, _ in lines)]
    if absent:
        notes.append(f"{words.listed(absent)}: the seeds have no scored round in common.")
    return Convergence(
        setting=setting.name,
        summary=_summary(setting, lines),
        unit=f"{comparison.metric}{' in %' if in_percent(comparison.metric) else ''}",
        x_ticks=x.ticks(whole=True),
        y_ticks=y.ticks(percent=in_percent(comparison.metric)),
        curves=curves,
        numbers=_numbers(lines, rounds, comparison, f"Means over seeds{setting.where}"),
        notes=tuple(notes),
    )


def over_rounds(rounds: Sequence[float]) -> Scale:
    """An axis from the first scored round to the last; of a single one with half a round on both sides."""
    low, high = min(rounds), max(rounds)
    room = 0.0 if high > low else 0.5
    return Scale(low - room, high + room, LEFT, WIDTH - RIGHT)


def _line(method: Method, comparison: Comparison) -> Line | None:
    group = Group(method.label, tuple(method.runs.values()))
    return line(group, method.summary.score, comparison.metric, comparison.statistic, "rounds")


def _curve(method: Method, drawn: Line, comparison: Comparison, x: Scale, y: Scale) -> Curve:
    kept = [i for i in thinned(len(drawn.x), MOST_POINTS) if math.isfinite(drawn.mean[i])]
    upper = [(x(drawn.x[i]), y(drawn.high[i])) for i in kept]
    lower = [(x(drawn.x[i]), y(drawn.low[i])) for i in reversed(kept)]
    marks = tuple(
        Mark(x(drawn.x[i]), y(drawn.mean[i]), f"{method.label}, round {drawn.x[i]:g}: {_said(drawn, i, comparison)}")
        for i in kept
    )
    return Curve(
        colour=method.colour,
        line=path([(mark.x, mark.y) for mark in marks]),
        band=f"{path(upper + lower)}Z" if drawn.runs > 1 and kept else "",
        marks=marks,
        every=-(-len(marks) // SHOWN_POINTS) or 1,
    )


def _said(drawn: Line, i: int, comparison: Comparison) -> str:
    mean = words.value(comparison, drawn.mean[i]) + ", over fewer clients than were asked" * bool(drawn.fewer[i])
    if drawn.runs == 1:
        return mean
    low, high = words.value(comparison, drawn.low[i]), words.value(comparison, drawn.high[i])
    return f"{mean} ({low} to {high} over {drawn.runs} seeds)"


def _numbers(
    lines: Sequence[tuple[Method, Line]], rounds: Sequence[float], comparison: Comparison, caption: str
) -> Table:
    factor, unit = (100, ", in %") if in_percent(comparison.metric) else (1, "")
    by_round = [dict(zip(each.x.tolist(), zip(each.mean.tolist(), each.fewer.tolist()))) for _, each in lines]
    shown = [rounds[i] for i in thinned(len(rounds), MOST_POINTS)]

    def cell(mean: float, fewer: bool) -> str:
        return NOTHING if math.isnan(mean) else f"{factor * mean:.4g}{'+' * fewer}"

    rows = [(f"{r:g}", *(cell(*each.get(r, (math.nan, False))) for each in by_round)) for r in shown]
    header = ("round", *(method.label for method, _ in lines))
    return plain(f"{caption}{unit}", header, rows, header)


def _summary(setting: Setting, lines: Sequence[tuple[Method, Line]]) -> str:
    ends = ", ".join(
        f"{method.label} from {words.value(setting.comparison, each.mean[0])} to "
        f"{words.value(setting.comparison, each.mean[-1])}"
        for method, each in lines
    )
    last = max(float(each.x[-1]) for _, each in lines)
    return f"{setting.comparison.metric} over {last:g} rounds{setting.where}: {ends}."
