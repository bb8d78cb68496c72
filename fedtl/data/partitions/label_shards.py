"""Label skew: blocks of the samples sorted by label."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedtl.data.federation import Shards
from fedtl.data.partitions.contract import Partition, by_label, gather, need_samples, split_evenly


class LabelShards(Partition):
    """Samples sorted by label, cut into equal shards; each client gets ``shards_per_client`` random ones.

    McMahan et al. 2017 (arXiv 1602.05629), section 3: MNIST, 100 clients, 2 of 200 shards of 300 each. Most
    clients see at most ``shards_per_client`` classes, but a shard may straddle two, and two shards may share one.

    Attributes:
        shards_per_client: shards of each client; their sizes differ by at most one.
    """

    name: str = "shards"
    shards_per_client: int = Field(2, ge=1)

    def assign(
        self, labels: NDArray[np.int64], owner: NDArray[np.int64] | None, clients: int, rng: np.random.Generator
    ) -> Shards:
        """See :class:`~fedtl.data.partitions.contract.Partition`."""
        need_samples(len(labels), clients, self.shards_per_client)
        number = clients * self.shards_per_client
        holder = rng.permutation(number) // self.shards_per_client
        return gather(by_label(labels, rng), np.repeat(holder, split_evenly(len(labels), number)), clients)
