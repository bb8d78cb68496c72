"""The critical-difference diagram of Demšar (2006): mean ranks over settings, and who is not told apart."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedtl.choice import ConfigError
from fedtl.comparison.ranking import ENOUGH
from fedtl.comparison.result import Comparison, Ranking
from fedtl.plot.panels import blank_figure, legend, middle_out
from fedtl.plot.style import DARK, NARROW, styled

BAR = 0.1
"""Inches from one bar to the next."""


@styled
def ranks(comparison: Comparison, *, width: float | None = None) -> Figure:
    """Mean ranks on a line, the best on the left; bars join methods that Nemenyi's test does not tell apart.

    Args:
        comparison: of the runs.
        width: of the picture, in inches; by itself if None.

    Raises:
        ConfigError: fewer than two methods ran in two settings.
    """
    ranking = comparison.ranking
    if ranking is None:
        raise ConfigError(
            "--kind ranks: ranks are over settings, such as two data sets or α, that at least two methods ran in"
        )
    whole = 7.0 if width is None else width
    narrow = whole < NARROW
    letter = 0.056 if narrow else 0.078  # inches
    names = [_wrapped(method, 16 if narrow else 26) for method in ranking.methods]
    margin = letter * (max(len(line) for name in names for line in name.split("\n")) + 7)
    row = (0.12 if narrow else 0.16) * (1 + max(name.count("\n") for name in names)) + 0.05
    left = math.ceil(len(names) / 2)
    height = 0.5 + BAR * (len(ranking.cliques) + 1) + row * left
    figure = blank_figure(whole, height + 0.3, width)
    axes = figure.add_subplot()
    k = len(names)
    unit = (k - 1) / max(whole - 2 * margin - 0.2, 0.8)  # ranks in an inch
    axes.set_xlim(1 - margin * unit, k + margin * unit)
    axes.set_ylim(0.5 - height, 0.5)
    axes.axis("off")
    _draw_line(axes, ranking, unit)
    _draw_bars(axes, ranking, 0.04 * unit)
    _draw_names(axes, ranking, names, row, unit, 0.4 if narrow else 0.46)
    legend(figure, [], _notes(comparison, ranking))
    return figure


def _wrapped(name: str, letters: int) -> str:
    """A name on two lines at most; of a longer one the middle is left out, as names often differ in their ends."""
    return textwrap.fill(middle_out(name, 2 * letters - 2), letters)


def _draw_line(axes: Axes, ranking: Ranking, unit: float) -> None:
    """The line of ranks, and the critical difference above it."""
    k = len(ranking.methods)
    axes.plot([1, k], [0, 0], color=DARK, linewidth=1.0)
    step = max(1, math.ceil(0.2 * unit))
    for tick in range(1, k + 1, step):
        axes.plot([tick, tick], [0, 0.06], color=DARK, linewidth=1.0)
        axes.text(tick, 0.08, str(tick), ha="center", va="bottom", fontsize="small")
    if ranking.critical_difference is not None:
        end = 1 + ranking.critical_difference
        axes.plot([1, end], [0.36, 0.36], color=DARK, linewidth=1.0)
        for x in (1, end):
            axes.plot([x, x], [0.32, 0.40], color=DARK, linewidth=1.0)
        words = f"critical difference {ranking.critical_difference:.2f}"
        axes.text(end + 0.06 * unit, 0.36, words, va="center", ha="left", fontsize="small")


def _draw_bars(axes: Axes, ranking: Ranking, beyond: float) -> None:
    """A bar for each clique, from its best rank to its worst."""
    rank = dict(zip(ranking.methods, ranking.ranks))
    for number, clique in enumerate(ranking.cliques):
        y = -BAR * (number + 1)
        ends = [rank[clique[0]] - beyond, rank[clique[-1]] + beyond]
        axes.plot(ends, [y, y], color=DARK, linewidth=3.0, solid_capstyle="round")


def _draw_names(axes: Axes, ranking: Ranking, names: Sequence[str], row: float, unit: float, gap: float) -> None:
    """Names of the better half on the left, of the others on the right, each with a line from its rank.

    Args:
        axes: whose y is in inches.
        ranking: of the methods.
        names: theirs, as they are written.
        row: inches from one name to the next.
        unit: ranks in an inch.
        gap: inches from a line's end to a name.
    """
    k = len(names)
    for place, (name, rank) in enumerate(zip(names, ranking.ranks)):
        on_left = place < math.ceil(k / 2)
        y = -BAR * (len(ranking.cliques) + 1) - row * ((place if on_left else k - 1 - place) + 0.5)
        edge = 1 - 0.08 * unit if on_left else k + 0.08 * unit
        axes.plot([rank, rank, edge], [0, y, y], color="#777777", linewidth=0.8, zorder=1)
        away = -unit if on_left else unit
        inner, outer = edge + 0.04 * away, edge + gap * away
        side = "right" if on_left else "left"
        axes.text(inner, y, f"{rank:.2f}", ha=side, va="center", fontsize="small", color="#555555")
        axes.text(outer, y, name, ha=side, va="center", multialignment=side, linespacing=1.0)


def _notes(comparison: Comparison, ranking: Ranking) -> list[str]:
    settings = len(ranking.settings)
    notes = [f"mean ranks by {comparison.metric} over {settings} settings, 1 is the best"]
    if ranking.p is not None:
        p = "p < 0.0001" if ranking.p < 1e-4 else f"p = {ranking.p:.2g}"
        notes.append(f"Friedman's test (Iman and Davenport): {p}")
        if ranking.p < comparison.alpha:
            notes.append(f"bars join methods that Nemenyi's test does not tell apart at {comparison.alpha:g}")
        else:
            notes.append(f"no difference is shown at {comparison.alpha:g}, so the bar joins all")
    elif ranking.two is not None:
        notes.append(f"two methods: Wilcoxon's signed-rank test over settings has p = {ranking.two.p:.2g}")
    else:
        notes.append(f"nothing can be concluded: a test takes {ENOUGH} settings at least")
    if ranking.left_out:
        notes.append(f"not in all settings, and left out: {', '.join(ranking.left_out)}")
    return notes
