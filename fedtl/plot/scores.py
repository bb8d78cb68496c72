"""Pictures of scores: over the rounds, over the clients, and both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedtl.choice import ConfigError, nearest
from fedtl.comparison.naming import MODEL_WORDS, data_in_words
from fedtl.plot.clients import (
    client_height,
    client_notes,
    client_rows,
    draw_clients,
    mark_handles,
    personal_notes,
)
from fedtl.plot.groups import Group, Line, group, line, parts_of, term_line
from fedtl.plot.panels import blank_figure, columns_of, legend
from fedtl.plot.style import byte_unit, handle, look, styled
from fedtl.runs.history import Axis, Run, mean_over_clients, over_same_clients

# Preferred first: only the clients' own data lets the two models be compared.
GLOBAL_SCORES = ("global/clients", "global/server-test")
PERSONAL_SCORES = ("personal/clients",)
TARGET_SCORES = ("global/target-clients", "global/target-server-test")
PERSONAL_TARGET_SCORES = ("personal/target-clients",)


@styled
def convergence(
    runs: Sequence[Run],
    metric: str = "accuracy",
    axis: Axis = "rounds",
    *,
    score: str | Sequence[str] | None = None,
    statistic: str = "weighted_mean",
    width: float | None = None,
) -> Figure:
    """How fast each method learns: the global model's scores and, beside them, the personalised models'.

    Runs that differ in their seed alone are one line, their mean, in a band from the lowest to the highest.

    Args:
        runs: what to compare; a run without a scored round is left out, and the picture says so.
        metric: such as ``accuracy`` or ``loss``.
        axis: over ``rounds``, over the ``bytes`` sent to and from clients, or over ``seconds``.
        score: the names to show, a panel each. Without it the global model on the clients' test data, if every
            method has that, else on the server's; the personalised models, if a method has any; and the global model
            on each domain that no client has.
        statistic: what stands for all clients, such as ``mean`` or ``worst_decile``.
        width: of the picture, in inches; panels stand below each other where it is small. By itself if None.

    Raises:
        ConfigError: there is nothing to show, or no such score, metric, statistic or axis.
    """
    groups = group(runs)
    panels = _panels(groups, metric, statistic, score)
    columns = columns_of(len(panels), width)
    rows = -(-len(panels) // columns)
    height = 4.2 if width is None else rows * _row_height(width, 4.2)
    figure = blank_figure(5.9 if len(panels) == 1 else 4.4 * len(panels) + 1.2, height, width)
    axes: list[Axes] = []
    for place in range(len(panels)):
        axes.append(figure.add_subplot(rows, columns, place + 1, sharey=axes[0] if axes else None))
    handles, notes = _draw_panels(axes, groups, panels, metric, statistic, axis, columns)
    legend(figure, [handles], notes)
    return figure


@styled
def per_client(runs: Sequence[Run], metric: str = "accuracy", *, width: float | None = None) -> Figure:
    """Which clients each method serves: every client's own score in the last scored round.

    A row per method and model; a point per client (and seed), a box for the middle half of them, marks for the
    weighted mean and for the worst decile as the run recorded them.

    Raises:
        ConfigError: no run has scores of single clients, or not of this metric.
    """
    groups = group(runs)
    rows = client_rows(groups, metric)
    figure = blank_figure(8.0, max(2.4, client_height(rows) + 0.5), width)
    draw_clients(figure.add_subplot(), rows, metric)
    legend(figure, [mark_handles(rows)], client_notes(groups, rows))
    return figure


@styled
def compare(
    runs: Sequence[Run],
    metric: str = "accuracy",
    axis: Axis = "rounds",
    *,
    score: str | Sequence[str] | None = None,
    statistic: str = "weighted_mean",
    width: float | None = None,
) -> Figure:
    """Which method serves each client: :func:`convergence` on the left, :func:`per_client` on the right.

    Arguments and errors are theirs.
    """
    groups = group(runs)
    panels = _panels(groups, metric, statistic, score)
    rows = client_rows(groups, metric)
    height = max(4.2, client_height(rows) + 0.9)
    stacked = width is not None and width < 2.6 * (len(panels) + 1)
    whole = 2.2 * len(panels) + height if stacked else height
    figure = blank_figure(max(11.0, 3.4 * len(panels) + 4.2), whole, width)
    if stacked:
        columns = 1
        grid = figure.add_gridspec(len(panels) + 1, 1, height_ratios=[2.2] * len(panels) + [height])
    else:
        columns = len(panels)
        grid = figure.add_gridspec(1, len(panels) + 1, width_ratios=[1.0] * len(panels) + [1.2])
    axes: list[Axes] = []
    for place in range(len(panels)):
        axes.append(figure.add_subplot(grid[place], sharey=axes[0] if axes else None))
    handles, notes = _draw_panels(axes, groups, panels, metric, statistic, axis, columns)
    draw_clients(figure.add_subplot(grid[-1]), rows, metric)
    notes += [note for note in client_notes(groups, rows) if note not in notes]
    legend(figure, [handles, mark_handles(rows)], notes)
    return figure


@styled
def terms(runs: Sequence[Run], axis: Axis = "rounds", *, width: float | None = None) -> Figure:
    """What local training did: each term of the objectives, as clients saw it while they trained, a panel each.

    Values are without their weights; runs are lines as in :func:`convergence`.

    Raises:
        ConfigError: no round is recorded yet, or there is no such axis.
    """
    groups = group(runs)
    names = list(dict.fromkeys(name for group in groups for run in group.runs for name in run.terms()))
    if not names:
        raise ConfigError(f"no round is recorded yet in {', '.join(str(run.path) for run in runs)}")
    columns = min(columns_of(len(names), width), 3)
    rows = -(-len(names) // columns)
    height = 3.2 * rows + 0.8
    if width is not None:
        height = rows * _row_height(width, height)
    figure = blank_figure(5.9 if columns == 1 else 4.0 * columns + 1.0, height, width)
    lines = {
        (index, name): curve
        for name in names
        for index, group in enumerate(groups)
        if (curve := term_line(group, name, axis))
    }
    factor, label = _x_axis(axis, max((float(curve.x.max()) for curve in lines.values()), default=0.0))
    for place, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, place + 1)
        for (index, of), curve in lines.items():
            if of == name:
                _draw_line(axes, curve, factor, index, groups[index].label)
        axes.set_title(f"{name}\nin local training", loc="left")
        axes.set_xlabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=axis == "rounds", min_n_ticks=1))
    legend(figure, [_group_handles(groups, lines)], _notes(groups, lines))
    return figure


def _row_height(width: float, most: float) -> float:
    """Inches that suit a row of panels over the rounds in a figure of a width that is asked for."""
    return float(np.clip(0.72 * width, 2.2, most))


def _panels(groups: Sequence[Group], metric: str, statistic: str, score: str | Sequence[str] | None) -> list[str]:
    """The names of the scores to show."""
    names = [{name for run in group.runs for name in run.scores(metric, statistic)} for group in groups]
    known = set().union(*names)
    if not known:
        where = ", ".join(str(run.path) for group in groups for run in group.runs)
        raise ConfigError(f"no scored round is recorded yet in {where}")
    if score is not None:
        chosen = [score] if isinstance(score, str) else list(score)
        for name in chosen:
            if name not in known:
                raise ConfigError(f"score = {name!r}: no run has it: {nearest(name, known)}")
        return chosen or sorted(known)
    panels = []
    for candidates in (TARGET_SCORES, PERSONAL_TARGET_SCORES, GLOBAL_SCORES, PERSONAL_SCORES):
        counts = {name: sum(name in have for have in names) for name in candidates}
        best = max(candidates, key=lambda name: counts[name])  # of equals the first
        if counts[best]:
            panels.append(best)
    panels += sorted(name for name in known if name.startswith("global/held-out/"))
    return panels or sorted(known)


def _draw_panels(
    axes: Sequence[Axes],
    groups: Sequence[Group],
    panels: Sequence[str],
    metric: str,
    statistic: str,
    axis: Axis,
    columns: int,
) -> tuple[list[Any], list[str]]:
    """Draw a panel per score name, ``columns`` of them side by side.

    Returns:
        The groups' legend entries, and what a reader must know and cannot see.
    """
    lines = {
        (index, name): curve
        for name in panels
        for index, group in enumerate(groups)
        if (curve := line(group, name, metric, statistic, axis))
    }
    factor, label = _x_axis(axis, max((float(curve.x.max()) for curve in lines.values()), default=0.0))
    for number, (place, name) in enumerate(zip(axes, panels)):
        for (index, of), curve in lines.items():
            if of == name:
                _draw_line(place, curve, factor, index, groups[index].label)
        place.set_title(_title(name, statistic), loc="left")
        place.set_xlabel(label)
        if axis == "rounds":
            place.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        else:
            place.xaxis.set_major_locator(MaxNLocator(6))
        if number % columns == 0:
            place.set_ylabel(metric)
        else:
            place.tick_params(labelleft=False)
    notes = _notes(groups, lines)
    if not over_same_clients((run for group in groups for run in group.runs), metric):
        notes.append("not all means are over the same clients")
    if any(name.startswith("personal") for name in panels):
        notes += personal_notes(groups)
    return _group_handles(groups, lines), notes


def _draw_line(axes: Axes, curve: Line, factor: float, index: int, label: str) -> None:
    style = look(index)
    x = curve.x * factor
    if curve.runs > 1:
        axes.fill_between(x, curve.low, curve.high, color=style.colour, alpha=0.18, linewidth=0)
    # About eight marks a line, not at the same rounds for all, so that lines that coincide can be told apart.
    first, step = index % max(1, len(x) // 8), max(1, len(x) // 8)
    marked = np.arange(first, len(x), step)
    axes.plot(
        x,
        curve.mean,
        color=style.colour,
        linestyle=style.dash,
        marker=style.marker,
        markevery=marked[~curve.fewer[marked]].tolist() if curve.fewer.any() else (first, step),
        label=label,
    )
    # Hollow where the mean is over fewer clients: those that have a mark, and all if they are few.
    hollow = np.flatnonzero(curve.fewer)
    if len(hollow):
        at = hollow if len(hollow) <= 8 else np.union1d(hollow[:: len(hollow) // 8], marked[curve.fewer[marked]])
        axes.plot(
            x[at],
            curve.mean[at],
            color=style.colour,
            linestyle="",
            marker=style.marker,
            markerfacecolor="white",
            markeredgewidth=1.3,
            label=f"_{label}, over fewer clients",
        )


def _x_axis(axis: Axis, largest: float) -> tuple[float, str]:
    """Factor from the records' unit to the picture's, and the axis's label."""
    if axis == "bytes":
        factor, unit = byte_unit(largest)
        return factor, f"sent to and from clients so far ({unit})"
    return 1.0, "seconds so far" if axis == "seconds" else "round"


