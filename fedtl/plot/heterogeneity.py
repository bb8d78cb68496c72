"""Methods over heterogeneity: lines along one key of the settings, and a heat map of all settings."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fedtl.choice import ConfigError
from fedtl.comparison.formats import in_percent
from fedtl.comparison.layout import Layout, Setting
from fedtl.comparison.result import Comparison, Summary
from fedtl.comparison.table import ScoreTable, over_fewer, part_in_words, score_table, scored_in_words
from fedtl.plot.panels import blank_figure, grid_of_panels, label_outer, legend, title
from fedtl.plot.setting_axis import SettingAxis, ticks_of
from fedtl.plot.style import DARK, NARROW, handle, look, styled
from fedtl.studies import Study


@styled
def settings(
    comparison: Comparison, study: Study | None = None, x: str | None = None, *, width: float | None = None
) -> Figure:
    """How each method fares where data are more or less alike: a line a method, whiskers over its seeds.

    Args:
        comparison: of the runs.
        study: that they belong to: its order, and the seeds that there should be.
        x: the key along the axis; the one with the most numbers if None. Other keys have a panel for each value.
        width: of the picture, in inches; by itself if None.

    Raises:
        ConfigError: there is one setting alone, or no such key.
    """
    layout, table = Layout.of(comparison.groups, study), score_table(comparison, study)
    axis = SettingAxis.of(layout, x)
    figure, all_axes = grid_of_panels(len(axis.panels), width, sharey=True)
    for axes, panel, words in zip(all_axes, axis.panels, axis.titles):
        for index, variant in enumerate(layout.variants):
            _draw_method(axes, axis, panel_groups(layout, axis, panel, variant), index, table, len(layout.variants))
        axis.prepare(axes)
        title(axes, words)
        axes.set_ylabel(comparison.metric)
    label_outer(all_axes)
    handles = [handle(index, variant) for index, variant in enumerate(layout.variants)]
    legend(figure, [handles], _notes(comparison, table))
    return figure


def panel_groups(layout: Layout, axis: SettingAxis, panel: Setting, variant: str) -> list[Summary | None]:
    """A method's groups along the axis."""
    settings = [axis.setting(layout, panel, value) for value in axis.values]
    return [None if setting is None else layout.group(variant, setting) for setting in settings]


@styled
def heat(comparison: Comparison, study: Study | None = None, *, width: float | None = None) -> Figure:
    """Every method in every setting: the darker the better, with the mean in each field.

    Args:
        comparison: of the runs.
        study: that they belong to: its order, and the cells that there should be.
        width: of the picture, in inches; by itself if None.
    """
    table = score_table(comparison, study)
    means = np.array([[np.nan if e.value is None else e.value.mean for e in row] for row in table.entries])
    if np.isnan(means).all():
        raise ConfigError("--kind heat: no method has a score")
    rows, columns = means.shape
    narrow = width is not None and width < NARROW
    names = [textwrap.fill(method, 24) for method in table.methods]
    lines = max(name.count("\n") for name in names) + 1
    height = max(0.2, 0.13 * lines) * rows + 0.7 if narrow else 0.42 * rows + 1.6
    figure = blank_figure(0.085 * max(map(len, names)) + 0.95 * columns + 1.5, height, width)
    axes = figure.add_subplot()
    colours = "Blues_r" if comparison.smaller_is_better else "Blues"
    image = axes.imshow(means, cmap=colours, aspect="auto", interpolation="nearest")
    low, high = image.get_clim()
    if low == high:
        image.set_clim(low - 0.5, high + 0.5)
    reds = np.asarray(image.to_rgba(means))[..., 0]  # of dark blue little
    for row, column in np.ndindex(rows, columns):
        _write_field(axes, row, column, float(means[row, column]), bool(reds[row, column] < 0.45), table, narrow)
    axes.set_yticks(range(rows), names)
    label, words = ticks_of(table.settings, table.labels)
    axes.set_xticks(range(columns), words)
    axes.set_xlabel(label)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    unit = " in %" if in_percent(comparison.metric) else ""
    notes = [f"{comparison.metric}{unit} of {scored_in_words(comparison)}", "bold: the best of its column"]
    most = max(entry.planned for row in table.entries for entry in row)
    notes.insert(1, f"mean of {most} seeds" if most > 1 else "one seed")
    if np.isnan(means).any():
        notes.append("hatched: no run finished")
    if any(0 < entry.seeds < entry.planned for row in table.entries for entry in row):
        notes.append("°: not all seeds finished")
    if part := part_in_words(table.entries):
        notes.append(part)
    legend(figure, [], notes)
    return figure


def _write_field(axes: Axes, row: int, column: int, mean: float, dark: bool, table: ScoreTable, narrow: bool) -> None:
    entry = table.entries[row][column]
    if np.isnan(mean):
        field = Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor="#f2f2f2", edgecolor="#bbbbbb", hatch="////", lw=0)
        axes.add_patch(field)
        return
    text = f"{100 * mean:.1f}" if in_percent(table.metric) else f"{mean:.3g}"
    axes.text(
        column,
        row,
        text + "+" * bool(entry.part) + "°" * (entry.seeds < entry.planned),
        ha="center",
        va="center",
        color="white" if dark else DARK,
        weight="bold" if entry.best else "normal",
        fontsize=(6.5 if table.labels[6:] else 7.0) if narrow else 9.0,
    )


def _draw_method(
    axes: Axes, axis: SettingAxis, groups: list[Summary | None], index: int, table: ScoreTable, methods: int
) -> None:
    style = look(index)
    places = axis.places()
    # Side by side, so that whiskers do not hide each other.
    step = min(0.012, 0.05 / methods) * float(np.ptp(places)) if axis.numeric else 0.7 / max(methods, 4)
    x = places + step * (index - (methods - 1) / 2)
    mean = np.array([np.nan if each is None else each.value.mean for each in groups])
    low = np.array([np.nan if each is None else min(each.compared.values()) for each in groups])
    high = np.array([np.nan if each is None else max(each.compared.values()) for each in groups])
    axes.vlines(x, low, high, color=style.colour, linewidth=1.0, alpha=0.8)
    axes.plot(x, mean, color=style.colour, linestyle=style.dash if axis.numeric else "", marker=style.marker)
    entries = [None if each is None else table.entry(each.variant, each.setting) for each in groups]
    part = np.array([each is not None and each.seeds < each.planned for each in entries])
    if part.any():
        axes.plot(
            x[part],
            mean[part],
            linestyle="",
            marker=style.marker,
            color=style.colour,
            markerfacecolor="white",
            markeredgewidth=1.2,
        )


def _notes(comparison: Comparison, table: ScoreTable) -> list[str]:
    entries = [entry for row in table.entries for entry in row]
    most = max(entry.planned for entry in entries)
    notes = [f"{comparison.metric} of {scored_in_words(comparison)}"]
    notes.append(f"marks: mean of {most} seeds, whiskers: lowest to highest" if most > 1 else "one seed")
    if any(0 < entry.seeds < entry.planned for entry in entries):
        notes.append("hollow: not all seeds finished")
    if any(not entry.seeds for entry in entries):
        notes.append("gaps: no run finished")
    return [*notes, *over_fewer(comparison)]
