"""How a method serves every single client: a row of points for each, for each setting."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedtl.comparison import Comparison
from fedtl.comparison.formats import in_percent, marked
from fedtl.comparison.measure import Measured, Question
from fedtl.comparison.pairs import client_names
from fedtl.reports import words
from fedtl.reports.curves import Mark
from fedtl.reports.layout import Method, Setting
from fedtl.reports.scale import Scale, Tick, over, place
from fedtl.reports.tables import Table, plain

WIDTH = 380.0
LEFT, RIGHT, TOP, ROW, BOTTOM = 10.0, 10.0, 4.0, 60.0, 34.0
LABEL, HALF = 11.0, 13.0
"""The height of a row's name, and half of the height of its points."""
MOST_MARKS = 120
"""Points of a row that say their values; of more, all are drawn, and none says its own."""
QUARTILES = ("points", "lowest", "lower quartile", "median", "upper quartile", "highest")
GOLDEN = 0.6180339887498949
FEW = 4
"""Points of which no quartiles are drawn."""
SHORT = 44
"""Letters of a name that fit."""


@dataclass(frozen=True)
class Strip:
    """One method's clients.

    Attributes:
        label: as it fits.
        base, top: where its name stands, and the upper end of its box.
        dots: all points as one path, where they are too many to say their values.
        box: left end, width and median of the middle half; None of few clients.
        mean, worst: marks of the weighted mean and the worst decile; None where there is none.
    """

    label: str
    colour: int
    base: str
    top: str
    marks: tuple[Mark, ...]
    dots: str
    box: tuple[str, str, str] | None
    box_text: str
    mean: Mark | None
    worst: Mark | None


@dataclass(frozen=True)
class Distribution:
    """One setting's picture, in its own coordinates, and its numbers."""

    setting: str
    summary: str
    unit: str
    x_ticks: tuple[Tick, ...]
    strips: tuple[Strip, ...]
    numbers: Table
    notes: tuple[str, ...]
    height: float
    width: float = WIDTH
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP
    box_height: float = 2 * HALF


@dataclass(frozen=True)
class _Clients:
    """A method's clients of all seeds: values, and who they are."""

    method: Method
    values: tuple[float, ...]
    who: tuple[str, ...]


def distribution(setting: Setting) -> Distribution | None:
    """The picture of a setting; None where single clients are not scored."""
    comparison = setting.comparison
    rows = [each for method in setting.methods if (each := _clients(method, comparison)).values]
    if not rows:
        return None
    x = over([value for each in rows for value in each.values], LEFT + 6, WIDTH - RIGHT - 6, margin=0.02)
    many = [each.method.label for each in rows if len(each.values) > MOST_MARKS]
    notes = []
    if many:
        notes.append(
            f"More than {MOST_MARKS} points stand in the rows of {words.listed(many)}; they do not say whose they are."
        )
    return Distribution(
        setting=setting.name,
        summary=f"{comparison.metric} of every client, a row for each method{setting.where}; the table has quartiles.",
        unit=f"{comparison.metric}{' in %' if in_percent(comparison.metric) else ''} of each client",
        x_ticks=x.ticks(percent=in_percent(comparison.metric)),
        strips=tuple(_strip(each, number, comparison, x) for number, each in enumerate(rows)),
        numbers=plain(
            f"Clients under all seeds{setting.where}",
            ("method", *QUARTILES),
            [_numbers(each, comparison) for each in rows],
            QUARTILES,
        ),
        notes=tuple(notes),
        height=TOP + ROW * len(rows) + BOTTOM,
    )


def _clients(method: Method, comparison: Comparison) -> _Clients:
    values: list[float] = []
    who: list[str] = []
    question = Question(comparison.metric, comparison.statistic)
    for seed, run in method.runs.items():
        measured = Measured(run, method.summary.score, question)
        clients = measured.clients(method.summary.rounds[seed])
        if clients is None:
            continue
        names = client_names(run, clients.clients.tolist())
        of_seed = f", seed {seed}" if len(method.runs) > 1 else ""
        values += clients.values.tolist()
        who += [f"{method.label}, client {name}{of_seed}" for name in names]
    return _Clients(method, tuple(values), tuple(who))


def _strip(clients: _Clients, number: int, comparison: Comparison, x: Scale) -> Strip:
    start = TOP + ROW * number
    middle = start + LABEL + 14 + HALF
    order = np.argsort(clients.values, kind="stable")
    # Neighbours in value lie far apart in height, so that equal values do not hide each other; no randomness.
    heights = {int(i): middle + HALF * 0.9 * (2 * ((rank + 1) * GOLDEN % 1.0) - 1) for rank, i in enumerate(order)}
    marks = tuple(
        Mark(x(value), place(heights[i]), f"{who}: {words.value(comparison, value)}")
        for i, (value, who) in enumerate(zip(clients.values, clients.who))
    )
    label, few = clients.method.label, len(marks) <= MOST_MARKS
    box, box_text = None, ""
    if len(marks) >= FEW:
        low, median, high = (float(v) for v in np.quantile(clients.values, [0.25, 0.5, 0.75]))
        box = (x(low), place(float(x(high)) - float(x(low))), x(median))
        low_text, median_text, high_text = (words.value(comparison, v) for v in (low, median, high))
        box_text = f"{label}: half of the clients lie between {low_text} and {high_text}, the median is {median_text}"
    summary = clients.method.summary
    worst = summary.worst_decile.mean if summary.worst_decile is not None else math.nan
    over_seeds = " over seeds" if summary.last.seeds > 1 else ""
    return Strip(
        label=words.shortened(label, SHORT),
        colour=clients.method.colour,
        base=place(start + LABEL),
        top=place(middle - HALF),
        marks=marks if few else (),
        dots="" if few else "".join(f"M{mark.x} {mark.y}h0" for mark in marks),
        box=box,
        box_text=box_text,
        mean=_mark(summary.last.mean, middle, f"{label}, mean{over_seeds}", comparison, x, summary.coverage),
        worst=_mark(worst, middle, f"{label}, worst decile{over_seeds}", comparison, x, summary.coverage),
    )


def _mark(
    value: float, middle: float, what: str, comparison: Comparison, x: Scale, coverage: Mapping[int, str]
) -> Mark | None:
    if not (math.isfinite(value) and x.low <= value <= x.high):
        return None
    text = marked(words.value(comparison, value), coverage)
    return Mark(x(value), place(middle - HALF - 3), f"{what}: {text}")


def _numbers(clients: _Clients, comparison: Comparison) -> tuple[str, ...]:
    quantiles = np.quantile(clients.values, [0, 0.25, 0.5, 0.75, 1])
    return (clients.method.label, str(len(clients.values)), *(words.value(comparison, float(v)) for v in quantiles))
