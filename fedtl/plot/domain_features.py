"""Where samples of several domains lie for a model: its features in the plane, and how far the domains are apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from fedtl.plot.panels import grid_of_panels, legend, middle_out, title
from fedtl.plot.style import COLOURS, DARK, NARROW, handle, look, styled

MOST_LABELS = 10
"""Labels up to which a panel colours samples by label."""
# Okabe and Ito's, and three that differ from them in lightness.
LABEL_COLOURS = (
    *COLOURS,
    "#8B5A2B",
    "#999999",
    "#5E3C99",
)


@dataclass(frozen=True)
class DomainFeatures:
    """Features of samples, projected.

    Attributes:
        method: of the run, in a few words.
        names: the domains'.
        points: ``[n, 2]``.
        domains: of each sample its place in ``names``.
        labels: of each sample.
        label_names: in words.
        projection: in words, as ``"PCA (61 % of the variance)"``.
        distances: proxy A-distances of the domains, ``[domains, domains]``.
        notes: what a reader must know besides.
    """

    method: str
    names: tuple[str, ...]
    points: NDArray[np.float64]
    domains: NDArray[np.int64]
    labels: NDArray[np.int64]
    label_names: tuple[str, ...]
    projection: str
    distances: NDArray[np.float64]
    notes: tuple[str, ...] = ()


@styled
def features(data: DomainFeatures, *, width: float | None = None) -> Figure:
    """A point for each sample, coloured by domain and, where there are few, by label; of several pairs all distances.

    Args:
        data: of one run.
        width: of the picture, in inches; by itself if None.
    """
    by_label = 1 < len(data.label_names) <= MOST_LABELS
    by_pair = len(data.names) > 2
    figure, all_axes = grid_of_panels(1 + by_label + by_pair, width, (4.0, 3.4))
    if by_pair:
        _distances(all_axes.pop(), data, width is not None and width < NARROW)
    for axes in all_axes[1:]:
        axes.sharex(all_axes[0])
        axes.sharey(all_axes[0])
    size = 10.0 if len(data.points) <= 600 else 6.0
    for index in range(len(data.names)):
        style = look(index)
        mine = data.points[data.domains == index]
        all_axes[0].scatter(
            mine[:, 0], mine[:, 1], s=size, color=style.colour, marker=style.marker, alpha=0.6, linewidths=0
        )
    title(all_axes[0], "by domain")
    blocks = [[handle(index, name, linestyle="") for index, name in enumerate(data.names)]]
    if by_label:
        title(all_axes[1], "by label")
        blocks.append([])
        for label, (name, colour) in enumerate(zip(data.label_names, LABEL_COLOURS)):
            x, y = data.points[data.labels == label].T
            all_axes[1].scatter(x, y, s=size, color=colour, alpha=0.7, linewidths=0)
            blocks[1].append(Line2D([], [], color=colour, linestyle="", marker="o", label=f"label {name}"))
    for axes in all_axes:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
    notes = [f"{data.method}: features of the final global model, {data.projection}", _apart(data), *data.notes]
    legend(figure, blocks, notes)
    return figure


def _distances(axes: Axes, data: DomainFeatures, narrow: bool) -> None:
    """A field for each pair."""
    names = [middle_out(name, 20) for name in data.names]
    below = np.ma.masked_where(np.triu(np.ones_like(data.distances, bool)), data.distances)[1:, :-1]
    axes.imshow(below, cmap="Blues", vmin=0.0, vmax=2.0, aspect="auto", interpolation="nearest")
    for row, column in zip(*np.nonzero(~np.ma.getmaskarray(below))):
        value = float(below[row, column])
        colour = "white" if value > 1.1 else DARK
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=6.5 if narrow else 8.5)
    axes.set_yticks(range(len(names) - 1), names[1:])
    axes.set_xticks(range(len(names) - 1), names[:-1], rotation=30, ha="right", rotation_mode="anchor")
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    title(axes, "proxy A-distance")


def _apart(data: DomainFeatures) -> str:
    """The proxy A-distances in words."""
    pairs = data.distances[np.triu_indices(len(data.names), 1)]
    scale = "0: alike, 2: told apart without error"
    if len(pairs) == 1:
        return f"proxy A-distance {pairs[0]:.2f} ({scale})"
    return f"proxy A-distance of pairs {pairs.min():.2f} to {pairs.max():.2f}, mean {pairs.mean():.2f} ({scale})"
