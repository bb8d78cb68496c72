"""Who holds what: partitions, one file each, and how a config names them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fedtl.choice import ConfigError, Registry, resolve, shown, validate

if TYPE_CHECKING:
    from fedtl.data.partitions.contract import Partition


PARTITIONS: Registry = {
    "dirichlet": "fedtl.data.partitions.dirichlet:Dirichlet",
    "iid": "fedtl.data.partitions.iid:IID",
    "natural": "fedtl.data.partitions.natural:Natural",
    "noisy": "fedtl.data.partitions.noisy:Noisy",
    "pathological": "fedtl.data.partitions.pathological:Pathological",
    "pfedme": "fedtl.data.partitions.pfedme:PFedMe",
    "quantity": "fedtl.data.partitions.quantity:Quantity",
    "rotated": "fedtl.data.partitions.rotated:Rotated",
    "shards": "fedtl.data.partitions.label_shards:LabelShards",
}


def read_partition(table: object, key: str = "data.partition") -> Partition:
    """A ``[data.partition]`` table, or a partition's bare name, checked.

    Raises:
        ConfigError: the name is unknown or an option is wrong; ``key`` begins the message.
    """
    from fedtl.data.partitions.contract import Partition

    if isinstance(table, Partition):
        return table
    if isinstance(table, str):
        table = {"name": table}
    if not isinstance(table, Mapping):
        raise ConfigError(f"{key} = {shown(table)}: give a table, as [{key}] name = 'iid', or a name")
    kind = resolve(PARTITIONS, table.get("name"), f"{key}.name")
    if not (isinstance(kind, type) and issubclass(kind, Partition)):
        raise ConfigError(
            f"{key}.name = {shown(table['name'])}: it must be a subclass of fedtl.data.partitions.contract.Partition"
        )
    values = dict(table)
    if "base" in kind.model_fields and "base" in values:  # read here, so that its errors name the whole key
        values["base"] = read_partition(values["base"], f"{key}.base")
    return validate(kind, values, key)
