"""Label skew: how each class is spread over the clients is drawn from a Dirichlet distribution."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedtl.choice import ConfigError
from fedtl.data.federation import Shards
from fedtl.data.partitions.contract import Partition, deal, need_samples, split_in_proportion

REDRAWS = 200
"""So many draws of 1,000 clients' sizes take well below a second; where they fail, more would hardly help."""


class Dirichlet(Partition):
    """Label skew: each class's samples in proportions p ~ Dir(alpha) over the clients.

    The per-class variant of Yurochkin et al. 2019 (arXiv 1905.12022) and Li et al. 2022 (NIID-Bench,
    arXiv 2102.02079): for each class k draw p_k ~ Dir_N(alpha) and give client i a share p_ki of its samples;
    if a client then has fewer than ``min_size`` samples, draw again. So sizes differ too. (Hsu et al. 2019,
    arXiv 1909.06335, draw a distribution over labels per client instead, with sizes equal.)

    Attributes:
        alpha: concentration; towards 0 each class goes to few clients, towards infinity to all alike.
        min_size: the fewest samples of a client.
        balance: as the authors' code, but not the paper's text, does: a client that already has its fair share,
            n / N samples, takes part in no further class.
    """

    name: str = "dirichlet"
    alpha: float = Field(0.5, gt=0, le=1e9)
    min_size: int = Field(10, ge=1)
    balance: bool = False

    def assign(
        self, labels: NDArray[np.int64], owner: NDArray[np.int64] | None, clients: int, rng: np.random.Generator
    ) -> Shards:
        """See :class:`~fedtl.data.partitions.contract.Partition`."""
        need_samples(len(labels), clients, self.min_size)
        per_class = np.bincount(labels)
        fewest = -1
        for _ in range(REDRAWS):
            counts = self._draw(per_class, clients, rng)
            smallest = int(counts.sum(axis=0).min())
            if smallest >= self.min_size:
                return deal(labels, counts, rng)
            fewest = max(fewest, smallest)
        raise ConfigError(
            f"data.partition.min_size = {self.min_size}: in each of {REDRAWS} draws some client got fewer "
            f"(at best {fewest}); lower it, raise data.partition.alpha = {self.alpha:g}, or have fewer than "
            f"data.clients = {clients}"
        )

    def _draw(self, per_class: NDArray[np.int64], clients: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """How many samples of each class each client gets, ``[classes, clients]``."""
        counts = np.zeros((len(per_class), clients), np.int64)
        fair = per_class.sum() / clients
        sizes = np.zeros(clients, np.int64)
        for label, total in enumerate(per_class):
            proportions = rng.dirichlet(np.full(clients, self.alpha))
            if self.balance:
                open_to_more = proportions * (sizes < fair)
                proportions = open_to_more if open_to_more.sum() > 0 else proportions
            counts[label] = split_in_proportion(int(total), proportions)
            sizes += counts[label]
        return counts
