"""From TOML to an experiment: files, overrides, and one sentence for whatever is wrong."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tomli_w
from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    field_validator,
)

from fedtl.choice import ConfigError, Options, Registry, nearest, resolve, shown, validate
from fedtl.clients.contract import ClientUpdate
from fedtl.clients.settings import Settings
from fedtl.data import DATASETS, PARTITIONS, read_data
from fedtl.data.replay import Replay
from fedtl.data.settings import DataChoice
from fedtl.data.views import Views
from fedtl.losses.objective import NEEDS, Objective, check_needs, needs_of, read_objective
from fedtl.losses.term import Term
from fedtl.models import MODELS, read_model
from fedtl.models.settings import ModelChoice
from fedtl.optimizers import OPTIMIZERS, SCHEDULES, SERVER_OPTIMIZERS
from fedtl.privacy import Privacy
from fedtl.strategies import read_strategy, strategy_type

Tables = dict[str, Any]
Seconds = Annotated[float, Field(gt=0, le=1e9)]
"""Of waiting; the system's own clocks count no further than ten times as long."""


class Evaluate(Options):
    """When and how clients are scored.

    Attributes:
        every: rounds between scores; the last round is always scored.
        personal: "fresh" (or "adapted"): the model that a client would have now, by its local update from the present
            global model; "last" (or "stored"): the one that it kept when it was last sampled.
        clients: score a sample of so many clients; all if not given.
    """

    every: PositiveInt = 1
    personal: Literal["fresh", "last"] = "fresh"
    clients: PositiveInt | None = None

    @field_validator("personal", mode="before")
    @classmethod
    def _by_either_name(cls, value: Any) -> Any:
        return {"adapted": "fresh", "stored": "last"}.get(value, value) if isinstance(value, str) else value


LEAST_OF_RAY, MOST_OF_RAY = 1e-4, 1e5
"""Of CPUs or GPUs, what an actor may ask Ray for: Ray counts in units of 1/10,000."""


def _gpus_that_ray_shares(gpus: float) -> float:
    if gpus and not LEAST_OF_RAY <= gpus <= MOST_OF_RAY:
        raise ValueError(f"should be 0, or between {LEAST_OF_RAY:g} and {MOST_OF_RAY:g}")
    if gpus > 1 and not gpus.is_integer():
        raise ValueError("should be a share of one GPU, or a whole number of them")
    return gpus


class Simulation(Options):
    """Where the clients live.

    Attributes:
        grid: "ray": Ray actors; "in-process"; "flower": Flower's own simulation.
        actors: how many Ray actors; "auto": one per GPU, or one per core, and on a cluster as many as it has room
            for at the moment; never more than clients train in a round.
        num_cpus, num_gpus: what each actor asks Ray for; "auto": an equal share of the GPUs of this machine or of the
            cluster, at most one.
        stacked: whether a cohort's clients train stacked; "auto": on a GPU, and for tiny models on a CPU, where
            the model allows it.
        recorded: whether training steps are recorded once and replayed; "auto": on a CPU, where the step can be.
        address: of a running Ray cluster's head, "host:port", or "auto" on one of its machines; if not given, the
            environment variable RAY_ADDRESS, else this machine alone. Every machine needs fedtl, and what the config
            names, installed in the same versions; where clients keep memories, it must see the run's folder.
        patience: seconds to wait for a cluster that has no room for a single actor yet.
    """

    grid: Literal["ray", "in-process", "flower"] = "ray"
    actors: PositiveInt | Literal["auto"] = "auto"
    num_cpus: float = Field(1.0, ge=LEAST_OF_RAY, le=MOST_OF_RAY)
    num_gpus: Annotated[NonNegativeFloat, AfterValidator(_gpus_that_ray_shares)] | Literal["auto"] = "auto"
    stacked: bool | Literal["auto"] = "auto"
    recorded: bool | Literal["auto"] = "auto"
    address: str | None = None
    patience: Seconds = 300.0


class Deploy(Options):
    """How real clients are dealt with; ``fedtl run`` uses none of it.

    Attributes:
        wait: seconds to wait for clients, before the first round for all of them and before any other for
            ``min_clients``.
        min_clients: a round with fewer uploads ends the run, which can be gone on with; if not given, what
            ``max_failures`` says.
        round_timeout: seconds that training may take, and scoring; then the round goes on without who is late.
        max_norm: an upload w_i is refused if ||w_i - w|| > max_norm * max(1, ||w||).
        privacy: noise on what is uploaded.
    """

    wait: Seconds = 600.0
    min_clients: PositiveInt | None = None
    round_timeout: Seconds = 3600.0
    max_norm: PositiveFloat = 10.0
    privacy: Privacy | None = None


