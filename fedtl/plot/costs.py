"""What a score costs: each method's accuracy against the bytes that it sent, and who is beaten in both."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedtl.choice import ConfigError
from fedtl.comparison.layout import Layout
from fedtl.comparison.result import Comparison, Summary
from fedtl.comparison.table import over_fewer, scored_in_words
from fedtl.plot.panels import grid_of_panels, label_outer, legend, plain_log, title
from fedtl.plot.style import byte_unit, handle, look, styled

WIDE = 30.0
"""Ratio of the most to the fewest bytes from which their axis is logarithmic."""


@styled
def pareto(comparison: Comparison, *, width: float | None = None) -> Figure:
    """The score against the bytes to and from all clients until then, with the front of those that none beats in both.

    A method that sends nothing is a line across.

    Args:
        comparison: of the runs.
        width: of the picture, in inches; by itself if None.

    Raises:
        ConfigError: no run has sent anything.
    """
    groups = comparison.groups
    largest = max(group.sent.mean for group in groups)
    if not largest:
        raise ConfigError("--kind pareto: none of these runs has sent a byte, so there is no cost to show")
    layout = Layout.of(groups)
    factor, unit = byte_unit(largest)
    sending = [group.sent.mean for group in groups if group.sent.mean]
    wide = max(sending) / min(sending) >= WIDE
    figure, all_axes = grid_of_panels(len(layout.settings), width, sharey=True)
    for axes, setting, label in zip(all_axes, layout.settings, layout.labels):
        here = [(i, group) for i, each in enumerate(layout.variants) if (group := layout.group(each, setting))]
        best = front([group for _, group in here], comparison.smaller_is_better)
        _draw_front(axes, best, min(sending) * factor / 2 if wide else 0.0, 1.12 * largest * factor, factor)
        for index, group in here:
            _draw_method(axes, index, group, factor, beaten=group not in best)
        if wide:
            plain_log(axes, "x")
        else:
            axes.set_xlim(0, 1.12 * largest * factor)
        axes.set_xlabel(f"sent ({unit})")
        axes.set_ylabel(comparison.metric)
        title(axes, label)
    label_outer(all_axes)
    silent = {group.variant for group in groups if not group.sent.mean}
    handles = [
        handle(index, f"{each} (sends nothing)", marker="", linewidth=1.0)
        if each in silent
        else handle(index, each, linestyle="")
        for index, each in enumerate(layout.variants)
    ]
    handles.append(Line2D([], [], color="#999999", linewidth=1.0, label="front"))
    notes = [
        f"{comparison.metric} of {scored_in_words(comparison)}, and what was sent to and from all clients until then"
    ]
    seeds = max(group.last.seeds for group in groups)
    if seeds > 1:
        notes.append(f"marks: mean of {seeds} seeds, whiskers: lowest to highest")
    notes.append("hollow: another method is as good for fewer bytes, or better for as many")
    legend(figure, [handles], [*notes, *over_fewer(comparison)])
    return figure


def front(groups: Sequence[Summary], smaller_is_better: bool = False) -> list[Summary]:
    """Those that no other beats: as good with fewer bytes, or better with as many; by bytes."""

    def beats(one: Summary, other: Summary) -> bool:
        gain = (one.value.mean - other.value.mean) * (-1 if smaller_is_better else 1)
        return gain >= 0 and one.sent.mean <= other.sent.mean and (gain > 0 or one.sent.mean < other.sent.mean)

    best = [group for group in groups if not any(beats(other, group) for other in groups)]
    return sorted(best, key=lambda group: group.sent.mean)


def _draw_front(axes: Axes, best: Sequence[Summary], left: float, right: float, factor: float) -> None:
    """From each to the next: as good as before until more bytes are sent."""
    x = [max(left, group.sent.mean * factor) for group in best]
    y = [group.value.mean for group in best]
    axes.step([*x, right], [*y, y[-1]], where="post", color="#999999", linewidth=1.0, zorder=1)


def _draw_method(axes: Axes, index: int, group: Summary, factor: float, beaten: bool) -> None:
    style = look(index)
    mean, values = group.value.mean, list(group.compared.values())
    if not group.sent.mean:
        axes.axhline(mean, color=style.colour, linestyle=style.dash, linewidth=1.0)
        return
    x = group.sent.mean * factor
    axes.vlines(x, min(values), max(values), color=style.colour, linewidth=1.0)
    face = "white" if beaten else style.colour
    axes.plot(x, mean, color=style.colour, marker=style.marker, linestyle="", markerfacecolor=face)
