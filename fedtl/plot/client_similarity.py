"""Which clients want the same of the model: cosines of their updates, clients in clusters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fedtl.plot.panels import blank_figure, legend
from fedtl.plot.style import DARK, NARROW, styled

MOST_NAMED = 40
"""Clients up to which each has its name beside it."""


@dataclass(frozen=True)
class Similarity:
    """Cosines of what clients' training changes.

    Attributes:
        method: in a few words.
        names: the clients'.
        cosines: ``[clients, clients]``, 1 on the diagonal.
        labels: how like each other the clients' labels are, likewise: cosines of their counts.
        notes: what a reader must know besides.
    """

    method: str
    names: tuple[str, ...]
    cosines: NDArray[np.float64]
    labels: NDArray[np.float64]
    notes: tuple[str, ...] = ()

    @property
    def agreement(self) -> float | None:
        """The correlation, over pairs of clients, of updates' and labels' likeness; None where one is constant."""
        pairs = np.triu_indices(len(self.names), 1)
        updates, labels = self.cosines[pairs], self.labels[pairs]
        if len(updates) < 3 or np.ptp(updates) == 0 or np.ptp(labels) == 0:
            return None
        return float(np.corrcoef(updates, labels)[0, 1])


@styled
def similarity(data: Similarity, *, width: float | None = None) -> Figure:
    """A field for each pair of clients, in the order of average-linkage clusters, whose tree stands above.

    Args:
        data: of one run.
        width: of the picture, in inches; by itself if None.
    """
    from scipy.cluster.hierarchy import dendrogram, linkage
    from scipy.spatial.distance import squareform

    n = len(data.names)
    apart = np.clip(1 - data.cosines, 0, None)
    np.fill_diagonal(apart, 0.0)
    tree = linkage(squareform(apart, checks=False), "average", optimal_ordering=n <= 300)
    leaves = dendrogram(tree, no_plot=True)
    order = leaves["leaves"]
    whole = 6.0 if width is None else width
    figure = blank_figure(whole, whole * 1.05, width)
    grid = figure.add_gridspec(2, 1, height_ratios=[1, 6], hspace=0.02)
    fields, above = figure.add_subplot(grid[1]), figure.add_subplot(grid[0])
    for x, y in zip(leaves["icoord"], leaves["dcoord"]):  # leaves stand at 5, 15, 25
        above.plot((np.array(x) - 5) / 10, y, color=DARK, linewidth=0.8)
    above.set_xlim(-0.5, n - 0.5)
    above.axis("off")
    others = data.cosines[~np.eye(n, dtype=bool)]
    most = float(np.abs(others).max()) or 1.0
    image = fields.imshow(
        data.cosines[np.ix_(order, order)], cmap="RdBu", vmin=-most, vmax=most, aspect="auto", interpolation="nearest"
    )
    fields.grid(visible=False)
    if n <= MOST_NAMED:
        size = min(9.0 if whole >= NARROW else 7.0, 60.0 * whole / n)
        names = [data.names[i] for i in order]
        fields.set_xticks(range(n), names, rotation=90, fontsize=size)
        fields.set_yticks(range(n), names, fontsize=size)
        fields.tick_params(length=0)
    else:
        fields.set_xticks([])
        fields.set_yticks([])
    fields.set_xlabel(f"{n} clients, in clusters")
    bar = figure.colorbar(image, ax=[above, fields], fraction=0.05, pad=0.02)
    bar.set_label("cosine of updates")
    bar.ax.grid(visible=False)
    notes = [f"{data.method}: what one more round of each client would change in the final model"]
    notes.append(f"cosines of pairs {others.min():.2f} to {others.max():.2f}")
    if data.agreement is not None:
        notes.append(f"correlation with the likeness of the clients' labels {data.agreement:.2f}")
    legend(figure, [], [*notes, *data.notes])
    return figure
