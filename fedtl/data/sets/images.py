"""A folder of images, sorted by class, that nobody owns yet."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from fedtl.choice import ConfigError
from fedtl.data.arrays import numbered
from fedtl.data.dataset import Dataset, Samples, channel_statistics
from fedtl.data.own.images import changed, read_images
from fedtl.data.own.part import TEST, TRAIN
from fedtl.data.sets.place import readable
from fedtl.data.settings import DataChoice


class Images(DataChoice):
    """A folder of images, ``CLASS/*.png`` or another of Pillow's formats, which the partition divides.

    With ``train/CLASS`` and ``test/CLASS`` the second is the official test set. Images that differ in height, width or
    number of channels need ``size`` and ``channels``. (``files`` reads a folder for each client.)

    Attributes:
        path: the folder.
    """

    load_reads = frozenset({"size", "channels"})

    name: str = "images"
    path: str = Field(min_length=1)

    def load(self) -> Dataset:
        """See :class:`~fedtl.data.settings.DataChoice`."""

        def change(where: str, x: Samples) -> Samples:
            return changed(where, x, self.size, self.channels)

        with readable(self.path, "folder") as folder:
            if not folder.is_dir():
                raise ConfigError(f"data.path = {self.path!r}: there is no such folder")
            wanted = (TRAIN, TEST) if (folder / TRAIN).is_dir() else (TEST,)
            parts = read_images(folder, wanted, 0.0, change)
        if not parts:
            raise ConfigError(f"data.path = {self.path!r}: the folder has no images, as CLASS/*.png")
        each = [parts[kind] for kind in (TRAIN, TEST) if kind in parts]
        if any(part.x.shape[1:] != each[0].x.shape[1:] for part in each):
            raise ConfigError(
                f"data.path = {self.path!r}: images for training and for testing differ in shape; say size and channels"
            )
        y, names = numbered([(part.where, part.y) for part in each if part.y is not None])
        x: Samples = np.concatenate([part.x for part in each])
        training = parts.get(TRAIN, each[0]).x
        first_test = len(training) if len(each) > 1 else None
        return Dataset(
            x,
            y,
            len(names or ()),
            *channel_statistics(training),
            official_test=first_test,
            label_names=names or (),
            notes=tuple(note for part in each for note in part.notes),
        )
