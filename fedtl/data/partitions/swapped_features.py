"""Feature shift: groups of clients whose samples have some numbers in each other's place."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedtl.choice import ConfigError
from fedtl.data.dataset import Samples, chunks
from fedtl.data.federation import Shards
from fedtl.data.partitions.on_top import OnTop
from fedtl.random import Purpose, stream


class SwappedFeatures(OnTop):
    """Groups of clients of which each sees some features in the places of others, in pairs that are its own.

    Features are the numbers of a vector, the pixels of an image (with all their channels), or the sensors of a series
    ``[sensors, time]``. Client i is of group i mod ``groups``; the first group sees all in their places, and the
    server does too. With ``share = 1`` on images it is like Permuted MNIST (Goodfellow et al. 2013, arXiv 1312.6211),
    where any order is drawn.

    Attributes:
        groups: how many.
        share: of the features that change places with another; of n features ``share * n / 2`` pairs, rounded.
    """

    name: str = "swapped-features"
    groups: int = Field(4, ge=1, le=1000)
    share: float = Field(0.5, ge=0, le=1)

    def shift(self, x: Samples, shards: Shards, seed: int) -> Samples:
        """See :class:`~fedtl.data.partitions.contract.Partition`."""
        x = self.base.shift(x, shards, seed)
        shape = x.shape[1:]
        kept = x.shape[2:] if len(shape) == 2 else ()
        lead = (shape[0],) if len(shape) == 3 else ()
        if len(shape) not in (1, 2, 3):
            raise ConfigError(
                f"data.partition.name = {self.name!r}: samples are vectors, series [sensors, time] or images "
                f"[channels, height, width], but these have shape {list(shape)}"
            )
        features = int(np.prod(shape)) // int(np.prod((*lead, *kept)))
        flat = x.reshape(len(x), *lead, features, *kept)
        result = flat.copy()
        group_of = shards.client_of % self.groups
        for group, order in enumerate(self.orders(features, seed)):
            for rows in chunks(shards.order[group_of == group]) if group else ():
                result[rows] = np.take(flat[rows], order, axis=1 + len(lead))
        return result.reshape(x.shape)

    def places(self, client: int, features: int, seed: int) -> NDArray[np.int64] | None:
        """See :class:`~fedtl.data.partitions.contract.Partition`."""
        before: NDArray[np.int64] | None = self.base.places(client, features, seed)
        own: NDArray[np.int64] = self.orders(features, seed)[client % self.groups]
        return own if before is None else before[own]

    def orders(self, features: int, seed: int) -> NDArray[np.int64]:
        """From where each group has each feature, ``[groups, features]``."""
        orders = np.tile(np.arange(features), (self.groups, 1))
        pairs = round(self.share * features / 2 - 1e-9)  # of an odd number one is left over
        rng = stream(seed, Purpose.SWAPS)
        for order in orders[1:]:
            one, other = rng.permutation(features)[: 2 * pairs].reshape(2, pairs)
            order[one], order[other] = other, one
        return orders
