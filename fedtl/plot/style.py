"""What all pictures share: colours, sizes, units, and writing them to a file."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedtl.choice import ConfigError
from fedtl.disk.durable import replacing

DPI = 150
SMALL = 9.0
DARK = "#222222"
NARROW = 5.0
"""Inches below which a picture is one for a page's column: smaller letters and lines, finer pixels."""

P = ParamSpec("P")

# Set while a picture is made, so that a user's own matplotlibrc cannot break its layout. Names are shown
# as they are: "a_$b$" is a run's name, not mathematics.
RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10.0,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.title_fontsize": SMALL,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.edgecolor": "#444444",
    "axes.formatter.useoffset": False,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.0,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "text.parse_math": False,
}

# Letters of a column-wide picture, which is printed as large as it is made.
NARROW_RC: Any = {
    **RC,
    "font.size": 7.5,
    "axes.titlesize": 8.0,
    "axes.titlepad": 4.0,
    "axes.labelsize": 7.5,
    "axes.labelpad": 2.5,
    "axes.linewidth": 0.6,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 7.0,
    "legend.title_fontsize": 7.0,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.6,
}

# Text stays text, and the same figure always gives the same bytes.
SAVE_RC: Any = {"svg.fonttype": "none", "svg.hashsalt": "fedtl"}

# Okabe and Ito's colours, told apart with any colour vision; without their yellow, too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")


class LineStyle(NamedTuple):
    """How one method is drawn, alike in every panel."""

    colour: str
    dash: Any
    marker: str


def look(index: int) -> LineStyle:
    """The look of the ``index``-th method; numbers of colours, dashes and markers share no divisor for long."""
    return LineStyle(COLOURS[index % len(COLOURS)], DASHES[index % len(DASHES)], MARKERS[index % len(MARKERS)])


def handle(index: int, label: str, **otherwise: Any) -> Line2D:
    """A legend's entry of the ``index``-th method.

    Args:
        index: its place.
        label: its words.
        otherwise: what differs from the method's look, as ``linestyle=""`` of marks alone.
    """
    style = look(index)
    drawn: Any = {"color": style.colour, "linestyle": style.dash, "marker": style.marker, **otherwise}
    return Line2D([], [], label=label, **drawn)


def byte_unit(largest: float) -> tuple[float, str]:
    """Factor and name of the decimal unit that suits a number of bytes."""
    for size, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if largest >= size:
            return 1 / size, name
    return 1.0, "bytes"


def rc(width: float | None) -> Any:
    """The settings of a picture of so many inches; of its own width if None."""
    return NARROW_RC if width is not None and width < NARROW else RC


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Let a function that has an option ``width`` draw in the style of a picture that wide."""

    @wraps(draw)
    def drawn(*args: P.args, **options: P.kwargs) -> Figure:
        width: Any = options.get("width")
        with mpl.rc_context(rc(width)):
            return draw(*args, **options)

    return drawn


def letters(figure: Figure) -> int:
    """How many letters of a legend's size fit into the figure's width."""
    return int(figure.get_figwidth() * (18.0 if figure.get_figwidth() < NARROW else 14.0))


def inches(text: str) -> float:
    """A length, as ``"3.3in"``, ``"8.4cm"``, ``"84mm"``; inches without a unit.

    Raises:
        ConfigError: it is none, or no picture can be so wide.
    """
    parts = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(in|cm|mm|)\s*", text)
    if parts is None:
        raise ConfigError(f"--width = {text!r}: give a length, as 3.3in or 8.4cm")
    width = float(parts[1]) / {"cm": 2.54, "mm": 25.4}.get(parts[2], 1.0)
    if not 2 <= width <= 40:
        raise ConfigError(f"--width = {text!r}: a picture is 2 to 40 inches wide")
    return width


def save(figure: Figure, path: str | Path) -> Path:
    """Write ``figure`` as PNG or SVG, by the path's suffix; a missing folder is made.

    Returns:
        The path.

    Raises:
        ConfigError: another suffix, or a place that cannot be written to.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise ConfigError(f"cannot save a picture as {str(path)!r}: the name must end in .png or .svg")
    # Without these the file would hold the hour and matplotlib's version.
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        width = figure.get_figwidth()
        # Ticks are made when they are drawn.
        with replacing(path) as unfinished, mpl.rc_context({**rc(width), **SAVE_RC}):
            figure.savefig(unfinished, format=kind, dpi=DPI if width >= NARROW else 2 * DPI, metadata=metadata)
    except OSError as error:
        raise ConfigError(f"cannot save a picture as {str(path)!r}: {error.strerror or error}") from error
    return path
