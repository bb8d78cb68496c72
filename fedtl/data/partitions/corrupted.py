"""Feature shift: each client's images have a corruption of their own."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr

from fedtl.choice import ConfigError
from fedtl.data.dataset import Samples, chunks
from fedtl.data.federation import Shards
from fedtl.data.partitions.on_top import OnTop
from fedtl.data.views.corruptions import STRENGTHS, Corruption, corrupt
from fedtl.random import Purpose, stream

WITHOUT_ASKING: tuple[Corruption, ...] = ("gaussian-noise", "gaussian-blur", "contrast", "brightness", "pixelate")


class Corrupted(OnTop):
    """Common corruptions of Hendrycks and Dietterich 2019 (arXiv 1903.12261), one for each client.

    Their constants are those of CIFAR-10-C, for images of 32 x 32 pixels: blur and pixels are coarser on smaller ones.
    Client i of k kinds has the (i mod k)-th kind, at the (i // k mod s)-th of s strengths. Images are corrupted once,
    so that they are the same in every epoch, for training and for testing. Of images that are no bytes, the smallest
    number of all samples is black, and the largest white; of the training samples of clients that train, where others
    are held out.

    Attributes:
        kinds: "gaussian-noise", "gaussian-blur", "contrast", "brightness", "pixelate", which are those without it, and
            "defocus-blur" or "none".
        strengths: each from 1 to 5.
    """

    name: str = "corrupted"
    kinds: tuple[Corruption | Literal["none"], ...] = Field(WITHOUT_ASKING, min_length=1)
    strengths: tuple[Annotated[int, Field(ge=1, le=STRENGTHS)], ...] = Field((3,), min_length=1)

    _seen: NDArray[np.int64] | None = PrivateAttr(None)

    def seeing(self, rows: NDArray[np.int64]) -> Corrupted:
        """See :class:`~fedtl.data.partitions.contract.Partition`."""
        base = self.base.seeing(rows)
        copy = self.model_copy(update={"base": base})
        copy._seen = rows
        return copy

    def shift(self, x: Samples, shards: Shards, seed: int) -> Samples:
        """See :class:`~fedtl.data.partitions.contract.Partition`."""
        x = self.base.shift(x, shards, seed)
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ConfigError(
                f"data.partition.name = {self.name!r}: only images [channels, height, width] with 1 or 3 channels can "
                f"be corrupted, but a sample has shape {list(x.shape[1:])}"
            )
        rng, result = stream(seed, Purpose.CORRUPTION), x.copy()
        low, unit = (0.0, 1.0) if x.dtype == np.uint8 else _range(x, self._seen)
        kind_of, strength_of = (each[shards.client_of] for each in self.of_clients(len(shards)))
        for number, kind in enumerate(self.kinds):
            if kind == "none":
                continue
            for strength in sorted({*self.strengths}):
                for rows in chunks(shards.order[(kind_of == number) & (strength_of == strength)]):
                    if x.dtype == np.uint8:
                        result[rows] = corrupt(x[rows], kind, strength, rng)
                    else:
                        pixels = ((x[rows] - low) / unit).astype(np.float32)
                        result[rows] = corrupt(pixels, kind, strength, rng) * unit + low
        return result

    def of_clients(self, clients: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The place of each client's corruption in :attr:`kinds`, and its strength, ``[clients]`` each."""
        client, k = np.arange(clients), len(self.kinds)
        return client % k, np.array(self.strengths)[client // k % len(self.strengths)]


def _range(x: Samples, seen: NDArray[np.int64] | None) -> tuple[float, float]:
    """What is black, and how much a 255th part up to white is, of images that are no bytes, by those seen alone."""
    if seen is not None and len(seen):  # else nobody trains on any
        x = x[seen]
    low, high = float(x.min()), float(x.max())
    return low, (high - low) / 255 or 1.0
