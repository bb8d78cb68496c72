"""Label skew: PFLlib's pathological setting."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedtl.choice import ConfigError
from fedtl.data.federation import Shards
from fedtl.data.partitions.contract import Partition, deal, need_classes, split_evenly


class PFLlibPathological(Partition):
    """Each class goes to the first clients that still need classes, so that several hold the same ones.

    As ``pat`` in PFLlib (Zhang et al., JMLR 2025, arXiv 2312.04992), which the tables of FedALA, FedCP, GPFL and DBE
    call pathological: each of K classes in turn is for the ceil(N k / K) clients of lowest number that hold fewer than
    k classes. With 20 clients, 10 classes and k = 2, clients 0 to 3 hold classes 0 and 1, clients 4 to 7 classes 2 and
    3. All holders of a class but the last draw their number of samples uniformly from [m / 10, m), m being the class's
    samples per holder, and at least ``least_samples`` / K; the last takes the rest.

    ``pathological`` draws who holds which class, and divides each class equally.

    Differs from PFLlib: where its code leaves classes over, because all clients have k, this is an error.

    Attributes:
        classes_per_client: k.
        balance: divide each class equally among those who hold it.
        least_samples: PFLlib's ``least_samples``, batch size / (1 - training share): 10 / 0.25.
    """

    name: str = "pfllib-pathological"
    classes_per_client: int = Field(2, ge=1)
    balance: bool = False
    least_samples: int = Field(40, ge=0)

    def without_use(self) -> Mapping[str, str]:
        """See :class:`~fedtl.choice.Choice`."""
        return {"least_samples": "balance = true divides equally"} if self.balance else {}

    def assign(
        self, labels: NDArray[np.int64], owner: NDArray[np.int64] | None, clients: int, rng: np.random.Generator
    ) -> Shards:
        """See :class:`~fedtl.data.partitions.contract.Partition`."""
        per_class = np.bincount(labels)
        present = np.flatnonzero(per_class)
        k, classes = self.classes_per_client, len(present)
        need_classes("classes_per_client", k, classes)
        at_once = -(-clients * k // classes)
        counts = np.zeros((len(per_class), clients), np.int64)
        needs = np.full(clients, k)
        for label in present:
            holders = np.flatnonzero(needs)[:at_once]
            if not len(holders):
                raise ConfigError(
                    f"data.clients = {clients}: all of them have data.partition.classes_per_client = {k} classes "
                    f"before class {label}, whose samples would be left over; let clients times classes be a multiple "
                    f"of the {classes} classes"
                )
            counts[label, holders] = self._sizes(int(label), int(per_class[label]), len(holders), classes, rng)
            needs[holders] -= 1
        return deal(labels, counts, rng)

    def _sizes(self, label: int, total: int, holders: int, classes: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """How many of a class's samples each of its holders gets."""
        mean = total / holders
        low, high = int(max(mean / 10, self.least_samples / classes, 1)), int(mean)
        if high < 1 or (not self.balance and holders > 1 and low >= high):
            raise ConfigError(
                f"data.clients: {holders} of them share the {total} samples of class {label}, too few for "
                f"data.partition.least_samples = {self.least_samples}; have fewer, lower that, or set "
                "data.partition.balance = true"
            )
        if self.balance:
            return split_evenly(total, holders)
        sizes = rng.integers(low, high, holders - 1) if holders > 1 else np.empty(0, np.int64)
        return np.append(sizes, total - sizes.sum())