class Phase(Options):
    """Some rounds in a row that have a local objective of their own.

    Attributes:
        name: for the record.
        rounds: how many.
        objective: as the config's own; cross-entropy if none is given.
        strategy: options of the method that are others in this phase, as ``lr``.
        restart: whether the global model begins anew, from random numbers of its own; clients' private parts stay.
    """

    name: str = ""
    rounds: PositiveInt
    objective: tuple[SerializeAsAny[Term], ...] = ()
    strategy: dict[str, Any] = Field(default_factory=dict)
    restart: bool = False


class Stage(NamedTuple):
    """A phase, read together with the rest of the config; ``key`` is its objective's place there."""

    key: str
    rounds: int
    strategy: Settings
    objective: tuple[Term, ...]
    restart: bool


class Config(Options):
    """An experiment.

    Attributes:
        name: of its folder under ``results/``.
        seed: decides the split, the initial model, who is sampled and in which order samples come.
        rounds: T; where there are phases, their sum.
        device: "auto": a GPU where there is one.
        max_failures: the share of a round's clients that may fail before the run stops.
        data, model, strategy, objective, evaluate, simulation, deploy: its parts.
        models: in place of ``model``, for methods that send none: client i has the (i mod k)-th of k.
        views: random views of images, for terms that compare two of them.
        replay: samples synthesised out of the global model, for the term "replay".
        phases: rounds with objectives of their own, one after another, in place of ``objective``.
    """

    name: str
    seed: NonNegativeInt = 0
    rounds: PositiveInt
    device: Literal["auto", "cpu", "cuda"] = "auto"
    max_failures: float = Field(0.5, ge=0, le=1)
    data: SerializeAsAny[DataChoice]
    model: SerializeAsAny[ModelChoice]
    models: tuple[SerializeAsAny[ModelChoice], ...] = ()
    strategy: SerializeAsAny[Settings]
    objective: tuple[SerializeAsAny[Term], ...] = ()
    views: Views | None = None
    replay: Replay | None = None
    phases: tuple[Phase, ...] = ()
    evaluate: Evaluate = Evaluate()
    simulation: Simulation = Simulation()
    deploy: Deploy = Deploy()

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[\w-][\w.-]*", name):
            raise ValueError("it names a folder, so give letters, digits, '_', '-' and '.' alone, not '.' first")
        return name

    def stages(self) -> tuple[Stage, ...]:
        """The phases; a config without any has one."""
        if not self.phases:
            return (Stage("objective", self.rounds, self.strategy, self.objective, False),)
        return tuple(
            Stage(
                f"phases[{i}].objective",
                phase.rounds,
                _strategy_of(self.strategy, phase, i),
                phase.objective,
                phase.restart,
            )
            for i, phase in enumerate(self.phases)
        )

    def architectures(self) -> tuple[Config, ...]:
        """The same config for each of the models that clients have."""
        return tuple(self.model_copy(update={"model": model, "models": ()}) for model in self.models) or (self,)

    def tables(self) -> Tables:
        """The resolved config as plain tables; reading them gives an equal config."""
        found = _without_none(self.model_dump(mode="json"))
        assert isinstance(found, dict)
        return found

    def toml(self) -> str:
        """The resolved config as TOML."""
        return tomli_w.dumps(self.tables())


def _strategy_of(strategy: Settings, phase: Phase, place: int) -> Settings:
    """The method's options in a phase."""
    key = f"phases[{place}].strategy"
    for fixed in ("name", "private", "frozen"):
        if fixed in phase.strategy:
            raise ConfigError(f"{key}.{fixed}: it is the same in all phases; give it in [strategy]")
    table = strategy.model_dump(exclude_none=True)
    if {"local_epochs", "local_steps"} & phase.strategy.keys():
        table = {k: v for k, v in table.items() if k not in ("local_epochs", "local_steps")}
    return validate(type(strategy), {**table, **phase.strategy}, key)


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
    notes = override(tables, overrides)
    try:
        config = build(tables)
    except ConfigError as error:
        if isinstance(source, (str, Path)) and is_run(source) and not overrides:
            file = Path(source) / "config.toml"
            raise ConfigError(f"{file} is no run's config, or not of this version of fedtl: {error}") from error
        raise
    for text in overrides:
        key, _, value = text.partition("=")
        if value.strip() == "none":
            _check_removed(config, key.strip())
    given = {text.partition("=")[0].strip() for text in overrides}
    return config, notes + _without_effect(config, tables, given, resolved)


def is_run(source: str | Path) -> bool:
    """Whether ``source`` is a run's folder."""
    return (Path(source) / "config.toml").is_file()


