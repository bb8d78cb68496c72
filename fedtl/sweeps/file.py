"""A study's file: what is to be compared, in which settings, under which seeds, and how it is tuned."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from fedtl.choice import ConfigError, Options, nearest, shown, validate
from fedtl.config.overrides import dotted
from fedtl.config.read import STUDIES, find_beside, is_run, load_tables, shipped_configs, shipped_studies
from fedtl.config.schema import Tables

STUDY, BASE = "study.toml", "base.toml"
"""In a study's folder: its file, and the config that all runs start from, as they were when it began."""

METHOD = "strategy.name"


class Search(Options):
    """How hyperparameters are chosen.

    Attributes:
        by: ``"grid"``: all combinations; ``"random"``: draws; ``"optuna"``: one of its samplers.
        budget: trials of each method in each setting.
        seed: of what is drawn.
        score: by which trials are compared, ``"personal/validation-clients"`` or ``"global/validation-clients"``; if
            not given, of the model that serves the clients.
        metric: of it; if not given, the first of ``evaluate.metrics``, else accuracy.
        at: the ``"last"`` scored round's, or the ``"best"`` one's.
        sampler, pruner: Optuna's, by its own names, with its own options.
        space: what is searched for every method.
    """

    by: Literal["grid", "random", "optuna"]
    budget: PositiveInt | None = None
    seed: NonNegativeInt = 0
    score: Literal["personal/validation-clients", "global/validation-clients"] | None = None
    metric: str | None = None
    at: Literal["last", "best"] = "last"
    sampler: dict[str, Any] | None = None
    pruner: dict[str, Any] | None = None
    space: dict[str, Any] = Field(default_factory=dict)

    @field_validator("sampler", "pruner", mode="before")
    @classmethod
    def _by_name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class StudyFile(Options):
    """What a study's file may say.

    Attributes:
        name: of the study, and of its folder below ``studies/``.
        question: that it is to answer, in words.
        config: that all runs start from: the name of one that ships, a file beside this one, or a table.
        seeds: how many, from 0, or which.
        set: overrides for all runs, by dotted keys.
        grid: the settings: dotted keys, each with a list of values.
        variants: the methods: dotted keys with their values; ``name`` is what it is called, ``grid`` makes a variant of
            each combination, and ``space`` is searched for it.
        search: how hyperparameters are chosen.
    """

    name: str = Field(pattern=r"^[\w-][\w.-]*$")
    question: str = ""
    config: str | dict[str, Any]
    seeds: PositiveInt | tuple[NonNegativeInt, ...] = 1
    set: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, Any] = Field(default_factory=dict)
    variants: tuple[dict[str, Any], ...] = ()
    search: Search | None = None

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds themselves."""
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds


@dataclass(frozen=True)
class Asked:
    """A study as it was asked for.

    Attributes:
        file: what its file says.
        text: the file's own text; None if it was made of words on the command line, or changed by them.
        base: the config's tables, with files beside it by their whole paths.
        folder: the study's, where it was named by that; else None.
    """

    file: StudyFile
    text: str | None
    base: Tables
    folder: Path | None = None


def read_study(source: str | Path | Mapping[str, Any], words: Sequence[str] = ()) -> Asked:
    """Read what is asked for.

    Args:
        source: a study's file, the name of one that ships, tables, a study's folder, or a config of any kind.
        words: ``key=value`` for all runs, ``key=a,b`` for a setting with several values, ``seed=0:5`` for seeds;
            ``strategy.name=a,b`` for methods.

    Raises:
        ConfigError: something is wrong with it, in one sentence.
    """
    tables, text, beside, folder = _tables_of(source)
    if words:
        tables, text = _with_words(tables, words), None
    if isinstance(tables.get("seeds"), list) and not tables["seeds"]:
        raise ConfigError("seeds = []: give a number of seeds, or a list of them")
    file = validate(StudyFile, {**tables, "grid": _flat(tables, "grid"), "set": _flat(tables, "set")}, "")
    if len(set(file.seed_list)) != len(file.seed_list):
        raise ConfigError(f"seeds = {[*file.seed_list]}: has a seed twice")
    if folder is not None and (folder / BASE).is_file():
        return Asked(file, text, load_tables(folder / BASE), folder)
    return Asked(file, text, _base_of(file, beside), folder)


def _tables_of(source: str | Path | Mapping[str, Any]) -> tuple[Tables, str | None, Path | None, Path | None]:
    """A study's tables, their text, the folder that its config may lie in, and the study's own folder."""
    if isinstance(source, Mapping):
        tables: Tables = _as_of_a_file(source, "")
        return (tables if _is_study(tables) else _of_config("study", tables)), None, None, None
    path = Path(source)
    if path.is_dir() and (path / STUDY).is_file():
        return load_tables(path / STUDY), (path / STUDY).read_text(encoding="utf-8"), path, path
    if path.is_file():
        tables = load_tables(path)
        if _is_study(tables):
            return tables, path.read_text(encoding="utf-8"), path.parent, None
        return _of_config(str(tables.get("name", path.stem)), str(path.absolute())), None, None, None
    if str(source) in shipped_studies():
        text = resources.files("fedtl.configs").joinpath(f"{STUDIES}/{source}.toml").read_text(encoding="utf-8")
        return tomllib.loads(text), text, None, None
    if is_run(path) or str(source) in shipped_configs():
        name = str(load_tables(source).get("name", "study"))
        return _of_config(name, str(path.absolute()) if is_run(path) else str(source)), None, None, None
    if path.is_dir():
        raise ConfigError(f"{source} is a folder without a {STUDY}, so it is no study")
    hint = nearest(str(source), [*shipped_studies(), *shipped_configs()])
    raise ConfigError(f"there is no study or config {str(source)!r}, neither a file nor one that ships: {hint}")


def _is_study(tables: Mapping[str, Any]) -> bool:
    """Whether tables are a study's, and not a config's."""
    return bool({"config", "seeds", "variants", "grid", "search", "question"} & tables.keys())


def _of_config(name: str, config: str | Tables) -> Tables:
    return {"name": name, "config": config}


def _as_of_a_file(value: Any, key: str) -> Any:
    """A value of Python's as a file would give it; None removes a key as the word ``"none"`` does.

    Args:
        value: as a caller has it.
        key: its place.

    Raises:
        ConfigError: no file could have it.
    """
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, Mapping):
        removes = key.partition(".")[0] in ("set", "variants")
        places = {name: f"{key}.{name}" if key else f"{name}" for name in value}
        return {
            name: _as_of_a_file(inner, places[name]) for name, inner in value.items() if removes or inner is not None
        }
    if isinstance(value, (list, tuple, range, set, frozenset)):
        return [_as_of_a_file(inner, key) for inner in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None:
        return "none"
    if not isinstance(value, (str, int, float)):
        raise ConfigError(f"{key} = {shown(value)}: is no value that a config can have")
    return value


def _base_of(file: StudyFile, beside: Path | None) -> Tables:
    config = file.config
    if isinstance(config, dict):
        if beside is not None:
            find_beside(config, beside)
        return config
    place = None if beside is None else beside / config
    tables = load_tables(place if place is not None and place.is_file() else config)
    if place is not None and place.is_file():
        find_beside(tables, place.parent)
    elif Path(config).is_file():
        find_beside(tables, Path(config).parent)
    return tables


def _flat(tables: Tables, key: str) -> dict[str, Any]:
    """A table by dotted keys; ``strategy.lr = 0.1`` without quotes is a table within a table."""
    table = tables.get(key, {})
    if not isinstance(table, Mapping):
        raise ConfigError(f"{key} = {shown(table)}: should be a table")
    return dotted(table)


# Words of the command line.


def _with_words(tables: Tables, words: Sequence[str]) -> Tables:
    """A study with what words add to it or change of it."""
    changed: Tables = {**tables, "set": _flat(tables, "set"), "grid": _flat(tables, "grid")}
    for word in words:
        key, equals, text = word.partition("=")
        key = key.strip()
        if not equals or not key or not all(key.split(".")):
            raise ConfigError(f"{word!r} is no override: write key=value, as strategy.lr=0.1, or key=a,b for several")
        if key == "seed":
            changed["seeds"] = _seeds(text, word)
            continue
        values = [_value(each) for each in _split(text)]
        if len(values) == 1:
            if (place := _given_in(tables, key)) is not None:
                raise ConfigError(
                    f"{word}: it would not be for all runs, as the study's file gives {place}; change it there"
                )
            changed["set"][key] = values[0]
            changed["grid"].pop(key, None)
        elif key == METHOD:
            if changed.get("variants"):
                raise ConfigError(f"{word}: the study's file lists its methods itself, as variants")
            changed["variants"] = [{METHOD: value} for value in values]
        else:
            changed["grid"][key] = values
            changed["set"].pop(key, None)
    return {key: value for key, value in changed.items() if value not in ({}, [])}


def _given_in(tables: Tables, key: str) -> str | None:
    """Where a study gives a key values of its own that come before those for all runs; None where it does not."""
    search = tables.get("search")
    places = [("search.space", search.get("space"))] if isinstance(search, Mapping) else []
    variants = tables.get("variants")
    for number, variant in enumerate(variants if isinstance(variants, list) else ()):
        if isinstance(variant, Mapping):
            own = {name: value for name, value in variant.items() if name not in ("name", "grid", "space")}
            inner = [(f"variants[{number}].{part}", variant.get(part)) for part in ("grid", "space")]
            places += [(f"variants[{number}]", own), *inner]
    for place, table in places:
        if isinstance(table, Mapping) and any(f"{each}.".startswith(f"{key}.") for each in dotted(table)):
            return f"{place}.{key}"
    return None


def _seeds(text: str, word: str) -> int | list[int]:
    try:
        seeds = [*range(*map(int, text.split(":")))] if ":" in text else [*map(int, text.split(","))]
    except (ValueError, TypeError):
        seeds = []
    if not seeds or min(seeds) < 0:
        raise ConfigError(f"{word}: give seeds as 0:5, which are five of them, or as 0,1,2")
    return seeds


def _split(text: str) -> list[str]:
    """Text at its commas, but for those within brackets or quotes."""
    parts, depth, quote, start = [], 0, "", 0
    for place, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in "[{(":
            depth += 1
        elif char in ")}]":
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    return [*parts, text[start:]]


def _value(text: str) -> Any:
    """A value as TOML says it; a bare word is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def as_override(key: str, value: Any) -> str:
    """``key=value`` as :func:`fedtl.config.read.read_config` takes it."""
    return f"{key}={as_toml(value)}"


def as_toml(value: Any) -> str:
    """A value as TOML on one line; None, or ``"none"``, removes a key."""
    if value is None or value == "none":
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = re.sub(r"[\x00-\x1f\x7f\"\\]", lambda match: f"\\u{ord(match[0]):04x}", value)
        return f'"{escaped}"'
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(as_toml, value))}]"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{as_toml(str(key))} = {as_toml(inner)}' for key, inner in value.items())} }}"
    if not isinstance(value, (int, float)):
        raise ConfigError(f"{shown(value)} is no value that a config can have")
    return repr(value)
