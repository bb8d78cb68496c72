"""Ten people's exercises, by a smartwatch."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import Field

from fedtl.choice import ConfigError
from fedtl.data.dataset import Dataset, channel_statistics
from fedtl.data.memory import need_memory
from fedtl.data.settings import DataChoice

LONGEST = 100_000
"""Measurements; no recording has more."""


class Watch(DataChoice):
    """Seven shoulder exercises of ten people, 6-axis smartwatch data at 50 Hz; each person is a client.

    140 recordings (Burns et al. 2018, arXiv 1802.01489), shipped with the package seglearn, cut into windows of
    equal length; standardised by each sensor's mean and standard deviation over all windows. Windows that
    overlap (``step < window``) share measurements, so that a client's random test windows would be seen in
    training in part.

    Attributes:
        window: length of a sample, in measurements.
        step: from one window's beginning to the next one's.
    """

    default_partition: ClassVar[dict[str, Any]] = {"name": "natural"}

    name: str = "watch"
    window: int = Field(100, ge=1, le=LONGEST)
    step: int = Field(100, ge=1, le=LONGEST)

    def load(self) -> Dataset:
        """See :class:`~fedtl.data.settings.DataChoice`."""
        raw = _read()
        windows = sum(max(0, (len(series) - self.window) // self.step + 1) for series in raw["X"])
        need_memory(f"data.window = {self.window}, data.step = {self.step}", windows * self.window * 6 * (8 + 4))
        pieces = [
            sliding_window_view(series, self.window, axis=0)[:: self.step]
            for series in raw["X"]
            if len(series) >= self.window
        ]
        lengths = np.array([len(series) for series in raw["X"]])
        if not pieces:
            raise ConfigError(
                f"data.window = {self.window}: the longest recording has {lengths.max()} measurements; take fewer"
            )
        counts = np.maximum(0, (lengths - self.window) // self.step + 1)
        x = np.concatenate(pieces).astype(np.float32)
        _, person = np.unique(raw["subject"], return_inverse=True)
        mean, std = channel_statistics(x)
        return Dataset(
            x,
            np.repeat(np.asarray(raw["y"], np.int64), counts),
            len(raw["y_labels"]),
            mean,
            std,
            owner=np.repeat(person.astype(np.int64), counts),
            label_names=tuple(str(label) for label in raw["y_labels"]),
        )


def _read() -> dict[str, Any]:
    # The file is read directly: importing seglearn would need packages that the data do not.
    package = importlib.util.find_spec("seglearn")
    if package is None or package.origin is None:
        raise ConfigError("data.name = 'watch' needs the package seglearn: pip install 'fedtl[watch]'")
    path = Path(package.origin).parent / "data" / "watch_dataset.npy"
    if not path.is_file():
        raise ConfigError(f"data.name = 'watch': this seglearn has no {path}; use seglearn 1.2.5")
    # A pickle, which could run code; it is part of an installed package, whose code would run as well.
    raw: dict[str, Any] = np.load(path, allow_pickle=True).item()
    return raw
