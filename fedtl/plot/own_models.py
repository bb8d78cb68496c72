"""For whom a model of its own is better than the global one: every client's two scores against each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.comparison.layout import Layout
from fedtl.comparison.naming import MODEL_WORDS
from fedtl.comparison.result import Comparison, Summary
from fedtl.plot.panels import grid_of_panels, label_outer, legend, title
from fedtl.plot.style import DARK, handle, look, styled
from fedtl.runs.history import load

GLOBAL, PERSONAL = "global/clients", "personal/clients"


class Both(NamedTuple):
    """A group's clients under both models, ``[clients of all seeds]`` each, in the last scored round."""

    under_global: NDArray[np.float64]
    under_personal: NDArray[np.float64]


@styled
def personal_global(comparison: Comparison, *, width: float | None = None) -> Figure:
    """Every client's score under its personalised model over that under the global one; a panel a method.

    Args:
        comparison: of the runs, whose records are read anew: a comparison has one score a method.
        width: of the picture, in inches; by itself if None.

    Raises:
        ConfigError: no run has scored its clients under both.
    """
    both = {group.group: scores for group in comparison.groups if (scores := _both(group, comparison.metric))}
    if not both:
        raise ConfigError(
            "--kind personal-global: no run has scored each client under both a global and a personalised model, as "
            f"runs do whose method has both; {GLOBAL} and {PERSONAL} are needed"
        )
    groups = [group for group in comparison.groups if group.group in both]
    layout = Layout.of(groups)
    figure, all_axes = grid_of_panels(len(layout.variants), width, (2.9, 2.9), sharex=True, sharey=True)
    every = np.concatenate([np.concatenate(scores) for scores in both.values()])
    low, high = float(every.min()), float(every.max())
    margin = 0.04 * (high - low) or 0.02
    sign = -1.0 if comparison.smaller_is_better else 1.0
    for axes, variant in zip(all_axes, layout.variants):
        axes.plot([low, high], [low, high], color=DARK, linewidth=0.8, zorder=1)
        better, clients = 0, 0
        for index, setting in enumerate(layout.settings):
            group = layout.group(variant, setting)
            if group is None:
                continue
            scores, style = both[group.group], look(index)
            few = len(scores.under_global) <= 100
            axes.scatter(
                *scores,
                s=16.0 if few else 7.0,
                color=style.colour,
                marker=style.marker,
                alpha=0.75 if few else 0.5,
                linewidths=0,
                rasterized=len(scores.under_global) > 5000,  # an SVG of so many marks opens in no browser
            )
            better += int((sign * (scores.under_personal - scores.under_global) > 0).sum())
            clients += len(scores.under_global)
        title(axes, variant, f"own better: {100 * better / clients:.0f} %")
        axes.set_xlim(low - margin, high + margin)
        axes.set_ylim(low - margin, high + margin)
        axes.set_aspect("equal")
        axes.set_xlabel(MODEL_WORDS["global"])
        axes.set_ylabel(MODEL_WORDS["personal"])
    label_outer(all_axes)
    handles = [handle(index, label, linestyle="") for index, label in enumerate(layout.labels) if label]
    legend(figure, [handles], _notes(comparison, groups))
    return figure


def _both(group: Summary, metric: str) -> Both | None:
    """The scores of clients that have both, of all seeds; None where there are none."""
    rows: list[NDArray[np.float64]] = []
    for path in group.runs.values():
        scores = load(path).client_scores(metric)
        if GLOBAL in scores and PERSONAL in scores and len(scores[GLOBAL]) == len(scores[PERSONAL]):
            rows.append(np.stack([scores[GLOBAL], scores[PERSONAL]]))
    if not rows:
        return None
    values = np.concatenate(rows, axis=1)
    values = values[:, np.isfinite(values).all(axis=0)]
    return Both(values[0], values[1]) if values.size else None


def _notes(comparison: Comparison, groups: Sequence[Summary]) -> list[str]:
    seeds = max(len(group.runs) for group in groups)
    notes = [f"{comparison.metric} of each client" + (f" under one of {seeds} seeds" if seeds > 1 else "")]
    notes.append("in the last scored round")
    side = "below" if comparison.smaller_is_better else "above"
    notes.append(f"{side} the line the client's own model is better, for the share of clients in the title")
    drawn = {group.variant for group in groups}
    lacking = [each for each in dict.fromkeys(group.variant for group in comparison.groups) if each not in drawn]
    if lacking:
        notes.append(f"without both models: {', '.join(lacking)}")
    return notes
