"""Which methods stand beside each other: a comparison's groups by setting, with short names and colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedtl.comparison import Comparison, Summary
from fedtl.comparison.naming import labels, shown
from fedtl.reports.material import Material
from fedtl.runs.history import Run
from fedtl.studies import Cell

ROOMS_OF_A_SETTING = ("data.", "model.", "models")
"""Of plain runs, which have no axes: keys that make a setting. What else differs makes a method."""


@dataclass(frozen=True)
class Method:
    """One group of the comparison within its setting.

    Attributes:
        label: its name there.
        colour: alike in all settings.
        summary: its scores.
        runs: by seed.
    """

    label: str
    colour: int
    summary: Summary
    runs: Mapping[int, Run]


@dataclass(frozen=True)
class Setting:
    """Methods in one setting.

    Attributes:
        name: as ``"alpha = 0.1"``; empty where there is one setting only.
        methods: in it.
        comparison: of these methods alone, under their short names; p-values are corrected for the whole comparison.
    """

    name: str
    methods: tuple[Method, ...]
    comparison: Comparison

    @property
    def where(self) -> str:
        """Behind a title."""
        return f", {self.name}" if self.name else ""


def settings(material: Material) -> tuple[Setting, ...]:
    """The comparison's groups by setting, in order."""
    if material.comparison is None:
        return ()
    groups = material.comparison.groups
    cells = _cells(material)
    values = [_setting(group, cells) for group in groups]
    names = [setting_name(each, values) for each in values]
    if len(set(names)) < len(set(map(repr, values))):  # files of one name in two folders
        names = [", ".join(f"{key} = {value}" for key, value in each.items()) for each in values]
    by_setting: dict[str, list[Summary]] = {}
    for name, group in zip(names, groups):
        by_setting.setdefault(name, []).append(group)
    words = {name: _labels(same, cells) for name, same in by_setting.items()}
    colours = {label: number for number, label in enumerate(dict.fromkeys(w for each in words.values() for w in each))}
    runs = {str(run.path): run for run in material.runs}
    return tuple(
        Setting(
            name if len(by_setting) > 1 else "",
            tuple(
                Method(label, colours[label], group, {seed: runs[path] for seed, path in group.runs.items()})
                for label, group in zip(words[name], same)
            ),
            _within(material.comparison, {group.group: label for label, group in zip(words[name], same)}),
        )
        for name, same in by_setting.items()
    )


def across(comparison: Comparison, settings: Sequence[Setting]) -> Comparison | None:
    """What is compared over the borders of settings; None where nothing is."""
    home = {method.summary.group: setting.name for setting in settings for method in setting.methods}
    rows = tuple(
        each for each in comparison.differences if home[each.first] != home[each.second] and each.refused is None
    )
    return replace(comparison, differences=rows) if rows else None


def setting_name(values: Mapping[str, Any], all_values: Sequence[Mapping[str, Any]]) -> str:
    """A setting in words: the ends of its keys, which are whole where two keys end alike."""
    keys = {key for each in all_values for key in each}
    ends = {key: key.removesuffix(".name").rpartition(".")[2] for key in keys}
    short = {key: end if list(ends.values()).count(end) == 1 else key for key, end in ends.items()}
    return ", ".join(f"{short[key]} = {shown(value)}" for key, value in values.items())


def _cells(material: Material) -> dict[str, Cell]:
    """The study's cells by their runs' folders."""
    study = material.study
    if study is None:
        return {}
    by_name = {cell.name: cell for cell in study.cells}
    return {str(study.folder / run.folder): by_name[run.cell] for run in study.finals if run.cell in by_name}


def _cell(group: Summary, cells: Mapping[str, Cell]) -> Cell | None:
    return next((cells[path] for path in group.runs.values() if path in cells), None)


def _setting(group: Summary, cells: Mapping[str, Cell]) -> dict[str, Any]:
    if cell := _cell(group, cells):
        return dict(cell.setting)
    return {key: value for key, value in group.differs.items() if key.startswith(ROOMS_OF_A_SETTING)}


def _labels(groups: Sequence[Summary], cells: Mapping[str, Cell]) -> list[str]:
    """Names of the groups of one setting: the study's variants, or what tells them apart; whole ones if they clash."""
    words = []
    for group in groups:
        own = {key: value for key, value in group.differs.items() if not key.startswith(ROOMS_OF_A_SETTING)}
        cell = _cell(group, cells)
        words.append(cell.variant if cell else labels([own], [group.method])[0])
    return words if len(set(words)) == len(words) else [group.group for group in groups]


def _within(comparison: Comparison, names: Mapping[str, str]) -> Comparison:
    """The part of a comparison that is about these groups, under other names."""
    return replace(
        comparison,
        groups=tuple(replace(each, group=names[each.group]) for each in comparison.groups if each.group in names),
        differences=tuple(
            replace(each, first=names[each.first], second=names[each.second])
            for each in comparison.differences
            if each.first in names and each.second in names
        ),
        transfers=tuple(
            replace(each, group=names[each.group], baseline=names[each.baseline])
            for each in comparison.transfers
            if each.group in names and each.baseline in names
        ),
        ranking=None,
    )
