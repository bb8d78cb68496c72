"""Feature shift: a partition that decides how clients see their samples, on top of one that decides whose they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator

from fedtl.choice import ConfigError
from fedtl.data.dataset import Samples
from fedtl.data.federation import Shards
from fedtl.data.partitions import read_partition
from fedtl.data.partitions.contract import Partition

if TYPE_CHECKING:
    from fedtl.data.split import Split


class OnTop(Partition):
    """The samples of a base partition, seen differently by each client; the server's test set is left as it is.

    Attributes:
        base: the partition that divides the samples; a table, or a name alone; "iid" if not given.
    """

    changes_samples: ClassVar[bool] = True

    base: SerializeAsAny[Partition] = Field(None, validate_default=True)

    @field_validator("base", mode="before")
    @classmethod
    def _read_base(cls, value: Any, info: ValidationInfo) -> Partition:
        own = info.context["key"] if info.context else "data.partition"
        base = read_partition("iid" if value is None else value, f"{own}.base")
        if base.later:
            raise ConfigError(f"{own}.base.name = {base.name!r}: it stands outside; give the others within its stages")
        return base

    def assign(
        self, labels: NDArray[np.int64], owner: NDArray[np.int64] | None, clients: int, rng: np.random.Generator
    ) -> Shards:
        """See :class:`~fedtl.data.partitions.contract.Partition`."""
        return self.base.assign(labels, owner, clients, rng)

    def shift(self, x: Samples, shards: Shards, seed: int) -> Samples:
        """See :class:`~fedtl.data.partitions.contract.Partition`."""
        return self.base.shift(x, shards, seed)

    def seeing(self, rows: NDArray[np.int64]) -> Partition:
        """See :class:`~fedtl.data.partitions.contract.Partition`."""
        base = self.base.seeing(rows)
        return self if base is self.base else self.model_copy(update={"base": base})

    def places(self, client: int, features: int, seed: int) -> NDArray[np.int64] | None:
        """See :class:`~fedtl.data.partitions.contract.Partition`."""
        return self.base.places(client, features, seed)

    def concept(self, y: NDArray[np.int64], classes: int, shards: Shards, seed: int) -> NDArray[np.int64]:
        """See :class:`~fedtl.data.partitions.contract.Partition`."""
        return self.base.concept(y, classes, shards, seed)

    def relabel(self, y: NDArray[np.int64], classes: int, train: Shards, seed: int) -> NDArray[np.int64]:
        """See :class:`~fedtl.data.partitions.contract.Partition`."""
        return self.base.relabel(y, classes, train, seed)

    def listed(self) -> Split | None:
        """See :class:`~fedtl.data.partitions.contract.Partition`."""
        return self.base.listed()

    @property
    def by_owner(self) -> bool:
        """Whether each client gets exactly the samples of one owner."""
        return self.base.by_owner

    @property
    def counts_clients(self) -> bool:
        """Whether the base does."""
        return self.base.counts_clients

    @property
    def shifting(self) -> list[str]:
        """The names of those of this partition and its bases that make samples themselves others."""
        base = self.base.shifting if isinstance(self.base, OnTop) else []
        return base if type(self).shift is OnTop.shift else [self.name, *base]
