"""Every client's data alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedtl.data.federation import Shards
from fedtl.data.partitions.contract import Partition, need_samples, split_evenly


class IID(Partition):
    """Random equal parts; sizes differ by at most one."""

    name: str = "iid"

    def assign(
        self, labels: NDArray[np.int64], owner: NDArray[np.int64] | None, clients: int, rng: np.random.Generator
    ) -> Shards:
        """See :class:`~fedtl.data.partitions.contract.Partition`."""
        need_samples(len(labels), clients)
        return Shards.from_sizes(rng.permutation(len(labels)), split_evenly(len(labels), clients))
