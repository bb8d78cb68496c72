"""From TOML to a config: files, tables, and one sentence for whatever is wrong."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from fedtl.choice import ConfigError, as_recorded, nearest, shown, validate
from fedtl.config.checks import check_phases, check_removed, check_together, without_effect
from fedtl.config.earlier import completed
from fedtl.config.overrides import dotted, override
from fedtl.config.schema import Config, PhaseOptions, Tables
from fedtl.data import read_data
from fedtl.data.replay import Replay
from fedtl.data.views.augment import Views
from fedtl.losses.objective import read_objective
from fedtl.models import read_model
from fedtl.strategies import read_strategy

STUDIES = "studies"
"""Among the configs that ship, the folder of those that are studies."""


def read_config(
    source: str | Path | Mapping[str, Any] | Config, overrides: Sequence[str] = ()
) -> tuple[Config, list[str]]:
    """Read an experiment.

    Args:
        source: a TOML file, a run's folder, the name of a config that ships (``"quickstart"``), or tables.
        overrides: ``"strategy.lr=0.1"`` and the like; values are TOML, ``none`` removes a key.

    Returns:
        The config, and a line for whatever the overrides changed besides what they say, and for whatever was
        asked for that has no effect.

    Raises:
        ConfigError: one sentence: the key, the value, what would be right.
    """
    # A resolved config gives every key, so a default in it was not asked for.
    resolved = isinstance(source, Config) or (isinstance(source, (str, Path)) and is_run(source))
    if isinstance(source, Config):
        source = source.tables()
    tables = dict(_copied(source)) if isinstance(source, Mapping) else load_tables(source)
    if isinstance(source, (str, Path)) and not resolved and Path(source).is_file():
        find_beside(tables, Path(source).parent)
    recorded = _copied(tables) if resolved else None
    in_file = {*dotted(tables)}
    notes = override(tables, overrides)
    try:
        config, unused = (_built(tables), []) if recorded is None else _built_on(recorded, tables)
    except ConfigError as error:
        if isinstance(source, (str, Path)) and is_run(source) and not overrides:
            file = Path(source) / "config.toml"
            raise ConfigError(f"{file} is no run's config, or not of this version of fedtl: {error}") from error
        raise
    for text in overrides:
        key, _, value = (part.strip() for part in text.partition("="))
        if value == "none" and key not in in_file:
            check_removed(config, key)
    overridden = {text.partition("=")[0].strip() for text in overrides}
    return config, notes + unused + without_effect(config, tables, overridden, resolved)


def is_run(source: str | Path) -> bool:
    """Whether ``source`` is a run's folder."""
    return (Path(source) / "config.toml").is_file()


def build(tables: Tables) -> Config:
    """Check tables that have been read before, as a run's are, and make them a config.

    What has no effect is refused by :func:`read_config` alone, where somebody asks for it.
    """
    with as_recorded():
        return _built(tables)


def build_to_read(tables: Tables) -> Config:
    """The config of a run whose models are read, without what chose its rounds.

    That has been done, and an earlier version chose by what is refused now, as by a metric of each class; as it let
    phases change options that are the same in all of them now.
    """
    evaluate = {key: value for key, value in tables.get("evaluate", {}).items() if key != "keep_best"}
    with as_recorded():
        return _built({**{key: value for key, value in tables.items() if key != "stop"}, "evaluate": evaluate}, True)


def _built_on(recorded: Tables, tables: Tables) -> tuple[Config, list[str]]:
    """A config, and a line where it goes on from a record that has options without effect: the first one's.

    Raises:
        ConfigError: something is wrong, or what has no effect is asked for anew.
    """
    try:
        return _built(tables), []
    except ConfigError as error:
        try:
            with as_recorded() as before:
                _built(recorded)
        except ConfigError:
            raise error from None
        with as_recorded() as now:
            config = _built(tables)
        if {*now} <= {*before}:
            return config, [str(error)]
        raise