def _check_removed(config: Config, key: str) -> None:
    """A key that ``none`` removed is gone, so nothing else would see that it is misspelt."""
    *path, last = key.split(".")
    at: Any = config
    for part in path:
        at = getattr(at, part, None)
    if isinstance(at, BaseModel) and last not in type(at).model_fields and at.model_config.get("extra") == "forbid":
        raise ConfigError(f"{key} is not a key here: {nearest(last, type(at).model_fields)}")


def _without_effect(config: Config, tables: Tables, given: set[str], resolved: bool) -> list[str]:
    """Lines for keys that were asked for and that the method or the grid does not use."""

    def asked(section: str, key: str) -> bool:
        if key not in (_section(tables, section) or {}):
            return False
        part: BaseModel = getattr(config, section)
        default = type(part).model_fields[key].default
        return not resolved or f"{section}.{key}" in given or getattr(part, key) != default

    notes = []
    method = config.strategy.name
    if asked("evaluate", "personal") and not strategy_type(method).client_update.personalises:
        notes.append(f"evaluate.personal has no effect: {method} gives clients no model of their own")
    for option, why in strategy_type(method).unused(config.strategy).items():
        if asked("strategy", option) and getattr(config.strategy, option) != ():
            notes.append(f"strategy.{option} has no effect: {why}")
    for i, phase in enumerate(config.phases):
        unused = strategy_type(method).unused(config.stages()[i].strategy)
        notes += [f"phases[{i}].strategy.{key} has no effect: {unused[key]}" for key in phase.strategy if key in unused]
        if phase.restart and not strategy_type(method).has_global_model():
            notes.append(f"phases[{i}].restart has no effect: under {method} no global model could begin anew")
    drawn, holders = config.evaluate.clients, config.data.holders
    if drawn is not None and holders is not None and drawn >= holders and asked("evaluate", "clients"):
        notes.append(f"evaluate.clients = {drawn} has no effect: there are {holders} clients, and all are scored")
    needs = {need for stage in config.stages() for term in stage.objective for need in needs_of(term)}
    needs |= {each.on for stage in config.stages() for each in strategy_type(method).statistics(stage.strategy)}
    offers = {"views": config.views, "replay": config.replay, "data.public": config.data.public}
    if config.replay is not None and config.replay.after >= config.rounds:
        notes.append(
            f"replay has no effect: replay.after = {config.replay.after}, and there are {config.rounds} rounds"
        )
    if not config.phases and "model:phase" in needs:
        notes.append("the model when the phase began is the run's first one: there is one phase; give [[phases]]")
    notes += [
        f"{key} has no effect: no term needs {NEEDS[need]}"
        for key, there in offers.items()
        if there is not None and (need := key.removeprefix("data.")) not in needs
    ]
    grid = config.simulation.grid
    keys = [key for key in _UNUSED_BY_GRID.get(grid, ()) if asked("simulation", key)]
    if keys:
        names = ", ".join(f"simulation.{key}" for key in keys)
        notes.append(f"{names} {'has' if len(keys) == 1 else 'have'} no effect: the grid is {grid!r}")
    return notes


# Flower's simulation makes as many actors as its machine has room for.
_UNUSED_BY_GRID = {
    "in-process": ("actors", "num_cpus", "num_gpus", "address", "patience"),
    "flower": ("actors", "address", "patience"),
}


def build(tables: Tables) -> Config:
    """Check tables and make them a config."""
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
    if models:
        read["models"] = tuple(read_model(model) for model in models)
    if "views" in tables:
        read["views"] = validate(Views, _table(tables["views"], "views"), "views")
    if "replay" in tables:
        read["replay"] = validate(Replay, _table(tables["replay"], "replay"), "replay")
    if phases := _rows(tables.get("phases", []), "phases", "[[phases]] rounds = 10"):
        if tables.get("objective"):
            raise ConfigError("objective: with phases each has its own; give [[phases.objective]]")
        read["phases"] = [_read_phase(phase, f"phases[{i}]") for i, phase in enumerate(phases)]
        total = sum(phase.rounds for phase in read["phases"])
        if tables.get("rounds", total) != total:
            raise ConfigError(f"rounds = {tables['rounds']}: the phases have {total} together; leave rounds out")
        read |= {"rounds": total, "objective": ()}
    else:
        rows = _rows(tables.get("objective", []), "objective", "[[objective]] term = 'cross_entropy'")
        read["objective"] = read_objective(rows)
    config = validate(Config, {**tables, **read}, "")
    _check_together(config)
    return config


