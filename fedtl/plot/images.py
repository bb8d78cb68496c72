"""Samples as pictures, a row for each label."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.plot.style import DPI, RC

MAX_ROWS = 20


@mpl.rc_context(RC)
def images(
    x: NDArray[np.float32], labels: NDArray[np.int64], title: str, names: tuple[str, ...] = (), columns: int = 12
) -> Figure:
    """Up to ``columns`` images of each label; a label without images has an empty row.

    Args:
        x: ``[n, channels, height, width]`` in 0..1; three channels are colours, of any others the first is shown.
        labels: ``[n]``.
        title: stands above them.
        names: a word per label.
        columns: images in a row at most.

    Raises:
        ConfigError: the samples are no images, or there is none.
    """
    if x.ndim != 4 or not len(x):
        raise ConfigError(f"samples of shape {list(x.shape)} cannot be drawn: give images [n, channels, height, width]")
    rows = min(max(int(labels.max()) + 1, len(names)), MAX_ROWS)
    colours = 3 if x.shape[1] == 3 else 1
    height, width = x.shape[2:]
    # One picture with a pixel between the images: a hundred axes would take seconds.
    sheet = np.ones((rows * (height + 1) - 1, columns * (width + 1) - 1, colours), np.float32)
    for row in range(rows):
        for column, image in enumerate(x[labels == row][:columns, :colours]):
            top, left = row * (height + 1), column * (width + 1)
            sheet[top : top + height, left : left + width] = np.clip(image, 0, 1).transpose(1, 2, 0)
    size = 0.45
    figure = Figure(figsize=(columns * size + 1.4, rows * size * height / width + 0.7), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(sheet.squeeze(-1) if colours == 1 else sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    words = names or tuple(str(row) for row in range(rows))
    axes.set_yticks([row * (height + 1) + (height - 1) / 2 for row in range(rows)], list(words[:rows]))
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(title, loc="left")
    return figure
