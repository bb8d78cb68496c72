"""MedMNIST's files: small images of medicine, with one label or several."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from fedtl.choice import ConfigError
from fedtl.data.arrays import labels, samples
from fedtl.data.dataset import Dataset, channel_statistics
from fedtl.data.sets.npz import array_of, opened
from fedtl.data.sets.place import readable
from fedtl.data.settings import DataChoice

PARTS = ("train", "val", "test")


class MedMNIST(DataChoice):
    """One of MedMNIST's .npz files (Yang et al. 2023), as ``pathmnist.npz`` or ``chestmnist_64.npz``.

    Its training and validation images are divided among the clients, its test images are the server's. ChestMNIST's
    labels are for ``task = "multilabel"``, RetinaMNIST's may be for "regression".

    Attributes:
        path: the file.
    """

    name: str = "medmnist"
    path: str = Field(min_length=1)

    def load(self) -> Dataset:
        """See :class:`~fedtl.data.settings.DataChoice`."""
        with readable(self.path, "file") as file:
            if not file.is_file():
                raise ConfigError(f"data.path = {self.path!r}: there is no such file")
        with opened(file) as archive:
            for part in PARTS:
                for kind in ("images", "labels"):
                    if f"{part}_{kind}" not in archive.files:
                        raise ConfigError(f"{file} has no array '{part}_{kind}'; it is not one of MedMNIST's files")
            images = [array_of(file, archive, f"{part}_images") for part in PARTS]
            each = [array_of(file, archive, f"{part}_labels") for part in PARTS]
        whole = np.concatenate(images)
        if whole.ndim == 4 and whole.shape[-1] == 3:
            whole = np.ascontiguousarray(np.moveaxis(whole, -1, 1))  # they have their channels last
        x = samples(f"{file}: images", whole)
        y, first_of_test = np.concatenate(each), len(x) - len(images[-1])
        mean, std = channel_statistics(x[:first_of_test])
        if self.task.labelled:
            own = labels(f"{file}: labels", y, len(x))
            if own.dtype.kind == "U":
                raise ConfigError(f"{file}: labels are words, which MedMNIST's are not")
            numbers = own.astype(np.int64)
            return Dataset(x, numbers, int(numbers.max()) + 1, mean, std, official_test=first_of_test)
        outcomes = self.task.outcomes(f"{file}: labels", y, len(x))
        return Dataset.of_outcomes(x, self.task, [outcomes], mean, std, official_test=first_of_test)
