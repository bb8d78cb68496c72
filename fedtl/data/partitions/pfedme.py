"""The label and size skew of pFedMe's experiments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedtl.choice import ConfigError
from fedtl.data.federation import Shards
from fedtl.data.partitions.contract import Partition, deal, need_classes, split_in_proportion


class PFedMe(Partition):
    """Each client holds ``labels_per_client`` labels, neighbours on the circle of classes, and an own size.

    T. Dinh et al. 2020 (arXiv 2006.08848), section 5.1: the complete MNIST (70,000 samples) to N = 20 clients,
    each "allocated a different local data size in the range of [1165, 3834]" and 2 of the 10 labels. Here
    client i holds the labels i, i + 1, ... (mod the number of classes), and each label's samples are all
    divided among the clients that hold it.

    What the paper leaves open, and what is taken here:

    - How sizes are drawn is not said. Here: each holder of a label gets ``min_size`` of its samples and of the
      others a share in proportion to a log-normal number exp(``spread`` * z), z ~ N(0, 1).
    - 20 sizes of at most 3,834 cannot add up to 70,000, unless they count training samples only, three
      quarters of a client's: 52,500 in all. So read, ``spread = 0.5`` gives sizes from about 1,360 to 4,280.
    - The script that stands in the authors' repository since June 2021 draws sizes uniformly, for labels 0 and 1
      only, for 20 holders each, uses these for all labels in turn, and leaves out whatever would exceed a label's
      samples; so part of the data is nobody's. ``sizes = "authors"`` takes the law of its draw and applies it to
      each label's own holders: one after the other takes a uniform number in [m // (h + 1), m // 2) of the m
      samples that are left, h being the number of holders, and the last takes the rest. That suits few holders;
      with many, the later ones find nothing left, which is an error.

    Neither is the split of the paper's Table 1, which their script of May 2020 made: there a sample may be at several
    clients, and 89 % of the test samples are in another client's training set. The configs ``pfedme/mnist-*-paper``
    read it from a file (partition ``file``); results/pfedme-table1 has both.

    Attributes:
        labels_per_client: labels of each client.
        sizes: the law of the sizes.
        spread: standard deviation of the logarithm, where sizes are log-normal.
        min_size: the fewest samples that a client has of each of its labels.
    """

    name: str = "pfedme"
    labels_per_client: int = Field(2, ge=1)
    sizes: Literal["lognormal", "authors"] = "lognormal"
    spread: float = Field(0.5, ge=0, le=100)
    min_size: int = Field(5, ge=1)

    def without_use(self) -> Mapping[str, str]:
        """See :class:`~fedtl.choice.Choice`."""
        return {} if self.sizes == "lognormal" else {"spread": "only log-normal sizes have one"}

    def assign(
        self, labels: NDArray[np.int64], owner: NDArray[np.int64] | None, clients: int, rng: np.random.Generator
    ) -> Shards:
        """See :class:`~fedtl.data.partitions.contract.Partition`."""
        per_class = np.bincount(labels)
        classes = len(per_class)
        k = self.labels_per_client
        need_classes("labels_per_client", k, classes)
        if clients + k - 1 < classes:
            raise ConfigError(
                f"data.clients = {clients}: nobody would hold the labels from {clients + k - 1} on; "
                f"have at least {classes - k + 1} clients"
            )
        counts = np.zeros((classes, clients), np.int64)
        for label in range(classes):
            holders = np.flatnonzero((label - np.arange(clients)) % classes < k)
            counts[label, holders] = self._divide(label, int(per_class[label]), len(holders), rng)
        return deal(labels, counts, rng)

    def _divide(self, label: int, total: int, holders: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """How many of a label's samples each of its holders gets."""
        if total < holders * self.min_size:
            raise ConfigError(
                f"data.partition.min_size = {self.min_size}: the {total} samples of label {label} do not suffice for "
                f"its {holders} holders; lower it or have fewer clients"
            )
        if self.sizes == "lognormal":
            weights = np.exp(self.spread * rng.standard_normal(holders))
            return self.min_size + split_in_proportion(total - holders * self.min_size, weights)
        parts = []
        left = total
        for _ in range(holders - 1):
            low, high = left // (holders + 1), left // 2
            parts.append(int(rng.integers(low, high)) if low < high else 0)
            left -= parts[-1]
        parts.append(left)
        if min(parts) < self.min_size:
            raise ConfigError(
                f"data.partition.sizes = 'authors': of label {label}, a client got {min(parts)} samples, fewer than "
                f"data.partition.min_size = {self.min_size}; lower that, have fewer clients, or use 'lognormal'"
            )
        return np.array(parts, np.int64)
