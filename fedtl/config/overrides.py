"""``key=value`` on top of a config's tables."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import BaseModel

from fedtl.choice import ConfigError, Registry, resolve, shown
from fedtl.config.schema import Tables
from fedtl.data import DATASETS
from fedtl.data.partitions import PARTITIONS
from fedtl.models import MODELS
from fedtl.optimizers import OPTIMIZERS, SCHEDULES, SERVER_OPTIMIZERS
from fedtl.strategies import strategy_type


def override(tables: Tables, overrides: Sequence[str]) -> list[str]:
    """Apply ``key=value`` overrides in place; see :func:`read_config`."""
    before = {section: _name(tables, section) for section in _REGISTRIES}
    overridden: set[str] = set()
    for text in overrides:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not all(key.split(".")):
            raise ConfigError(f"{text!r} is no override: write key=value, as strategy.lr=0.1")
        _assign(tables, key, value.strip())
        overridden.add(key)
    notes = []
    for section, old in before.items():
        new = _name(tables, section)
        if old is not None and new is not None and new != old:
            notes += _drop_leftovers(tables, section, old, new, overridden)
    return notes


def dotted(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Tables' values by dotted keys, as overrides name them."""
    values: dict[str, Any] = {}
    for key, value in tables.items():
        if isinstance(value, Mapping):
            values |= dotted(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = value
    return values


def _drop_leftovers(tables: Tables, section: str, old: str, new: str, overridden: set[str]) -> list[str]:
    """Take from a section what only its old choice knew; what the new one knows too stays."""
    table = section_of(tables, section)
    assert table is not None
    known = _REGISTRIES[section](new, table)
    left = [key for key in table if key != "name" and key not in known and f"{section}.{key}" not in overridden]
    for key in left:
        del table[key]
    return [f"{section}.name={new}: dropped {', '.join(left)} of {old}"] if left else []


def _strategy_keys(name: str, table: Tables) -> set[str]:
    return set(strategy_type(name).settings_type.model_fields)


def _choice_keys(registry: Registry, key: str, name: str, table: Tables) -> set[str]:
    return _fields(resolve(registry, name, f"{key}.name"))


def _data_keys(name: str, table: Tables, key: str = "data") -> set[str]:
    return _fields(resolve(DATASETS, name, f"{key}.name"))


def _partition_keys(name: str, table: Tables, key: str = "data.partition") -> set[str]:
    return _fields(resolve(PARTITIONS, name, f"{key}.name"))


def _model_keys(name: str, table: Tables) -> set[str]:
    """Only fedtl's own models have options that can be known without asking; others begin afresh."""
    return _fields(resolve(MODELS, name, "model.name")) if name in MODELS else set()


def _fields(kind: object) -> set[str]:
    """A part's options; what is no part has none, and whoever reads it says so."""
    return set(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else set()


_REGISTRIES: dict[str, Callable[[str, Tables], set[str]]] = {
    "strategy": _strategy_keys,
    "strategy.optimizer": partial(_choice_keys, OPTIMIZERS, "strategy.optimizer"),
    "strategy.schedule": partial(_choice_keys, SCHEDULES, "strategy.schedule"),
    "strategy.server": partial(_choice_keys, SERVER_OPTIMIZERS, "strategy.server"),
    "data": _data_keys,
    "data.partition": _partition_keys,
    "data.target": partial(_data_keys, key="data.target"),
    "data.target.partition": partial(_partition_keys, key="data.target.partition"),
    "data.public": partial(_data_keys, key="data.public"),
    "model": _model_keys,
}


def section_of(tables: Tables, path: str) -> Tables | None:
    """A table within tables, by its dotted name; None where there is none."""
    at: Any = tables
    for part in path.split("."):
        at = at.get(part) if isinstance(at, dict) else None
    return at if isinstance(at, dict) else None


def _name(tables: Tables, section: str) -> str | None:
    name = (section_of(tables, section) or {}).get("name")
    return name if isinstance(name, str) else None


def _assign(tables: Tables, key: str, value: str) -> None:
    *path, last = key.split(".")
    at = tables
    for i, part in enumerate(path):
        below = at.setdefault(part, {})
        if isinstance(below, list):
            raise ConfigError(f"{key}={value}: {'.'.join(path[: i + 1])} is a list; change it in the file")
        if not isinstance(below, (dict, str)):
            raise ConfigError(f"{key}={value}: {'.'.join(path[: i + 1])} = {shown(below)} is a value, no table")
        if isinstance(below, str):  # data.partition = "iid" and then data.partition.alpha=1
            below = at[part] = {"name": below}
        at = below
    if value == "none" and last not in ("name", "normalise", "server"):
        at.pop(last, None)
        return
    try:
        at[last] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        at[last] = value
