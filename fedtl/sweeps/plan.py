"""From a study's file to its runs: methods in every setting under every seed, each checked before anything starts."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from fedtl.choice import ConfigError, nearest
from fedtl.comparison.naming import short_keys, shown
from fedtl.config.overrides import dotted
from fedtl.config.read import read_config
from fedtl.config.schema import Config, Tables
from fedtl.metrics.registry import headline
from fedtl.random import derived_seed
from fedtl.studies import Cell, Planned
from fedtl.sweeps.file import METHOD, Asked, Search, as_override
from fedtl.sweeps.space import Listed, Space, Values, draws, points, read_space, read_values, size
from fedtl.sweeps.work import no_validation

OF_A_RUN = ("seed", "name")
"""Keys of a config that a study sets itself."""

LONGEST = 120
"""Characters of a folder's name."""


@dataclass(frozen=True)
class Trial:
    """One try of a cell's search.

    Attributes:
        values: its hyperparameters; None where they depend on the trials before.
    """

    number: int
    values: Values | None


@dataclass(frozen=True)
class Variant:
    """A method.

    Attributes:
        name: unlike any other variant's.
        overrides: by dotted keys.
        space: what is searched for it; empty where nothing is.
    """

    name: str
    overrides: Mapping[str, Any]
    space: Space


@dataclass(frozen=True)
class PlannedCell:
    """A method in a setting.

    Attributes:
        cell: as the record has it, before anything was chosen.
        space: what is searched.
        trials: of its search.
        folder: its runs' name.
        config: of its first seed; of a cell that is tuned, with a trial's hyperparameters.
    """

    cell: Cell
    space: Space
    trials: tuple[Trial, ...]
    folder: str
    config: Config


@dataclass(frozen=True)
class Plan:
    """A study that was read and checked.

    Attributes:
        asked: what was asked for.
        variants, axes, seeds: as the record has them.
        cells: in the order of the file.
        notes: what a reader must know, a sentence each.
    """

    asked: Asked
    variants: tuple[str, ...]
    axes: Mapping[str, tuple[Any, ...]]
    seeds: tuple[int, ...]
    cells: tuple[PlannedCell, ...]
    notes: tuple[str, ...]

    @property
    def search(self) -> Search | None:
        """How hyperparameters are chosen."""
        return self.asked.file.search

    def config(self, cell: PlannedCell, seed: int, values: Mapping[str, Any] | None = None) -> Config:
        """A run's config, with the hyperparameters that were chosen or are tried."""
        return _read(self.asked.base, {**cell.cell.overrides, **(values or {})}, seed, cell.cell.name)[0]

    def runs(self) -> Iterator[Planned]:
        """All runs, none of which has begun: each cell's trials, then the runs that answer the question."""
        for each in self.cells:
            for trial in each.trials:
                yield Planned(
                    folder=f"search/{each.folder}/{trial.number}",
                    cell=each.cell.name,
                    seed=self.seeds[0],
                    trial=trial.number,
                    values=trial.values or {},
                )
        for seed, each in itertools.product(self.seeds, self.cells):
            yield Planned(folder=f"runs/{each.folder}-{seed}", cell=each.cell.name, seed=seed)

    @property
    def rounds(self) -> int:
        """How many rounds all runs have together, at most."""
        return sum(each.config.rounds * (len(each.trials) + len(self.seeds)) for each in self.cells)

    def record(self) -> dict[str, Any]:
        """How hyperparameters are chosen, as the record has it; empty where none are."""
        if self.search is None:
            return {}
        table = self.search.model_dump(mode="json", exclude_none=True, exclude={"space"})
        spaces = {each.cell.variant: each.space for each in self.cells}
        table["space"] = {
            name: {
                key: list(axis.values) if isinstance(axis, Listed) else axis.model_dump(exclude_none=True)
                for key, axis in space.items()
            }
            for name, space in spaces.items()
        }
        return table


