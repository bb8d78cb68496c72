"""Quantity skew: clients differ in how much they have, not in what."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedtl.data.federation import Shards
from fedtl.data.partitions.contract import Partition, need_samples, split_in_proportion


class Quantity(Partition):
    """Random samples, sizes in proportions p ~ Dir_N(alpha), as in Li et al. 2022 (arXiv 2102.02079).

    Every client gets ``min_size`` samples first and its share of the others on top; the authors' code draws p
    again until nobody has fewer than 10, which for many clients never happens.

    Attributes:
        alpha: concentration; the smaller, the more unequal.
        min_size: the fewest samples of a client.
    """

    name: str = "quantity"
    alpha: float = Field(0.5, gt=0, le=1e9)
    min_size: int = Field(10, ge=1)

    def assign(
        self, labels: NDArray[np.int64], owner: NDArray[np.int64] | None, clients: int, rng: np.random.Generator
    ) -> Shards:
        """See :class:`~fedtl.data.partitions.contract.Partition`."""
        n = len(labels)
        need_samples(n, clients, self.min_size)
        extra = split_in_proportion(n - clients * self.min_size, rng.dirichlet(np.full(clients, self.alpha)))
        return Shards.from_sizes(rng.permutation(n), self.min_size + extra)