def _read_phase(table: Tables, key: str) -> Phase:
    rows = _rows(table.get("objective", []), f"{key}.objective", "[[phases.objective]] term = 'cross_entropy'")
    return validate(Phase, {**table, "objective": read_objective(rows, f"{key}.objective")}, key)


def _rows(value: object, key: str, example: str) -> list[Tables]:
    if not (isinstance(value, list) and all(isinstance(row, dict) for row in value)):
        raise ConfigError(f"{key}: give a list of tables, as {example}")
    return value


def _table(value: object, key: str) -> Tables:
    if not isinstance(value, dict):
        raise ConfigError(f"{key} = {shown(value)}: give a table, as [{key}]")
    return value


def _check_together(config: Config) -> None:
    method = strategy_type(config.strategy.name)
    sampled, holders = config.strategy.clients_per_round, config.data.holders
    if sampled is not None and holders is not None and sampled > holders:
        there = f"data.clients = {config.data.clients}"
        if config.data.target is not None and config.data.target.clients is not None:
            there += f" and data.target.clients = {config.data.target.clients}"
        raise ConfigError(f"strategy.clients_per_round = {sampled}: there are only {there}")
    if config.models:
        _check_models(config)
    for stage in config.stages():
        asked = method.statistics(stage.strategy)
        if config.data.public is None and any(statistic.on == "public" for statistic in asked):
            raise ConfigError(
                f"strategy.name = {config.strategy.name!r}: its server learns from public data; there are none: set "
                "data.public"
            )
        check_needs(stage.objective, stage.key, lambda term, need: _missing(config, term, need))
    _check_terms(config)
    if config.deploy.privacy is not None:
        _check_privacy(config)
    _check_parts(config, method.client_update)
    if method.client_update.makes_for_scoring() and config.evaluate.personal == "last":
        raise ConfigError(
            f"evaluate.personal = 'last': {config.strategy.name} keeps no model between rounds, it makes one when "
            "it is scored; use 'fresh'"
        )


def _check_parts(config: Config, update: type[ClientUpdate[Any]]) -> None:
    """Check that parts of the model stay at clients only where the model is all that travels."""
    if (more := update.more_than_a_model()) and config.strategy.private:
        raise ConfigError(
            f"strategy.private = {[*config.strategy.private]}: under {config.strategy.name} clients upload {more}, "
            "which are of the whole model; leave private out"
        )


def _check_models(config: Config) -> None:
    """Check that nothing asks for one model where clients have several."""
    if strategy_type(config.strategy.name).client_update.uploads():
        raise ConfigError(
            f"models: clients have unlike models, and {config.strategy.name!r} sends all of them one; use a method "
            "that sends none, as 'local'"
        )
    for stage in config.stages():
        for j, term in enumerate(stage.objective):
            if shared := needs_of(term) & {"model:global", "model:phase"}:
                what = NEEDS[min(shared)]
                raise ConfigError(f"{stage.key}[{j}]: the term {term.key!r} needs {what}; with models there is none")


def _check_terms(config: Config) -> None:
    """Check what terms need of each other and of the method.

    Raises:
        ConfigError: they do not go together.
    """
    known: dict[str, tuple[str, Any]] = {}
    sends, private = strategy_type(config.strategy.name).has_global_model(), config.strategy.private
    for stage in config.stages():
        key = stage.key
        if not any(term.weight for term in stage.objective):
            raise ConfigError(f"{key}: no term has a weight above 0, so nothing would be trained")
        for j, term in enumerate(stage.objective):
            options = term.model_dump(exclude={"weight", "ramp"})
            where, before = known.setdefault(term.key, (f"{key}[{j}]", options))
            if before != options and term.brings():
                raise ConfigError(
                    f"{key}[{j}]: the term {term.key!r} stands in {where} with other options; give one of them a name"
                )
            needs = needs_of(term)
            for need in sorted(needs & {"model:global", "model:phase"}):
                if not sends:
                    raise ConfigError(
                        f"{key}[{j}]: the term {term.key!r} needs {NEEDS[need]}; under {config.strategy.name} "
                        "clients receive none"
                    )
            if "model:phase" in needs and private:
                raise ConfigError(
                    f"{key}[{j}]: the term {term.key!r} needs {NEEDS['model:phase']}, and of that strategy.private "
                    "leaves a part at clients, where it goes on changing: leave one of them out"
                )
            if term.weight and term.personal_module() and private:
                raise ConfigError(
                    f"{key}[{j}]: the term {term.key!r} gives clients a model of their own, and so does "
                    "strategy.private: leave one of them out"
                )