def _title(name: str, statistic: str) -> str:
    model, _, data = name.partition("/")
    words = data_in_words(data)
    if model not in MODEL_WORDS or not words:
        return name
    over = f",\n{statistic.replace('_', ' ')} over clients" if mean_over_clients(name) else ""
    return f"{MODEL_WORDS[model].capitalize()}\n{words}{over}"


def _notes(groups: Sequence[Group], lines: dict[tuple[int, str], Line]) -> list[str]:
    notes = []
    counts = sorted({curve.runs for curve in lines.values()})
    if counts[-1] > 1:
        number = str(counts[-1]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        seeds = all(len({run.seed for run in group.runs}) == len(group.runs) for group in groups)
        notes.append(f"lines: mean of {number} {'seeds' if seeds else 'runs'}, bands: lowest to highest")
    parted = {groups[index].label: (curve.runs, len(groups[index].runs)) for (index, _), curve in lines.items()}
    notes += [f"{label}: {there} of {of} runs have such a score" for label, (there, of) in parted.items() if there < of]
    slow = dict.fromkeys(groups[index].label for (index, _), curve in lines.items() if curve.stops_early)
    if slow:
        notes.append(f"only as far as all seeds are: {', '.join(slow)}")
    absent = [group.label for index, group in enumerate(groups) if all(index != at for at, _ in lines)]
    if absent:
        notes.append(f"no such score yet: {', '.join(absent)}")
    if any(curve.lacking for curve in lines.values()):
        notes.append("hollow marks: means over fewer clients than were asked")
    drawn = {groups[index].label: curve.drawn_from for (index, _), curve in lines.items() if curve.drawn_from}
    notes += [f"{label}: each point is over clients drawn anew, of {of}" for label, of in drawn.items()]
    return notes


def _group_handles(groups: Sequence[Group], lines: dict[tuple[int, str], Line]) -> list[Any]:
    """Legend entries; one of a group with means over fewer clients says over how many."""
    handles = []
    for index, each in enumerate(groups):
        own = [curve for (at, _), curve in lines.items() if at == index]
        over = parts_of(coverage for curve in own for coverage in curve.lacking)
        in_part = "" if all(curve.fewer.all() for curve in own) else "in part "
        label = f"{each.label} ({in_part}{over})" if over else each.label
        handles.append(handle(index, label))
    return handles
