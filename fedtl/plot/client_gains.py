"""Whom a method serves better than a baseline, and whom worse: every client's gain, sorted."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from fedtl.choice import ConfigError, nearest
from fedtl.comparison.formats import in_percent
from fedtl.comparison.layout import Layout
from fedtl.comparison.result import Comparison, Summary, Transfer
from fedtl.comparison.table import models_in_words, round_in_words
from fedtl.plot.panels import grid_of_panels, label_outer, legend, title
from fedtl.plot.style import COLOURS, DARK, handle, look, styled

MOST_BARS = 30
"""Clients up to which one method's gains are bars with the clients' names."""
MOST_SHARES = 4
"""Methods up to which each panel says how many clients each of them serves worse."""
WORSE = "#D55E00"


@styled
def gains(comparison: Comparison, against: str | None = None, *, width: float | None = None) -> Figure:
    """Every client's gain over local training, or over one model for all: a line a method, a point a client.

    Args:
        comparison: of the runs, a baseline among them.
        against: the baseline, by its method; if None the first that there is: local training, then FedAvg.
        width: of the picture, in inches; by itself if None.

    Raises:
        ConfigError: no baseline is among the runs, or its clients are not those of the others.
    """
    rows = _against(comparison, against)
    by_name = {group.group: group for group in comparison.groups}
    layout = Layout.of([by_name[row.group] for row in rows])
    variants = [each for each in dict.fromkeys(group.variant for group in comparison.groups) if each in layout.variants]
    figure, all_axes = grid_of_panels(len(layout.settings), width, sharey=True)
    for axes, setting, label in zip(all_axes, layout.settings, layout.labels):
        here = [row for row in rows if dict(by_name[row.group].setting) == dict(setting)]
        _draw_panel(axes, here, by_name, variants, comparison)
        title(axes, label)
        axes.set_ylabel(f"gain over {by_name[rows[0].baseline].variant}")
    label_outer(all_axes)
    handles: list[Line2D | Patch] = [handle(index, variant, markersize=3.0) for index, variant in enumerate(variants)]
    if len(variants) == 1:
        handles = [Patch(color=COLOURS[0], label="better off"), Patch(color=WORSE, label="worse off")]
    seeds = max(len(by_name[row.group].runs) for row in rows)
    note = "a point is one client" if len(variants) > 1 else "a bar is one client"
    if seeds > 1:
        several = any(gain.seed is not None for row in rows for gain in row.gains)
        note += f" under one of {seeds} seeds" if several else f", its mean over {seeds} seeds"
    unit = " in percentage points" if in_percent(comparison.metric) else ""
    scored = f"{comparison.metric} of {models_in_words(comparison)}, {round_in_words(comparison)}"
    notes = [f"gains{unit} of {scored}", note]
    if len(variants) <= MOST_SHARES:
        notes.append("shares: clients that are worse off than under the baseline")
    notes.append("clients stand in the order of their gains")
    legend(figure, [handles], notes)
    return figure


def _against(comparison: Comparison, wanted: str | None) -> list[Transfer]:
    """The transfers over one baseline."""
    variant = {group.group: group.variant for group in comparison.groups}
    known = list(dict.fromkeys(variant[row.baseline] for row in comparison.transfers))
    if not known:
        raise ConfigError(
            "--kind gains: no run of local training or FedAvg with the same clients is among these, so there is "
            "nothing to gain over; add a run with strategy.name=local"
        )
    if wanted is not None and wanted not in known:
        raise ConfigError(f"--against = {wanted!r}: no baseline of that name: {nearest(wanted, known)}")
    chosen = wanted or known[0]
    return [row for row in comparison.transfers if variant[row.baseline] == chosen]


def _draw_panel(
    axes: Axes, rows: list[Transfer], groups: dict[str, Summary], variants: list[str], comparison: Comparison
) -> None:
    factor = 100.0 if in_percent(comparison.metric) else 1.0
    axes.axhline(0.0, color=DARK, linewidth=1.0, zorder=2)
    shares = []
    for row in rows:
        index = variants.index(groups[row.group].variant)
        style = look(index)
        values = factor * np.array([each.gain for each in row.gains])
        place = np.arange(len(values)) + 0.5
        shares.append((f"{100 * np.mean(values < 0):.0f} %", style.colour))
        if len(variants) == 1:
            colours = [WORSE if value < 0 else COLOURS[0] for value in values]
            axes.bar(place, values, width=0.8, color=colours)
            if len(values) <= MOST_BARS and all(each.seed is None for each in row.gains):
                axes.set_xticks(place, [each.client for each in row.gains], rotation=90)
            continue
        few = len(values) <= 40
        axes.plot(
            100 * place / len(values),
            values,
            color=style.colour,
            linestyle=style.dash,
            marker=style.marker if few else "",
            markersize=3.0,
            linewidth=1.2,
        )
    if len(variants) > 1:
        axes.set_xlim(0, 100)
        axes.set_xlabel("clients (%)")
    else:
        axes.set_xlabel("clients")
        axes.grid(visible=False, axis="x")
    low, high = axes.get_ylim()
    axes.set_ylim(low, max(high, -0.15 * low))
    axes.axhspan(min(low, 0.0), 0.0, color="#f4e3d7", zorder=0, linewidth=0)
    if len(shares) <= MOST_SHARES:
        for number, (share, colour) in enumerate(shares):
            axes.text(0.97, 0.04 + 0.1 * number, share, transform=axes.transAxes, ha="right", color=colour)
