"""scikit-learn's handwritten digits, which need no download."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedtl.data.dataset import Dataset, channel_statistics
from fedtl.data.settings import DataChoice


class Digits(DataChoice):
    """1,797 handwritten digits of 8 x 8 pixels, shipped with scikit-learn; no test set of its own.

    Their grey values 0..16 are stored as 0..240: exactly fifteenfold, so that a byte means about as much as in
    other images.
    """

    name: str = "digits"

    def load(self) -> Dataset:
        """See :class:`~fedtl.data.settings.DataChoice`."""
        table = _read()
        x = (15 * table[:, :-1]).astype(np.uint8).reshape(-1, 1, 8, 8)
        mean, std = channel_statistics(x)
        names = tuple(str(digit) for digit in range(10))
        return Dataset(x, table[:, -1].astype(np.int64), 10, mean, std, label_names=names)


def _read() -> NDArray[np.float64]:
    """A row per image: 64 grey values, and the label."""
    # The file is read directly: importing scikit-learn takes longer than all else that a small run begins with.
    package = importlib.util.find_spec("sklearn")
    path = Path(package.origin or "").parent / "datasets" / "data" / "digits.csv.gz" if package else Path()
    if path.is_file():
        return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits

    raw = load_digits()
    return np.column_stack([raw.data, raw.target])
