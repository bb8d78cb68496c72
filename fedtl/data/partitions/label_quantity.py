"""Label skew: NIID-Bench's #C = k."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedtl.choice import ConfigError
from fedtl.data.federation import Shards
from fedtl.data.partitions.contract import Partition, deal, need_classes, need_sharers, split_evenly


class LabelQuantity(Partition):
    """Each client has k labels, drawn for itself, so that some labels have more holders than others.

    "Quantity-based label imbalance", #C = k, of Li et al. 2022 (NIID-Bench, arXiv 2102.02079) and of Flower's
    reproduction. As in the authors' code, client i holds label i mod K and k - 1 others drawn at random, so that with K
    clients or more each label has a holder; a label's samples are divided equally among its holders. Sizes differ.

    ``pathological`` gives each class as many holders as any other, so that sizes are nearly equal.

    Differs from NIID-Bench: where a label has no holder, its code stops with an exception, and this is an error too.

    Attributes:
        labels_per_client: k.
    """

    name: str = "label-quantity"
    labels_per_client: int = Field(2, ge=1)

    def assign(
        self, labels: NDArray[np.int64], owner: NDArray[np.int64] | None, clients: int, rng: np.random.Generator
    ) -> Shards:
        """See :class:`~fedtl.data.partitions.contract.Partition`."""
        per_class = np.bincount(labels)
        present = np.flatnonzero(per_class)
        k, classes = self.labels_per_client, len(present)
        need_classes("labels_per_client", k, classes)
        holds = np.zeros((classes, clients), np.bool_)
        for client in range(clients):
            first = client % classes
            others = rng.permutation(classes - 1)[: k - 1]
            holds[first, client] = True
            holds[others + (others >= first), client] = True
        counts = np.zeros((len(per_class), clients), np.int64)
        for label, holds_it in zip(present, holds):
            holders = np.flatnonzero(holds_it)
            if not len(holders):
                raise ConfigError(
                    f"data.clients = {clients}: nobody would hold class {label}; have at least {classes} clients, or "
                    f"raise data.partition.labels_per_client = {k}"
                )
            need_sharers("labels_per_client", k, clients, int(label), int(per_class[label]), len(holders))
            counts[label, holders] = split_evenly(int(per_class[label]), len(holders))
        return deal(labels, counts, rng)
