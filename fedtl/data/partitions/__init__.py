"""Who holds what: partitions, one file each, and how a config names them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedtl.choice import Registry, read_choice

if TYPE_CHECKING:
    from fedtl.data.partitions.contract import Partition


PARTITIONS: Registry = {
    "client-dirichlet": "fedtl.data.partitions.client_dirichlet:ClientDirichlet",
    "corrupted": "fedtl.data.partitions.corrupted:Corrupted",
    "dirichlet": "fedtl.data.partitions.dirichlet:Dirichlet",
    "drift": "fedtl.data.partitions.drift:Drift",
    "file": "fedtl.data.partitions.file:File",
    "flwr-datasets": "fedtl.data.partitions.flwr_datasets:FlwrDatasets",
    "iid": "fedtl.data.partitions.iid:IID",
    "label-noise": "fedtl.data.partitions.label_noise:LabelNoise",
    "label-quantity": "fedtl.data.partitions.label_quantity:LabelQuantity",
    "natural": "fedtl.data.partitions.natural:Natural",
    "noisy": "fedtl.data.partitions.noisy:Noisy",
    "pathological": "fedtl.data.partitions.pathological:Pathological",
    "permuted-labels": "fedtl.data.partitions.permuted_labels:PermutedLabels",
    "pfedme": "fedtl.data.partitions.pfedme:PFedMe",
    "pfllib-pathological": "fedtl.data.partitions.pfllib_pathological:PFLlibPathological",
    "quantity": "fedtl.data.partitions.quantity:Quantity",
    "rotated": "fedtl.data.partitions.rotated:Rotated",
    "shards": "fedtl.data.partitions.label_shards:LabelShards",
    "swapped-features": "fedtl.data.partitions.swapped_features:SwappedFeatures",
}


def read_partition(table: object, key: str = "data.partition") -> Partition:
    """A ``[data.partition]`` table, or a partition's bare name, checked.

    Raises:
        ConfigError: the name is unknown or an option is wrong; ``key`` begins the message.
    """
    from fedtl.data.partitions.contract import Partition

    return read_choice(Partition, PARTITIONS, table, key, f"[{key}] name = 'iid'")  # type: ignore[type-abstract]
