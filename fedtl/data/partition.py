"""The former name of :mod:`fedtl.data.partitions.contract`."""

from fedtl.data.partitions.contract import Partition

__all__ = ["Partition"]
