"""``key=value`` on top of a config's tables."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fedtl.choice import ConfigError, Registry, resolve, shown
from fedtl.config.schema import Tables
from fedtl.data import DATASETS
from fedtl.data.partitions import PARTITIONS
from fedtl.models import MODELS
from fedtl.optimizers import OPTIMIZERS, SCHEDULES, SERVER_OPTIMIZERS
from fedtl.strategies import strategy_type

Options = Mapping[str, FieldInfo]
"""A part's options by their names."""


def override(tables: Tables, overrides: Sequence[str]) -> list[str]:
    """Apply ``key=value`` overrides in place; see :func:`read_config`."""
    before = {section: _name(tables, section) for section in _REGISTRIES}
    names = {key.strip(): value.strip() for key, _, value in (text.partition("=") for text in overrides)}
    overridden: set[str] = set()
    for text in overrides:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not all(key.split(".")):
            raise ConfigError(f"{text!r} is no override: write key=value, as strategy.lr=0.1")
        _assign(tables, key, value.strip(), names)
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
    known = _REGISTRIES[section](new)
    left = [key for key in table if key != "name" and key not in known and f"{section}.{key}" not in overridden]
    for key in left:
        del table[key]
    return [f"{section}.name={new}: dropped {', '.join(left)} of {old}"] if left else []


def _takes_none(tables: Tables, section: str, option: str, names: Mapping[str, str]) -> bool:
    """Whether ``"none"`` is a value of the option, and does not remove it.

    Args:
        tables: the config's.
        section: the option's table, by its dotted name.
        option: its name.
        names: the overrides, among them names that have yet to be put into the tables.
    """
    if option == "name":
        return True
    name = names.get(f"{section}.name", _name(tables, section))
    if section not in _REGISTRIES or name is None:
        return False
    try:
        field = _REGISTRIES[section](name).get(option)
    except ConfigError:  # whoever reads the table says so
        return False
    return field is not None and "none" in _words(field.annotation)


def _words(annotation: object) -> Iterator[str]:
    """The words that an option takes, of its type."""
    for part in get_args(annotation):
        if isinstance(part, str):
            yield part
        else:
            yield from _words(part)


def _strategy_options(name: str) -> Options:
    return strategy_type(name).settings_type.model_fields


def _options(registry: Registry, key: str, name: str) -> Options:
    """A part's options; what is no part has none, and whoever reads it says so."""
    kind = resolve(registry, name, f"{key}.name")
    return kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else {}


def _model_options(name: str) -> Options:
    """Only fedtl's own models have options that can be known without asking; others begin afresh."""
    return _options(MODELS, "model", name) if name in MODELS else {}


_REGISTRIES: dict[str, Callable[[str], Options]] = {
    "strategy": _strategy_options,
    "model": _model_options,
    **{
        key: partial(_options, registry, key)
        for key, registry in (
            ("strategy.optimizer", OPTIMIZERS),
            ("strategy.schedule", SCHEDULES),
            ("strategy.server", SERVER_OPTIMIZERS),
            ("data", DATASETS),
            ("data.partition", PARTITIONS),
            ("data.target", DATASETS),
            ("data.target.partition", PARTITIONS),
            ("data.public", DATASETS),
        )
    },
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


def _assign(tables: Tables, key: str, value: str, names: Mapping[str, str]) -> None:
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
    if value == "none" and not _takes_none(tables, ".".join(path), last, names):
        at.pop(last, None)
        return
    try:
        at[last] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        at[last] = value