def _built(tables: Tables, has_run: bool = False) -> Config:
    """A config; where it has run, whatever options its phases changed."""
    for key in tables:
        if key not in Config.model_fields:
            raise ConfigError(f"{key} is not a key here: {nearest(key, Config.model_fields)}")
    models = _rows(tables.get("models", []), "models", "[[models]] name = 'mlp'")
    if models:
        if tables.get("model", models[0]) != models[0]:
            raise ConfigError("model: with models each client has one of those; leave model out")
        tables = {**tables, "model": models[0]}
    for key in ("data", "model", "strategy"):
        if key not in tables:
            raise ConfigError(f"[{key}] is missing: give at least {key}.name")
        if not isinstance(tables[key], dict):
            raise ConfigError(f"{key} = {shown(tables[key])}: give a table, as [{key}] name = ...")
    read: dict[str, Any] = {
        "data": read_data(tables["data"]),
        "model": read_model(tables["model"]),
        "strategy": read_strategy(tables["strategy"]),
    }
    own = read["data"].task.term
    if models:
        read["models"] = tuple(read_model(model) for model in models)
    if "views" in tables:
        read["views"] = validate(Views, _table(tables["views"], "views"), "views")
    if "replay" in tables:
        read["replay"] = validate(Replay, _table(tables["replay"], "replay"), "replay")
    if phases := _rows(tables.get("phases", []), "phases", "[[phases]] rounds = 10"):
        if tables.get("objective"):
            raise ConfigError("objective: with phases each has its own; give [[phases.objective]]")
        read["phases"] = [_read_phase(phase, f"phases[{i}]", own) for i, phase in enumerate(phases)]
        total = sum(phase.rounds for phase in read["phases"])
        if tables.get("rounds", total) != total:
            raise ConfigError(f"rounds = {tables['rounds']}: the phases have {total} together; leave rounds out")
        read |= {"rounds": total, "objective": ()}
    else:
        rows = _rows(tables.get("objective", []), "objective", "[[objective]] term = 'cross_entropy'")
        read["objective"] = read_objective(rows, default=own)
    evaluate = tables.get("evaluate", {})
    if isinstance(evaluate, dict) and "metrics" not in evaluate and read["data"].task.metrics:
        read["evaluate"] = {**evaluate, "metrics": read["data"].task.metrics}
    config = validate(Config, {**tables, **read}, "")
    if not has_run:
        check_phases(config)
    check_together(config)
    return config


def _read_phase(table: Tables, key: str, own: str) -> PhaseOptions:
    rows = _rows(table.get("objective", []), f"{key}.objective", "[[phases.objective]] term = 'cross_entropy'")
    return validate(PhaseOptions, {**table, "objective": read_objective(rows, f"{key}.objective", own)}, key)


def _rows(value: object, key: str, example: str) -> list[Tables]:
    if not (isinstance(value, list) and all(isinstance(row, dict) for row in value)):
        raise ConfigError(f"{key}: give a list of tables, as {example}")
    return value


def _table(value: object, key: str) -> Tables:
    if not isinstance(value, dict):
        raise ConfigError(f"{key} = {shown(value)}: give a table, as [{key}]")
    return value


def load_tables(source: str | Path) -> Tables:
    """Read TOML from a file, a run's folder, or a config that ships."""
    path, of_run = Path(source), is_run(source)
    if of_run:
        path = path / "config.toml"
    if path.is_file():
        where = str(path)
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{where} cannot be read: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{where} is not TOML: it is no UTF-8 text") from error
    elif str(source) in shipped_configs():
        where = f"{source}.toml"
        text = resources.files("fedtl.configs").joinpath(where).read_text(encoding="utf-8")
    elif path.is_dir():
        raise ConfigError(f"{source} is a folder without a config.toml, so it is no run")
    else:
        raise ConfigError(f"there is no config {str(source)!r}, neither a file nor one that ships: {_hint(source)}")
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not TOML: {' '.join(str(error).split())}") from error
    return completed(tables) if of_run else tables


def find_beside(tables: Tables, folder: Path) -> None:
    """Name the files of splits that lie beside a config by their whole path, in place."""
    data = tables.get("data")
    parts = [data, data.get("target")] if isinstance(data, dict) else []
    for part in parts:
        partition = part.get("partition") if isinstance(part, dict) else None
        while isinstance(partition, dict):
            path = partition.get("path")
            if isinstance(path, str) and (there := folder / path).is_file():
                partition["path"] = str(there.absolute())
            partition = partition.get("base")


def shipped_configs() -> list[str]:
    """Names of the configs that ship."""
    root = Path(str(resources.files("fedtl.configs")))
    names = (file.relative_to(root).with_suffix("") for file in root.rglob("*.toml"))
    return sorted(str(name) for name in names if name.parts[0] != STUDIES)  # which are no configs


def shipped_studies() -> list[str]:
    """Names of the studies that ship, which are files for ``fedtl sweep``."""
    return sorted(file.stem for file in (Path(str(resources.files("fedtl.configs"))) / STUDIES).glob("*.toml"))


def _copied(table: Mapping[str, Any]) -> Tables:
    return {
        k: _copied(v)
        if isinstance(v, Mapping)
        else [_copied(x) if isinstance(x, Mapping) else x for x in v]
        if isinstance(v, (list, tuple))
        else v
        for k, v in table.items()
    }


def _hint(source: str | Path) -> str:
    return nearest(str(source), shipped_configs())
