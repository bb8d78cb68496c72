"""One row per method and model: how every single client is served."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.comparison.naming import MODEL_WORDS
from fedtl.plot.groups import Group, parts_of
from fedtl.plot.style import DARK, look
from fedtl.runs.history import UNSEEN, Run, on_unseen, on_validation

MOST_NAMED = 12
"""Clients that a note names; of more it says how many there are."""
GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Row:
    """The clients' values under one model of one group, in the last scored round of each of its runs.

    Attributes:
        score, model: the score's name, and the same in words.
        values: one per client and run, without those that are not numbers.
        missing: how many were not.
        over: over which part of the clients the means are, as ``"7 of 10 clients"``; empty if over all.
        mean, worst: weighted mean and worst decile as the runs recorded them, averaged over the runs; NaN where
            they did not.
    """

    group: Group
    index: int
    score: str
    model: str
    values: NDArray[np.float64]
    missing: int
    over: str
    rounds: frozenset[int]
    mean: float
    worst: float


def client_rows(groups: Sequence[Group], metric: str) -> list[Row]:
    """All rows, a group's global model before its personalised one; scores on validation samples are none of them.

    Raises:
        ConfigError: no run has scored single clients.
    """
    rows = [
        _row(group, index, name, metric)
        for index, group in enumerate(groups)
        for name in sorted(
            {name for run in group.runs for name in run.client_scores(metric) if not on_validation(name)}
        )
    ]
    if not rows:
        where = ", ".join(str(run.path) for group in groups for run in group.runs)
        raise ConfigError(f"no round with scores of single clients is recorded yet in {where}")
    return rows


def client_height(rows: Sequence[Row]) -> float:
    """Inches that the rows need."""
    return 0.62 * len(rows) + 0.9


def client_notes(groups: Sequence[Group], rows: Sequence[Row]) -> list[str]:
    """What a reader must know of the rows and cannot see."""
    notes = []
    fewest, most = min(len(row.group.runs) for row in rows), max(len(row.group.runs) for row in rows)
    if most > 1:
        notes.append(f"a point is one client under one of {'' if fewest == most else 'up to '}{most} seeds")
    absent = [group.label for index, group in enumerate(groups) if all(row.index != index for row in rows)]
    if absent:
        notes.append(f"no scores of single clients yet: {', '.join(absent)}")
    notes += [f"{row.group.label}: {row.missing} clients have no score" for row in rows if row.missing]
    notes += dict.fromkeys(note for row in rows if (note := _who_is_missing(row)))
    return notes + personal_notes(groups)


def personal_notes(groups: Sequence[Group]) -> list[str]:
    """Whose personalised models are in part the global one."""
    notes = []
    for group in groups:
        for run in group.runs[:1]:
            scored = [record["scores"] for record in run.rounds if record.get("scores")]
            personal = scored[-1].get("personal/clients", {}) if scored else {}
            if personal.get("clients_without"):
                notes.append(
                    f"{group.label}: {personal['clients_without']} clients have no personalised model of their own yet"
                    " and are scored with the global one"
                )
    return notes


def _who_is_missing(row: Row) -> str:
    """Which clients could not be scored, under which seed if not under all alike; empty if all could."""
    missing = {run: run.missing().get(row.score, []) for run in row.group.runs}
    if not any(missing.values()):
        return ""
    named = {run: _named(run, clients) for run, clients in missing.items() if clients}
    if len(named) == len(missing) and len(set(named.values())) == 1:
        return f"{row.group.label}: {next(iter(named.values()))} could not be scored"
    each = ", ".join(f"{who} under seed {run.seed}" for run, who in named.items())
    return f"{row.group.label}: {each} could not be scored"


def _named(run: Run, clients: Sequence[int]) -> str:
    """Clients by their names, where the run's clients have any, else by their numbers."""
    if len(clients) > MOST_NAMED:
        return f"{len(clients)} clients"
    names = run.environment.get("names") or {}
    words = [str(names[client]) if client < len(names) else str(client) for client in clients]
    return f"client{'s' * (len(words) > 1)} {', '.join(words)}"