def make_plan(asked: Asked) -> Plan:
    """Make the runs of what was asked for, and check every config.

    Raises:
        ConfigError: a key is unknown, a value invalid, or a search unfair or without samples to choose by.
    """
    file = asked.file
    axes = {key: read_values(values, f"grid.{key}") for key, values in file.grid.items()}
    for place, key in (("set", file.set), ("grid", axes)):
        _check_keys(key, place)
    if METHOD in axes:
        raise ConfigError(f"grid.{METHOD}: methods are variants: give each a table [[variants]]")
    method = str(file.set.get(METHOD) or _method_of(asked.base))
    variants = list(_variants(file.variants, file.search, method))
    cells, notes, folders = list[PlannedCell](), list[str](), set[str]()
    for values in itertools.product(*axes.values()):
        setting = dict(zip(axes, values))
        for variant in variants:
            cell = _cell(asked, variant, setting)
            folder = _folder(cell.name)
            if folder.lower() in folders:  # as of two names that differ in a character that no folder has
                folder = f"{folder}-{_digest(cell.name)}"
            folders.add(folder.lower())
            trials = _trials(file.search, variant, cell.name)
            config, said = _checked(asked.base, cell, trials, variant.space, file.seed_list[0])
            cells.append(PlannedCell(cell, variant.space if trials else {}, trials, folder, config))
            notes += [f"{cell.name}: {note}" for note in said if "has no effect" in note or "have no effect" in note]
    order = {variant.name: place for place, variant in enumerate(variants)}
    cells.sort(key=lambda each: order[each.cell.variant])
    for each in cells:
        if each.trials:
            _check_validation(each)
    notes += _unfair(file.search, cells)
    if file.search is not None:
        search = file.search.model_copy(update={"metric": _metric(file.search, cells)})
        asked = replace(asked, file=file.model_copy(update={"search": search}))
    if len(file.seed_list) == 1:
        notes.append("There is one seed, so no deviation over seeds is known: give more, as seeds = 5.")
    return Plan(
        asked,
        tuple(variant.name for variant in variants),
        axes,
        file.seed_list,
        tuple(cells),
        tuple(dict.fromkeys(notes)),
    )


def _variants(tables: Sequence[Mapping[str, Any]], search: Search | None, method: str) -> Iterator[Variant]:
    """The methods, of which each combination of a variant's own grid is one."""
    seen: dict[str, int] = {}
    for place, table in enumerate(tables or [{}]):
        key = f"variants[{place}]"
        for part in ("grid", "space"):
            if not isinstance(table.get(part, {}), Mapping):
                raise ConfigError(f"{key}.{part}: give a table, as [variants.{part}]")
        own = dotted({name: value for name, value in table.items() if name not in ("name", "grid", "space")})
        space = _space_of({**(search.space if search else {}), **table.get("space", {})}, key)
        grid = {
            name: read_values(values, f"{key}.grid.{name}") for name, values in dotted(table.get("grid", {})).items()
        }
        if "space" in table and search is None:
            raise ConfigError(
                f"{key}.space: nothing says how to search it: add [search], as by = 'random', budget = 10"
            )
        for values_by_key in (own, grid, space):
            _check_keys(values_by_key, key)
        twice = sorted((own.keys() & grid.keys()) | ((own.keys() | grid.keys()) & space.keys()))
        if twice:
            raise ConfigError(f"{key}: {twice[0]} has more than one value to have: give it in one place")
        label = table.get("name") or str(own.get(METHOD, method)).rpartition(":")[2]
        if not isinstance(label, str):
            raise ConfigError(f"{key}.name = {label!r}: give a word")
        for values in itertools.product(*grid.values()):
            chosen = dict(zip(grid, values))
            name = _named(label, chosen)
            if name in seen:
                raise ConfigError(f"variants[{seen[name]}] and {key} are both {name!r}: give them names, as name = 'b'")
            seen[name] = place
            yield Variant(name, {**own, **chosen}, space)


def _space_of(table: Mapping[str, Any], key: str) -> Space:
    """A space by dotted keys, also where those are tables within tables."""
    values: dict[str, Any] = {}

    def gather(inner: Mapping[str, Any], prefix: str) -> None:
        for name, value in inner.items():
            if isinstance(value, Mapping) and not {"low", "high"} & value.keys():
                gather(value, f"{prefix}{name}.")
            else:
                values[f"{prefix}{name}"] = value

    gather(table, "")
    return read_space(values, f"{key}.space")


def _method_of(base: Tables) -> str:
    strategy = base.get("strategy")
    return str(strategy.get("name", "all")) if isinstance(strategy, Mapping) else "all"


def _check_keys(table: Mapping[str, Any], place: str) -> None:
    for key in table:
        if key in OF_A_RUN:
            better = "seeds = 5 gives the seeds" if key == "seed" else "the study's own name is all that counts"
            raise ConfigError(f"{place}.{key}: {better}; leave it out")


def _cell(asked: Asked, variant: Variant, setting: Mapping[str, Any]) -> Cell:
    """A method in a setting."""
    if twice := sorted(setting.keys() & (variant.overrides.keys() | variant.space.keys() | asked.file.set.keys())):
        raise ConfigError(f"grid.{twice[0]}: {variant.name!r}, or [set], gives it a value too; give it in one place")
    overrides = {**asked.file.set, **setting, **variant.overrides}
    if METHOD in overrides:  # first, as it takes with it what only another method knows
        overrides = {METHOD: overrides.pop(METHOD), **overrides}
    return Cell(_named(variant.name, setting), variant.name, dict(setting), overrides)


