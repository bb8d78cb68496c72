"""What a run's config means that an earlier version of fedtl wrote."""

from __future__ import annotations

from typing import Any


def completed(record: dict[str, Any]) -> dict[str, Any]:
    """A run's config with what its version did where it had no option for it yet.

    A record gives every option that its version had; what is new since is not there, and its default may be another.

    Args:
        record: the tables of a run's config.toml.
    """
    strategy = record.get("strategy")
    if not isinstance(strategy, dict) or "private" not in strategy:
        return record
    return {**record, "strategy": {"private_start": "common", **strategy}}
