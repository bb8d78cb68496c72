"""Label skew: each client knows a few classes only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedtl.choice import ConfigError
from fedtl.data.federation import Shards
from fedtl.data.partitions.contract import Partition, deal, need_classes, need_sharers, split_evenly


class Pathological(Partition):
    """Each client has samples of exactly ``classes_per_client`` classes.

    After McMahan et al. 2017 (arXiv 1602.05629), whose shards only bound the number of classes (see
    ``shards``). Which classes a client holds is random, with every class held by as many clients as any other,
    give or take one; a class's samples are divided equally among those who hold it.

    Attributes:
        classes_per_client: k.
    """

    name: str = "pathological"
    classes_per_client: int = Field(2, ge=1)

    def assign(
        self, labels: NDArray[np.int64], owner: NDArray[np.int64] | None, clients: int, rng: np.random.Generator
    ) -> Shards:
        """See :class:`~fedtl.data.partitions.contract.Partition`."""
        per_class = np.bincount(labels)
        present = rng.permutation(np.flatnonzero(per_class))
        k = self.classes_per_client
        need_classes("classes_per_client", k, len(present))
        if clients * k < len(present):
            raise ConfigError(
                f"data.partition.classes_per_client = {k}: {clients} clients hold at most {clients * k} of the "
                f"{len(present)} classes, so samples would be left over; raise it or data.clients"
            )
        counts = np.zeros((len(per_class), clients), np.int64)
        free = np.full(clients, k)
        for label, holders in zip(present, split_evenly(clients * k, len(present)), strict=True):
            need_sharers("classes_per_client", k, clients, int(label), int(per_class[label]), int(holders))
            # Who has most classes still to come goes first, ties at random: only so is it certain to come out even.
            chosen = np.argsort(free + rng.random(clients))[-holders:]
            free[chosen] -= 1
            # At random who of them gets the odd samples.
            counts[label, rng.permutation(chosen)] = split_evenly(int(per_class[label]), int(holders))
        return deal(labels, counts, rng)
