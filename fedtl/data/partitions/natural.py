"""As the data say themselves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.data.federation import Shards
from fedtl.data.partitions.contract import Partition, gather


class Natural(Partition):
    """Each owner of the data is one client."""

    name: str = "natural"

    def assign(
        self, labels: NDArray[np.int64], owner: NDArray[np.int64] | None, clients: int, rng: np.random.Generator
    ) -> Shards:
        """See :class:`~fedtl.data.partitions.contract.Partition`."""
        if owner is None:
            raise ConfigError(
                f"data.partition.name = {self.name!r}: these data do not say who owns which sample; "
                "use 'iid', 'dirichlet' or another"
            )
        if (owner < 0).any():
            raise ConfigError(
                f"data.partition.name = {self.name!r}: {(owner < 0).sum()} of the samples to be divided have no owner; "
                "use data.pool = 'train' to leave the test set out, or another partition"
            )
        users = int(owner.max()) + 1
        if clients < users:
            raise ConfigError(f"data.clients = {clients}: the data have {users} owners; say {users} or leave it out")
        return gather(np.arange(len(labels)), owner, clients)

    @property
    def by_owner(self) -> bool:
        """Whether each client gets exactly the samples of one owner."""
        return True