def _check_privacy(config: Config) -> None:
    """Check that all that clients upload is one model: nothing else would be clipped and noised."""
    method = strategy_type(config.strategy.name)
    if not method.client_update.uploads():
        raise ConfigError(
            f"deploy.privacy: {config.strategy.name} uploads nothing that noise could protect; leave it out"
        )
    if more := method.client_update.more_than_a_model():
        raise ConfigError(
            f"deploy.privacy: under {config.strategy.name} clients upload {more}, which would travel without noise; "
            "leave it out"
        )
    for stage in config.stages():
        for statistic in Objective(stage.objective, method.statistics(stage.strategy)).statistics:
            raise ConfigError(
                f"deploy.privacy: {statistic.name!r} asks clients for sums over their samples, which would travel "
                "without noise; leave one of them out"
            )
        for term in stage.objective:
            for need in sorted(needs_of(term) & {"model:phase", "replay"}):
                raise ConfigError(
                    f"deploy.privacy: the term {term.key!r} needs {NEEDS[need]}, and Flower's LocalDpMod has messages "
                    "with one model only; leave one of them out"
                )


def _missing(config: Config, term: Term, need: str) -> str | None:
    """Why no client can meet a term's need, and what would change that; None where one can."""
    data, needs = config.data, needs_of(term)
    unlabelled = data.target is not None or data.labelled_fraction < 1
    if need == "target" and not unlabelled:
        return "client data have none: set data.target"
    if need == "source" and data.labelled_fraction == 0:
        return "client data have none: raise data.labelled_fraction above 0"
    if {"source", "target"} <= needs and need == "target" and data.target and data.target.clients is not None:
        return (
            "and clients with a source hold none, as data.target.clients gives it to others: leave that out, or use a "
            "term that needs only one of them (remote_coral, remote_cmd)"
        )
    if need == "views" and config.views is None:
        return "there are none: add a table [views], which may be empty"
    if need == "public" and data.public is None:
        return "there are none: set data.public"
    if need == "replay":
        return _without_replay(config)
    return None


def _without_replay(config: Config) -> str | None:
    """Why there are no synthesised samples, and what would change that; None where there are."""
    if config.replay is None:
        return "there are none: add a table [replay], which may be empty"
    if not strategy_type(config.strategy.name).has_global_model():
        return f"they are made of the global model, and {config.strategy.name!r} sends none: use another method"
    if config.strategy.private:
        return "they are made of the global model, and of that strategy.private leaves a part at clients: leave it out"
    return None


def load_tables(source: str | Path) -> Tables:
    """Read TOML from a file, a run's folder, or a config that ships."""
    path = Path(source)
    if is_run(path):
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
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not TOML: {' '.join(str(error).split())}") from error


def shipped_configs() -> list[str]:
    """Names of the configs that ship."""
    root = Path(str(resources.files("fedtl.configs")))
    return sorted(str(file.relative_to(root).with_suffix("")) for file in root.rglob("*.toml"))


def override(tables: Tables, overrides: Sequence[str]) -> list[str]:
    """Apply ``key=value`` overrides in place; see :func:`read_config`."""
    before = {section: _name(tables, section) for section in _REGISTRIES}
    given: set[str] = set()
    for text in overrides:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not all(key.split(".")):
            raise ConfigError(f"{text!r} is no override: write key=value, as strategy.lr=0.1")
        _assign(tables, key, value.strip())
        given.add(key)
    notes = []
    for section, old in before.items():
        new = _name(tables, section)
        if old is not None and new is not None and new != old:
            notes += _drop_leftovers(tables, section, old, new, given)
    return notes


def _drop_leftovers(tables: Tables, section: str, old: str, new: str, given: set[str]) -> list[str]:
    """Take from a section what only its old choice knew; what the new one knows too stays."""
    table = _section(tables, section)
    assert table is not None
    known = _REGISTRIES[section](new, table)
    left = [key for key in table if key != "name" and key not in known and f"{section}.{key}" not in given]
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


def _section(tables: Tables, path: str) -> Tables | None:
    at: Any = tables
    for part in path.split("."):
        at = at.get(part) if isinstance(at, dict) else None
    return at if isinstance(at, dict) else None


def _name(tables: Tables, section: str) -> str | None:
    name = (_section(tables, section) or {}).get("name")
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


def _copied(table: Mapping[str, Any]) -> Tables:
    return {
        k: _copied(v)
        if isinstance(v, Mapping)
        else [_copied(x) if isinstance(x, Mapping) else x for x in v]
        if isinstance(v, (list, tuple))
        else v
        for k, v in table.items()
    }


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_none(inner) for inner in value]
    return value


def _hint(source: str | Path) -> str:
    return nearest(str(source), shipped_configs())
