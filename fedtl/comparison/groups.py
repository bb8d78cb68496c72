"""From runs to groups: runs that differ in their seed alone are one method."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from fedtl.choice import ConfigError, nearest
from fedtl.comparison.naming import METHOD, OPTIONS, Flat, differences, flatten, is_called, labels, shown, unsaid
from fedtl.runs.history import Run
from fedtl.studies import Study

# Where a run is computed and written, not what it computes.
MACHINE = ("name", "seed", "device", "simulation", "tracking")
OF_METHODS = (OPTIONS, "name", "objective.", "phases.")
"""Keys that say what a method does, not on which data and models it does it."""
OLDER_PERSONAL: Mapping[str, str] = {"fresh": "adapted", "last": "stored"}


@dataclass(frozen=True)
class Group:
    """Runs of one config under different seeds.

    Attributes:
        name: what tells it from the other groups.
        differs: the same by whole keys.
        runs: by seed, in order.
        variant: the method in a few words, alike in all settings; a study's variant.
        setting: where it ran: the keys that are not the method's, with their values; a study's axes.
    """

    name: str
    differs: Mapping[str, Any]
    runs: Mapping[int, Run]
    variant: str
    setting: Mapping[str, Any]

    @property
    def method(self) -> str:
        """The strategy's name."""
        return next(iter(self.runs.values())).method

    def fits(self, key: str, value: str) -> bool:
        """Whether a pair is the group's, as :func:`fits` says."""
        return fits(flatten(next(iter(self.runs.values())).config), self.variant, key, value)


class Grouped(NamedTuple):
    """Groups, and what a reader must know of how they came about."""

    groups: list[Group]
    notes: list[str]


def group_runs(runs: Sequence[Run], study: Study | None = None) -> Grouped:
    """Gather runs by config, in the order in which they were given; a study's by its cells, which name them.

    A run counts once a seed: of several the one that got furthest. Unfinished runs are left out of a group that has
    finished ones.
    """
    if study is not None:
        return _by_cell(runs, study)
    members: dict[str, list[Run]] = {}
    for run in runs:
        members.setdefault(json.dumps(_compared(run), sort_keys=True, default=str), []).append(run)
    by_key: list[tuple[list[Run], bool]] = []
    for same in members.values():
        by_name: dict[str, list[Run]] = {}
        for run in same:
            by_name.setdefault(run.name, []).append(run)
        # One config under two names is two methods if their seeds meet: a null study, or a class that was edited.
        named = len(by_name) > 1 and len({run.seed for run in same}) < len(same)
        by_key += [(each, True) for each in by_name.values()] if named else [(same, False)]
    flat = [flatten(_compared(same[0])) | ({"name": same[0].name} if named else {}) for same, named in by_key]
    differing = differences(flat)
    names = labels(differing, [same[0].method for same, _ in by_key])
    of_methods = [{key: value for key, value in each.items() if key.startswith(OF_METHODS)} for each in differing]
    variants = _variants(of_methods, [same[0].method for same, _ in by_key])
    notes = []
    groups = []
    for (same, _), name, differs, variant, own in zip(by_key, names, differing, variants, of_methods):
        kept, left_out = _one_a_seed(same)
        notes += left_out
        setting = {key: value for key, value in differs.items() if key not in own}
        groups.append(Group(name, differs, kept, variant, setting))
    if more := unsaid(flat, differing, names):
        notes.append(f"The groups differ also in {'; '.join(more)}.")
    return Grouped(groups, notes)


def _by_cell(runs: Sequence[Run], study: Study) -> Grouped:
    """A study's runs by its cells, in their order."""
    cell_of = {(study.folder / each.folder).resolve(): each.cell for each in study.finals}
    members: dict[str, list[Run]] = {}
    for run in runs:
        members.setdefault(cell_of[run.path.resolve()], []).append(run)
    cells = [cell for cell in study.cells if cell.name in members]
    differing = differences([flatten(_compared(members[cell.name][0])) for cell in cells])
    notes = []
    groups = []
    for cell, differs in zip(cells, differing):
        kept, left_out = _one_a_seed(members[cell.name])
        notes += left_out
        groups.append(Group(cell.name, differs, kept, cell.variant, dict(cell.setting)))
    return Grouped(groups, notes)


