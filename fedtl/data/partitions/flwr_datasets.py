"""The partitioners of Flower Datasets."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedtl.choice import ConfigError, cause, nearest
from fedtl.data.federation import Shards
from fedtl.data.partitions.contract import Partition

LABEL, OWNER, PLACE = "label", "owner", "place"
"""Columns of the table that a partitioner sees."""


class FlwrDatasets(Partition):
    """A partitioner of Flower Datasets, so that a study has the very split that its code makes of these labels.

    The partitioner sees a table with the columns ``label`` and, where the data say whose each sample is, ``owner``, in
    the data set's order. It is given the number of clients; ``partition_by = "label"``, or ``"owner"`` for one by
    natural ids, unless ``options`` say otherwise; and the study's seed, so that another seed is another split, unless
    ``options.seed`` gives one. It has to give each sample to exactly one client.

    Needs the package flwr-datasets: ``pip install 'fedtl[flwr-datasets]'``.

    Attributes:
        partitioner: the class in flwr_datasets.partitioner, as "DirichletPartitioner".
        options: its arguments, as ``{ alpha = 0.5, self_balancing = true }``.
    """

    name: str = "flwr-datasets"
    partitioner: str
    options: Mapping[str, Any] = Field(default_factory=dict)

    def assign(
        self, labels: NDArray[np.int64], owner: NDArray[np.int64] | None, clients: int, rng: np.random.Generator
    ) -> Shards:
        """See :class:`~fedtl.data.partitions.contract.Partition`."""
        kind, datasets = self._kind(), _imported("datasets")
        arguments = {
            "num_partitions": clients,
            "partition_by": OWNER if "Natural" in self.partitioner else LABEL,
            "seed": int(rng.integers(2**31)),
        }
        known = inspect.signature(kind).parameters
        for name in self.options:
            if name not in known:
                raise ConfigError(
                    f"data.partition.options.{name}: {self.partitioner} has no such argument: {nearest(name, known)}"
                )
        columns = {LABEL: labels, PLACE: np.arange(len(labels)), **({} if owner is None else {OWNER: owner})}
        try:
            accepted = {name: value for name, value in arguments.items() if name in known}
            partitioner = kind(**{**accepted, **self.options})
            partitioner.dataset = datasets.Dataset.from_dict(columns)
            if (made := partitioner.num_partitions) != clients:
                raise ConfigError(f"data.clients = {clients}: {self.partitioner} makes {made} clients of these data")
            parts = [np.asarray(partitioner.load_partition(client)[PLACE], np.int64) for client in range(clients)]
        except ConfigError:
            raise
        except Exception as error:  # of whatever kind the package raises for options that do not suit the data
            raise ConfigError(
                f"data.partition.partitioner = {self.partitioner!r} cannot divide these data: {cause(error)}"
            ) from error
        return Shards.from_sizes(np.concatenate(parts), np.array([len(part) for part in parts]))

    def _kind(self) -> Any:
        """The partitioner's class."""
        module = _imported("flwr_datasets.partitioner")
        known = [name for name in module.__all__ if name not in ("Partitioner",) and not name.startswith("Vertical")]
        if self.partitioner not in known:
            raise ConfigError(
                f"data.partition.partitioner = {self.partitioner!r} is unknown: {nearest(self.partitioner, known)}"
            )
        return getattr(module, self.partitioner)


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            "data.partition.name = 'flwr-datasets' needs the package flwr-datasets: "
            f"pip install 'fedtl[flwr-datasets]' ({cause(error)})"
        ) from error
