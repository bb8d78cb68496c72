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
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from fedtl.data.federation import Federation

MAX_LABEL_TICKS = 40


@mpl.rc_context(RC)
def partition(federation: Federation, max_clients: int = 50) -> Figure:
    """Which labels each client holds; a bubble's area is the number of its samples, for whatever purpose.

    The bars on top are the clients' sizes. What clients hold of a target, or without labels, stands below in the
    same way and to the same scale. Of several domains each has a colour.

    Args:
        federation: the clients' data.
        max_clients: of more clients only the first ones are shown, and the title says so.

    Raises:
        ConfigError: there is no client to show.
    """
    first = federation.first_of_target
    alone = first or federation.clients  # further clients who hold the target alone come after these
    shown = min(alone, max_clients)
    if shown < 1:
        raise ConfigError(f"there is no client to show: {federation.clients} clients, max_clients = {max_clients}")
    panels = [(0, federation.label_counts(shown), f"Who holds what: {_told(shown, alone)}")]
    for stage in federation.later:
        title = f"From round {stage.first} on: {stage.because}"
        panels.append((0, federation.at(stage.first).label_counts(shown), title))
    if federation.target is not None:
        others = federation.clients - first
        last = first + min(others, max_clients)
        labelled = len(federation.target.test.order) + len(federation.target.server_test)  # for scoring
        title = f"What they hold {'of the target' if labelled else 'without labels'}"
        if first:
            title = f"Who holds the target: {_told(last - first, others)}"
        panels.append((first, federation.label_counts(last, target=True)[first:], title))
        shown = max(shown, last - first)
    labels = federation.classes

    width = float(np.clip(0.2 * shown + 2.6, 5.5, 13.0))
    height = float(np.clip(0.27 * labels + 2.0, 3.4, 10.0))
    figure = Figure(figsize=(width, height * len(panels)), dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(2 * len(panels), 1, height_ratios=[1.0, max(3.0, height - 1.4)] * len(panels))

    # The largest bubble just fills its cell, in points; about 2 inches of the figure are not cells.
    cell = 72.0 * min((width - 2.2) / shown, (height - 1.9) / labels)
    largest = max(int(counts.max(initial=1)) for _, counts, _ in panels)
    per_sample = float(np.clip(cell, 4.0, 26.0)) ** 2 / max(largest, 1)
    for i, (start, counts, title) in enumerate(panels):
        bubbles = figure.add_subplot(grid[2 * i + 1])
        sizes = figure.add_subplot(grid[2 * i], sharex=bubbles)
        colours = _colours(federation, start, len(counts))
        _draw(bubbles, sizes, start, counts, per_sample, federation.label_names, colours)
        if federation.outcomes is not None:
            bubbles.set_ylabel("outcome")
        sizes.set_title(title, loc="left")

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
    if federation.domains:
        _name_domains(figure, federation)
    return figure


def _colours(federation: Federation, first: int, clients: int) -> list[str]:
    """Each client's colour, by its domain where there are several."""
    if federation.domain_of is None:
        return [COLOURS[0]] * clients
    return [COLOURS[max(number, 0) % len(COLOURS)] for number in federation.domain_of[first : first + clients].tolist()]


def _name_domains(figure: Figure, federation: Federation) -> None:
    """A legend of domains: those that clients have, and below them those that they have not."""
    places = [] if federation.domain_of is None else [int(n) for n in np.unique(federation.domain_of) if n >= 0]
    handles = [
        Line2D([], [], linestyle="", marker="s", color=COLOURS[place % len(COLOURS)], markersize=7) for place in places
    ]
    names = [_short(federation.domains[place]) for place in places]
    for name, rows in federation.held_out.items():
        handles.append(Line2D([], [], linestyle="", marker="s", color="#8a8a8a", fillstyle="none", markersize=7))
        names.append(f"{_short(name)}: held out, {len(rows):,} samples")
    figure.legend(handles, names, title="domains", loc="outside lower center", ncols=min(len(names), 3))


def _told(shown: int, clients: int) -> str:
    which = f"the first {shown} of {clients:,}" if shown < clients else f"{shown}"
    return f"{which} client{'s' if clients != 1 else ''}"


def _draw(
    bubbles: Axes,
    sizes: Axes,
    first: int,
    counts: NDArray[np.int64],
    per_sample: float,
    names: tuple[str, ...],
    colours: list[str],
) -> None:
    """Bubbles for ``counts [clients, labels]`` from client ``first`` on, and bars for their sums.

    A bubble has ``per_sample`` square points for each sample, and its client's colour.
    """
    shown, labels = counts.shape
    client, label = np.nonzero(counts)
    areas = counts[client, label] * per_sample
    bubbles.scatter(
        first + client, label, s=areas, color=[colours[i] for i in client], alpha=0.75, linewidths=0, label="samples"
    )
    bubbles.set_xlim(first - 0.7, first + shown - 0.3)
    bubbles.set_ylim(-0.7, labels - 0.3)
    bubbles.set_xlabel("client")
    bubbles.set_xticks(range(first, first + shown, -(-shown // 25)))
    bubbles.set_ylabel("label")
    if labels <= MAX_LABEL_TICKS:
        names = names or tuple(str(i) for i in range(labels))
        bubbles.set_yticks(range(labels), [_short(name) for name in names])
    else:
        bubbles.yaxis.set_major_locator(MaxNLocator(20, integer=True, steps=[1, 2, 5, 10]))

    sizes.bar(range(first, first + shown), counts.sum(axis=1), color="#8a8a8a", width=0.7)
    sizes.set_ylabel("samples")
    sizes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    sizes.tick_params(labelbottom=False, length=0, axis="x")
    sizes.grid(visible=False, axis="x")


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
