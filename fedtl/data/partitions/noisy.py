"""Feature shift: each client's samples carry noise of its own level."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from fedtl.data.dataset import Samples, chunks
from fedtl.data.federation import Shards
from fedtl.data.partitions.on_top import OnTop
from fedtl.random import Purpose, stream


class Noisy(OnTop):
    """Gaussian noise of standard deviation ``sigma * i / (N - 1)`` on the samples of client i.

    As the code of Li et al. 2022 (NIID-Bench, arXiv 2102.02079), whose text calls sigma * i / N the variance.
    Drawn once: a sample has the same noise in every epoch. Bytes are rounded and kept in 0..255, so strong
    noise on black or white comes out weaker than drawn.

    Attributes:
        sigma: the last client's level, in the units of an image from 0 to 1, or of other data as they are stored.
    """

    name: str = "noisy"
    sigma: float = Field(0.1, ge=0, le=1e30)

    def shift(self, x: Samples, shards: Shards, seed: int) -> Samples:
        """See :class:`~fedtl.data.partitions.contract.Partition`."""
        x = self.base.shift(x, shards, seed)
        rng = stream(seed, Purpose.NOISE)
        unit = 255 if x.dtype == np.uint8 else 1
        levels = (unit * self.sigma * np.linspace(0, 1, len(shards))).astype(np.float32)
        level_of = levels[shards.client_of]
        result = x.copy()
        for entries in chunks(np.arange(len(shards.order))):
            rows = shards.order[entries]
            noise = rng.standard_normal((len(rows), *x.shape[1:]), np.float32)
            noise *= level_of[entries].reshape(-1, *[1] * (x.ndim - 1))
            noise += x[rows]
            result[rows] = np.clip(np.rint(noise), 0, 255) if x.dtype == np.uint8 else noise
        return result