def draw_clients(axes: Axes, rows: Sequence[Row], metric: str) -> None:
    """Every client as a point, the box of their middle half, and the recorded mean and worst decile as marks."""
    places: list[float] = []
    for before, row in zip((None, *rows), rows):
        step = 0.0 if before is None else 1.0 if before.index == row.index else 1.35
        places.append((places[-1] if places else 0.0) + step)
        _draw_row(axes, row, places[-1])
    axes.set_yticks(places, [f"{textwrap.fill(row.group.label, 24)}\n{row.model}{_over(row)}" for row in rows])
    axes.set_ylim(places[-1] + 0.6, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"{metric} of each client")
    rounds = sorted(set().union(*(row.rounds for row in rows)))
    last = str(rounds[0]) if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]}\n(each run's last scored)"
    axes.set_title(f"Each client\nafter round {last}", loc="left")


def _over(row: Row) -> str:
    return f"\n({row.over})" if row.over else ""


def mark_handles(rows: Sequence[Row]) -> list[Line2D | Rectangle]:
    """Legend entries of what :func:`draw_clients` draws."""
    handles: list[Line2D | Rectangle] = [
        Line2D([], [], marker="o", linestyle="", color="#777777", label="one client"),
        Rectangle((0, 0), 1, 1, facecolor="#dddddd", edgecolor="#777777", label="middle half and median"),
    ]
    if any(np.isfinite(row.mean) for row in rows):
        handles.append(_mark("D", label="weighted mean"))
    if any(np.isfinite(row.worst) for row in rows):
        handles.append(_mark("v", label="worst decile"))
    return handles


def _row(group: Group, index: int, name: str, metric: str) -> Row:
    runs = [run for run in group.runs if name in run.client_scores(metric)]
    values = np.concatenate([run.client_scores(metric)[name] for run in runs])
    rounds = {int(run.clients[-1]["round"]) for run in runs}
    return Row(
        group=group,
        index=index,
        score=name,
        model=label_of(name),
        values=values[np.isfinite(values)],
        missing=int(np.sum(~np.isfinite(values))),
        over=parts_of(
            c for run in runs if (c := run.coverage(name, run.clients[-1]["round"], metric)) and not c.complete
        ),
        rounds=frozenset(rounds),
        mean=_recorded(runs, name, metric, "weighted_mean"),
        worst=_recorded(runs, name, metric, "worst_decile"),
    )


def label_of(score: str) -> str:
    """A score of clients in a few words: which model, and on which data if not on the clients' own."""
    model, _, data = score.partition("/")
    unseen = ", unseen clients" if on_unseen(score) else ""
    target = ", target data" if data.removeprefix(UNSEEN).startswith("target") else ""
    return MODEL_WORDS.get(model, score) + unseen + target


def _recorded(runs: Sequence[Run], name: str, metric: str, statistic: str) -> float:
    """A statistic of the rounds that the rows show, averaged over the runs; NaN unless each run recorded it."""
    rows = []
    for run in runs:
        shown = run.clients[-1]["round"]
        scores = next((record.get("scores") or {} for record in run.rounds if record["round"] == shown), {})
        score = scores.get(name, {}).get(metric)
        value = score.get(statistic) if isinstance(score, dict) else None
        rows.append(float("nan") if value is None else float(value))
    return float(np.mean(rows))


def _mark(marker: str, x: Sequence[float] = (), y: Sequence[float] = (), label: str = "") -> Line2D:
    return Line2D(
        x,
        y,
        marker=marker,
        linestyle="",
        markersize=1.4 * mpl.rcParams["lines.markersize"],
        markerfacecolor="white",
        markeredgecolor=DARK,
        markeredgewidth=1.3,
        zorder=4,
        label=label,
    )


def _draw_row(axes: Axes, row: Row, place: float) -> None:
    values = np.sort(row.values)
    colour = look(row.index).colour
    if len(values) >= 4:  # quartiles of fewer say less than the points themselves
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
        axes.add_patch(
            Rectangle((low, place - 0.32), high - low, 0.64, facecolor=colour, edgecolor=colour, alpha=0.22, zorder=1)
        )
        axes.plot([middle, middle], [place - 0.32, place + 0.32], color=colour, linewidth=2.2, zorder=2)
    # Neighbours in value lie far apart in height, so that equal values do not hide each other; no randomness.
    offsets = (np.arange(1, len(values) + 1) * GOLDEN) % 1.0 - 0.5
    size, alpha = (26.0, 0.85) if len(values) <= 30 else (13.0, 0.6) if len(values) <= 300 else (5.0, 0.4)
    axes.scatter(
        values,
        place + 0.5 * offsets,
        s=size,
        color=colour,
        alpha=alpha,
        linewidths=0,
        zorder=3,
        rasterized=len(values) > 5000,  # an SVG of so many circles opens in no browser
    )
    for value, marker in ((row.mean, "D"), (row.worst, "v")):
        if np.isfinite(value):
            axes.add_line(_mark(marker, [value], [place - 0.38]))  # above the points, so that it hides none
    marks = (("◇", row.mean), ("▽", row.worst))
    text = "\n".join(f"{sign} {_short(value)}" for sign, value in marks if np.isfinite(value))
    axes.annotate(
        text,
        (1.0, place),
        xycoords=("axes fraction", "data"),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=min(8.5, mpl.rcParams["legend.fontsize"]),
        color=DARK,
    )


def _short(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.3g}"
