"""Which methods stand beside each other: a comparison's groups by setting, with short names and colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from fedtl.comparison import Comparison, Summary
from fedtl.comparison.layout import Layout, key_of
from fedtl.comparison.naming import setting_labels
from fedtl.reports.material import Material
from fedtl.runs.history import Run


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
    """The comparison's groups by setting, in the order that tables have."""
    if material.comparison is None:
        return ()
    by_setting: dict[str, list[Summary]] = {}
    for group in material.comparison.groups:
        by_setting.setdefault(key_of(group.setting), []).append(group)
    layout = Layout.of(material.comparison.groups, material.study)
    names = {key_of(each): name for each, name in zip(layout.settings, setting_names(layout.settings))}
    labels = {key: _labels(by_setting[key]) for key in names if key in by_setting}
    colours = {label: number for number, label in enumerate(dict.fromkeys(chain(*labels.values())))}
    runs = {str(run.path): run for run in material.runs}
    return tuple(
        Setting(
            names[key] if len(labels) > 1 else "",
            tuple(
                Method(label, colours[label], group, {seed: runs[path] for seed, path in group.runs.items()})
                for label, group in zip(here, by_setting[key])
            ),
            _within(material.comparison, {group.group: label for label, group in zip(here, by_setting[key])}),
        )
        for key, here in labels.items()
    )


def setting_names(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Settings in words, as ``"alpha = 0.1, clients = 20"``."""
    return setting_labels(settings, " = ", ", ")


def across(comparison: Comparison, settings: Sequence[Setting]) -> Comparison | None:
    """What is compared over the borders of settings; None where nothing is."""
    home = {method.summary.group: setting.name for setting in settings for method in setting.methods}
    rows = tuple(
        each for each in comparison.differences if home[each.first] != home[each.second] and each.refused is None
    )
    return replace(comparison, differences=rows) if rows else None


def _labels(groups: Sequence[Summary]) -> list[str]:
    """Names of the groups of one setting: their variants; the groups' own where these clash."""
    variants = [group.variant for group in groups]
    return variants if len(set(variants)) == len(variants) else [group.group for group in groups]


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
