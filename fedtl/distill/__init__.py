"""Distillation of a trained model into a smaller one, with data or without, and the synthesis of samples for it.

:func:`class_impressions` and :func:`data_impressions` need a module alone, so clients and servers may call them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedtl.choice import Registry, part_type, validate

if TYPE_CHECKING:
    from fedtl.distill.impressions import class_impressions, data_impressions
    from fedtl.distill.method import Method

__all__ = ["METHODS", "class_impressions", "data_impressions", "read_method"]

METHODS: Registry = {
    "class-impressions": "fedtl.distill.by_class:ClassImpressions",
    "dafl": "fedtl.distill.dafl:DAFL",
    "data": "fedtl.distill.with_data:WithData",
    "zskd": "fedtl.distill.zskd:ZSKD",
}


def read_method(table: Mapping[str, Any]) -> Method:
    """A ``[method]`` table, checked.

    Raises:
        ConfigError: the name is unknown or an option is wrong.
    """
    from fedtl.distill.method import Method

    return validate(part_type(Method, METHODS, table.get("name"), "method.name"), table, "method")


def __getattr__(name: str) -> Any:
    # The names of a command line's options should not cost the import of torch.
    if name in ("class_impressions", "data_impressions"):
        from fedtl.distill import impressions

        return getattr(impressions, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
