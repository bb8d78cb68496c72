"""Figures of one or more panels, and the legend and caption below them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from fedtl.comparison.layout import is_number
from fedtl.plot.style import DPI, NARROW, letters

LEAST = 2.4
"""Inches that a panel needs, with its labels, to stand beside another."""
LEAST_OF_MANY = 1.5
"""The same where more than three would stand below each other."""
WIDE = 8.0
"""Ratio of the largest to the smallest value from which an axis is logarithmic."""


def blank_figure(own_width: float, height: float, width: float | None = None) -> Figure:
    """An empty figure.

    Args:
        own_width: in inches, where no width is asked for.
        height: in inches.
        width: that is asked for.
    """
    own_width = max(own_width, NARROW)  # whose letters are those of its style
    return Figure(figsize=(own_width if width is None else width, height), dpi=DPI, layout="constrained")


def columns_of(panels: int, width: float | None, most: int | None = None, least: float = LEAST) -> int:
    """How many panels stand side by side; all, or ``most``, where no width is asked for."""
    most = panels if most is None else min(most, panels)
    return most if width is None else int(np.clip(width // least, 1, most))


def grid_of_panels(
    panels: int,
    width: float | None,
    size: tuple[float, float] = (3.4, 2.9),
    most: int = 3,
    least: float | None = None,
    **shared: bool,
) -> tuple[Figure, list[Axes]]:
    """A figure with that many axes, row by row.

    Args:
        panels: how many.
        width: of the figure; by itself if None.
        size: of a panel in inches, where no width is asked for.
        most: panels in a row.
        least: inches that a panel needs to stand beside another; by their number if None.
        shared: ``sharex`` and ``sharey``: whether all panels have the first one's axis.
    """
    columns = columns_of(panels, width, most, least or (LEAST if panels <= 3 else LEAST_OF_MANY))
    rows = -(-panels // columns)
    alone = 1.4 if columns == 1 else 1.0
    height = size[1] * (1.15 if panels == 1 else 1.0)
    if width is not None:
        suiting = width / columns * size[1] / size[0] * (0.8 if columns == 1 else 1.0)
        height = float(np.clip(suiting, 1.4, height))
    figure = blank_figure(size[0] * columns * alone + 0.6, height * rows, width)
    axes: list[Axes] = []
    for place in range(panels):
        first: dict[str, Any] = {key: axes[0] for key, value in shared.items() if value and axes}
        axes.append(figure.add_subplot(rows, columns, place + 1, **first))
        if shared.get("sharey") and place % columns:
            axes[-1].tick_params(labelleft=False)
    return figure, axes


def label_outer(panels: Sequence[Axes], below: bool = True) -> None:
    """Leave labels that all panels share to those at the left and, if they share that too, at the bottom."""
    columns = _columns(panels[0])
    for place, axes in enumerate(panels):
        if place % columns:
            axes.set_ylabel("")
        if below and place + columns < len(panels):
            axes.set_xlabel("")


def title(axes: Axes, words: str, further: str = "") -> None:
    """A panel's title on its left; of words that are wider than the panel the middle is left out."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    room = int(0.62 * letters(figure) / _columns(axes))
    lines = [middle_out(line, room) for line in (words, further) if line]
    axes.set_title("\n".join(lines), loc="left")


def middle_out(words: str, room: int) -> str:
    """Words that are no longer than ``room`` letters: names often differ in their ends."""
    head = room // 2
    return words if len(words) <= room else f"{words[:head]}…{words[head + 1 - room :]}"


def are_numbers(values: Sequence[Any]) -> bool:
    """Whether values lie on an axis of numbers, each where it is; words lie side by side."""
    return all(is_number(value) for value in values)


def far_apart(values: Sequence[float]) -> bool:
    """Whether numbers are so far apart that their axis is logarithmic."""
    return min(values) > 0 and max(values) / min(values) >= WIDE


def plain_log(axes: Axes, which: Literal["x", "y"]) -> None:
    """Let an axis be logarithmic, with numbers as they are; names and powers are no mathematics here."""
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(numticks=4))
    axis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _columns(axes: Axes) -> int:
    gridspec = axes.get_gridspec()
    return 1 if gridspec is None else gridspec.ncols


def legend(figure: Figure, blocks: Sequence[Sequence[Any]], notes: Sequence[str]) -> None:
    """One legend below all panels, each block of entries on rows of its own; its title is the picture's caption."""
    width = letters(figure)  # that fit in a row
    narrow = figure.get_figwidth() < NARROW
    blocks = [[_shortened(handle, width - 8) for handle in block] for block in blocks if block]
    longest = max((len(str(handle.get_label())) for block in blocks for handle in block), default=0)
    columns = int(np.clip(width // (longest + 9), 1, max(map(len, blocks), default=1)))
    blank = Line2D([], [], linestyle="", label="")
    cells = [handle for block in blocks for handle in (*block, *[blank] * (-len(block) % columns))]
    # Legends are filled column by column, and read row by row.
    handles = [handle for column in range(columns) for handle in cells[column::columns]]
    caption = textwrap.fill("; ".join(notes), width)
    if not handles and not caption:
        return
    rows = len(cells) // columns + caption.count("\n") + bool(caption)
    row = 0.145 if narrow else 0.19
    figure.set_figheight(figure.get_figheight() + row * max(0, rows - (0 if narrow else 2)))
    figure.legend(
        handles,
        [str(handle.get_label()) for handle in handles],
        loc="outside lower center",
        ncols=columns,
        title=caption or None,
        handlelength=2.4 if narrow else 3.0,
        columnspacing=1.2 if narrow else 1.6,
    )


def _shortened(handle: Any, room: int) -> Any:
    """An entry whose words fit into a row."""
    handle.set_label(middle_out(str(handle.get_label()), room))
    return handle