def _trials(search: Search | None, variant: Variant, cell: str) -> tuple[Trial, ...]:
    """What is tried of a cell; nothing where there is nothing to choose."""
    if search is None or not variant.space:
        return ()
    if search.by == "grid":
        if search.budget is not None and search.budget < (many := size(variant.space)) < math.inf:
            raise ConfigError(
                f"search.budget = {search.budget}: the grid of {variant.name!r} has {many} points; give a budget of as "
                "many, or fewer values"
            )
        tries = points(variant.space, f"{variant.name}: space")
        return tuple(Trial(number, values) for number, values in enumerate(tries))
    if search.budget is None:
        raise ConfigError(f"search.budget is missing: search.by = {search.by!r} needs the number of trials, as 10")
    if search.by == "optuna":
        from fedtl.sweeps.with_optuna import check

        check(search, variant.space)
        return tuple(Trial(number, None) for number in range(search.budget))
    tries = draws(variant.space, search.budget, derived_seed(search.seed, cell))
    return tuple(Trial(number, values) for number, values in enumerate(tries))


def _checked(base: Tables, cell: Cell, trials: Sequence[Trial], space: Space, seed: int) -> tuple[Config, list[str]]:
    """The config of one of a cell's runs, after that of each of its trials was read; and what has no effect there."""
    tries = [trial.values for trial in trials if trial.values is not None]
    if trials and not tries:
        tries = list(_corners(space))
    read = [_read(base, {**cell.overrides, **values}, seed, cell.name) for values in tries or [{}]]
    return read[0]


def _corners(space: Space) -> Iterator[Values]:
    """Where the trials are not known beforehand: a draw, and the ends of every range."""
    (first,) = draws(space, 1, 0)
    yield first
    for key, axis in space.items():
        ends = axis.values if isinstance(axis, Listed) else (axis.low, axis.high)
        yield from ({**first, key: end} for end in ends)


def _read(base: Tables, overrides: Mapping[str, Any], seed: int, name: str) -> tuple[Config, list[str]]:
    words = [as_override(key, value) for key, value in overrides.items()]
    try:
        return read_config(base, [*words, f"seed={seed}"])
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def _check_validation(planned: PlannedCell) -> None:
    """Check that there is something to choose by; data and splits that bring validation samples say so when read."""
    data = planned.config.data
    if not data.validation_share and not data.partition.by_owner and not data.partition.counts_clients:
        raise no_validation(planned.cell.name)


def _metric(search: Search, cells: Sequence[PlannedCell]) -> str:
    """What trials are compared by, which every cell that is tuned must be scored by."""
    tuned = [each for each in cells if each.trials]
    names = [path.rpartition(":")[2] for path in tuned[0].config.evaluate.metrics]
    metric = search.metric or headline(names, [name for name in names if not name.endswith("_by_class")])
    for each in tuned:
        known = each.config.scored
        if metric.partition("/")[0] not in known:
            raise ConfigError(
                f"search.metric = {metric!r}: {each.cell.name} is not scored by it: {nearest(metric, known)}; or add "
                "it to evaluate.metrics"
            )
        each.config.metrics.check_one("search.metric", metric)
    return metric


def _unfair(search: Search | None, cells: Sequence[PlannedCell]) -> list[str]:
    """What of a search is not the same for all methods, and which have none."""
    if search is None:
        return []
    if search.by != "optuna" and (search.sampler or search.pruner):
        raise ConfigError(
            f"search.{'sampler' if search.sampler else 'pruner'}: only by = 'optuna' has one; leave it out"
        )
    counts = {each.cell.variant: len(each.trials) for each in cells}
    if not any(counts.values()):
        raise ConfigError("search: there is nothing to choose: give [search.space] or [variants.space]")
    notes = [f"{name} has nothing to tune, and runs as it is." for name, count in counts.items() if not count]
    tried = {name: count for name, count in counts.items() if count}
    if len(set(tried.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in tried.items())
        notes.append(f"Not all methods have as many trials: {listed}. More trials are an advantage.")
    return notes


def _named(name: str, values: Mapping[str, Any]) -> str:
    """A name with the values that tell it from others, as ``"pfedme alpha=0.1"``."""
    short = short_keys({*values})
    return " ".join([name, *(f"{short[key]}={shown(value)}" for key, value in values.items())])


def _folder(name: str) -> str:
    """A cell's name as a folder's."""
    folder = re.sub(r"[^\w.=+-]+", "-", name).strip("-.")
    return folder if len(folder) <= LONGEST else f"{folder[:LONGEST]}-{_digest(name)}"


def _digest(name: str) -> str:
    return blake2b(name.encode(), digest_size=4).hexdigest()