def _variants(of_methods: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> list[str]:
    """A short name for what each group's method is; groups that differ in their settings alone share it."""
    keys = [json.dumps(each, sort_keys=True, default=str) + method for each, method in zip(of_methods, methods)]
    first = {key: index for index, key in reversed(list(enumerate(keys)))}
    places = sorted(first.values())
    names = labels([of_methods[place] for place in places], [methods[place] for place in places])
    by_key = {keys[place]: name for place, name in zip(places, names)}
    return [by_key[key] for key in keys]


def find_references(groups: Sequence[Group], words: str) -> list[Group]:
    """The group that others are compared with, one for each setting in which a method was run.

    Args:
        groups: all of them.
        words: a group's name, a method's, or ``key=value`` pairs of its config, as ``"strategy.name=fedavg"``.

    Raises:
        ConfigError: there is none, or more than one of the same setting.
    """
    by_name = {group.name: group for group in groups}
    if words in by_name:
        return [by_name[words]]
    pairs = [pair.partition("=") for pair in words.replace(",", " ").split()]
    matching = [group for group in groups if pairs and all(group.fits(key, value) for key, _, value in pairs)]
    if not matching:
        raise ConfigError(f"--against = {words!r} is no group: {nearest(words, by_name)}")
    for group in matching:
        same = [other.name for other in matching if other.setting == group.setting]
        if len(same) > 1:
            raise ConfigError(f"--against = {words!r} is {len(same)} groups: {', '.join(same)}; give one by its name")
    return matching


def planned_rounds(run: Run) -> int | None:
    """How many rounds its config asks for; None where it does not say."""
    rounds = run.config.get("rounds")
    return None if rounds is None else int(rounds)


def finished_rounds(run: Run) -> int:
    """How many it has."""
    return int(run.rounds[-1]["round"]) if run.rounds else 0


def unfinished(run: Run) -> bool:
    """Whether rounds are missing that its config asks for; a run that stopped early has all of its own."""
    planned = planned_rounds(run)
    return planned is not None and finished_rounds(run) < planned and run.stopped is None


def fits(config: Flat, variant: str, key: str, value: str) -> bool:
    """Whether a pair is a config's; a word without "=" is its variant's name, or its method's."""
    if not value:
        method = str(config.get(METHOD))
        return key in (variant, method, method.rpartition(":")[2])
    fitting = [each for each in config if is_called(each, key)]
    return any(value in (shown(config[each]), str(config[each])) for each in fitting)


def _compared(run: Run) -> dict[str, Any]:
    """What of a config says what was computed."""
    config = {key: value for key, value in run.config.items() if key not in MACHINE}
    deploy = config.pop("deploy", None)
    if isinstance(deploy, Mapping) and deploy.get("privacy"):
        config["deploy"] = {"privacy": deploy["privacy"]}
    if isinstance(data := config.get("data"), Mapping):
        config["data"] = _without_places(data)
    evaluate = config.get("evaluate")
    if isinstance(evaluate, Mapping):
        config["evaluate"] = {key: value for key, value in evaluate.items() if key != "keep_best"}
        if evaluate.get("personal") in OLDER_PERSONAL:
            config["evaluate"]["personal"] = OLDER_PERSONAL[evaluate["personal"]]
    return {key: value for key, value in config.items() if value not in ([], {})}


def _without_places(data: Mapping[str, Any]) -> dict[str, Any]:
    """A data set's options without where its files lie on a machine."""
    kept = {key: value for key, value in data.items() if key not in ("root", "download")}
    for part in ("target", "public"):
        if isinstance(domain := kept.get(part), Mapping):
            kept[part] = _without_places(domain)
    return kept


def _one_a_seed(runs: Sequence[Run]) -> tuple[dict[int, Run], list[str]]:
    """The runs by seed, and sentences about those that are left out."""
    notes = []
    by_seed: dict[int, Run] = {}
    for run in runs:
        other = by_seed.setdefault(run.seed, run)
        if other is run:
            continue
        kept, dropped = (run, other) if finished_rounds(run) > finished_rounds(other) else (other, run)
        by_seed[run.seed] = kept
        notes.append(f"Left out: {dropped.path} has the config and the seed of {kept.path}.")
    finished = {seed: run for seed, run in by_seed.items() if not unfinished(run)}
    for run in by_seed.values():
        if unfinished(run):
            what = "Left out" if finished else "Its last scored round counts"
            done = f"{finished_rounds(run)} of {planned_rounds(run)} rounds"
            notes.append(f"{what}: {run.path} is unfinished ({done}).")
    return dict(sorted((finished or by_seed).items())), notes
