"""Who holds what: a bubble for each client and label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fedtl.choice import ConfigError
from fedtl.plot.style import COLOURS, DPI, RC

if TYPE_CHECKING:
    from fedtl.data.federation import Federation

MAX_LABEL_TICKS = 40


@mpl.rc_context(RC)
def partition(federation: Federation, max_clients: int = 50) -> Figure:
    """Which labels each client holds; a bubble's area is the number of its samples, training and test together.

    The bars on top are the clients' sizes.

    Args:
        federation: the clients' data.
        max_clients: of more clients only the first ones are shown, and the title says so.

    Raises:
        ConfigError: there is no client to show.
    """
    shown = min(federation.clients, max_clients)
    if shown < 1:
        raise ConfigError(f"there is no client to show: {federation.clients} clients, max_clients = {max_clients}")
    counts = federation.label_counts(shown)
    labels = federation.classes

    width = float(np.clip(0.2 * shown + 2.6, 5.5, 13.0))
    height = float(np.clip(0.27 * labels + 2.0, 3.4, 10.0))
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(2, 1, height_ratios=[1.0, max(3.0, height - 1.4)])
    bubbles = figure.add_subplot(grid[1])
    sizes = figure.add_subplot(grid[0], sharex=bubbles)

    # The largest bubble just fills its cell, in points; about 2 inches of the figure are not cells.
    cell = 72.0 * min((width - 2.2) / shown, (height - 1.9) / labels)
    largest = int(counts.max(initial=1))
    per_sample = float(np.clip(cell, 4.0, 26.0)) ** 2 / max(largest, 1)
    client, label = np.nonzero(counts)
    areas = counts[client, label] * per_sample
    bubbles.scatter(client, label, s=areas, color=COLOURS[0], alpha=0.75, linewidths=0, label="samples")
    bubbles.set_xlim(-0.7, shown - 0.3)
    bubbles.set_ylim(-0.7, labels - 0.3)
    bubbles.set_xlabel("client")
    bubbles.set_xticks(range(0, shown, -(-shown // 25)))
    bubbles.set_ylabel("label")
    if labels <= MAX_LABEL_TICKS:
        names = federation.label_names or tuple(str(i) for i in range(labels))
        bubbles.set_yticks(range(labels), [_short(name) for name in names])
    else:
        bubbles.yaxis.set_major_locator(MaxNLocator(20, integer=True, steps=[1, 2, 5, 10]))

    sizes.bar(range(shown), counts.sum(axis=1), color="#8a8a8a", width=0.7)
    sizes.set_ylabel("samples")
    sizes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    sizes.tick_params(labelbottom=False, length=0, axis="x")
    sizes.grid(visible=False, axis="x")
    which = f"the first {shown} of {federation.clients:,}" if shown < federation.clients else f"{shown}"
    sizes.set_title(f"Who holds what: {which} client{'s' if federation.clients != 1 else ''}", loc="left")

    steps = _round_sizes(largest)
    handles = [
        Line2D([], [], linestyle="", marker="o", color=COLOURS[0], alpha=0.75, markeredgewidth=0, markersize=size)
        for size in np.sqrt(np.array(steps) * per_sample)
    ]
    figure.legend(
        handles,
        [f"{step:,}" for step in steps],
        title="samples",
        loc="outside right center",
        labelspacing=1.0,
    )
    return figure


def _round_sizes(largest: int) -> list[int]:
    """Up to three round numbers that span the bubbles' sizes, for the legend."""
    steps = {_round_down(largest * part) for part in (0.1, 0.4, 1.0)}
    return sorted(step for step in steps if step > 0)


def _round_down(value: float) -> int:
    if value < 1:
        return 0
    power = 10 ** int(np.log10(value))
    return int(max(step for step in (1, 2, 5) if step * power <= value) * power)


def _short(name: str) -> str:
    return name if len(name) <= 22 else name[:21] + "…"
