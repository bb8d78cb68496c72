"""Groups as methods × settings: what tables and pictures of a study have as rows and columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedtl.comparison.naming import setting_labels
from fedtl.comparison.result import Summary
from fedtl.studies import Study

Setting = Mapping[str, Any]
"""Keys and values, as ``{"data.partition.alpha": 0.1}``."""


@dataclass(frozen=True)
class Layout:
    """Methods and settings in order, and which group is where.

    Attributes:
        variants: methods in a few words.
        settings: their keys and values.
        labels: the same in words, as ``"alpha=0.1"``.
    """

    variants: tuple[str, ...]
    settings: tuple[Setting, ...]
    labels: tuple[str, ...]
    _groups: Mapping[tuple[str, str], Summary]

    @classmethod
    def of(cls, groups: Sequence[Summary], study: Study | None = None) -> Layout:
        """Lay out groups in a study's order, cells without a group among them; else as they come, settings by value."""
        settings = [group.setting for group in groups] if study is None else [cell.setting for cell in study.cells]
        if study is None:
            settings = sorted(settings, key=lambda each: [_order(each.get(key)) for key in sorted(_keys(settings))])
        unique = {key_of(setting): setting for setting in settings}
        variants = dict.fromkeys(group.variant for group in groups) if study is None else study.variants
        return cls(
            variants=tuple(variants),
            settings=tuple(unique.values()),
            labels=tuple(setting_labels(list(unique.values()))),
            _groups={(group.variant, key_of(group.setting)): group for group in groups},
        )

    def group(self, variant: str, setting: Setting) -> Summary | None:
        """The method's group in a setting; None where it has none."""
        return self._groups.get((variant, key_of(setting)))


def key_of(setting: Setting) -> str:
    """A setting as one word, whatever the order of its keys."""
    return json.dumps(setting, sort_keys=True, default=str)


def _keys(settings: Sequence[Setting]) -> set[str]:
    return set().union(*settings)


def _order(value: Any) -> tuple[int, float, str]:
    """Numbers by size, after what is missing and before words."""
    if value is None:
        return (0, 0.0, "")
    return (1, float(value), "") if is_number(value) else (2, 0.0, str(value))


def is_number(value: Any) -> bool:
    """Whether a value lies on an axis of numbers; true and false are words."""
    return isinstance(value, int | float) and not isinstance(value, bool)
