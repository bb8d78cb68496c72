"""What a reader must know and cannot see: the study's notes, and the comparison's."""

from __future__ import annotations

from collections.abc import Sequence

from fedtl.comparison import Comparison
from fedtl.comparison.notes import NOT_PAIRED, not_paired
from fedtl.reports import words
from fedtl.reports.layout import Setting
from fedtl.reports.material import Material


def notes(material: Material, settings: Sequence[Setting]) -> list[str]:
    """All sentences, each once; that settings are not compared with each other is said once for all."""
    # Those on pairs that are refused would name each pair over all settings.
    kept = [note for note in material.notes if not note.startswith(NOT_PAIRED)]
    rows = [*(material.study.notes if material.study else ()), *kept]
    for setting in settings:
        rows += _refused(setting)
    if material.comparison is not None and len(settings) > 1 and _refused_across(material.comparison, settings):
        rows.append(
            "Methods are compared within each setting, not across settings whose clients hold different samples."
        )
    return list(dict.fromkeys(rows))


def _refused(setting: Setting) -> list[str]:
    """Sentences on pairs of one setting."""
    by_reason: dict[str, list[str]] = {}
    for each in setting.comparison.differences:
        if each.refused is not None:
            by_reason.setdefault(each.refused, []).append(f"{each.first} with {each.second}")
    where = f" ({setting.name})" if setting.name else ""
    return [not_paired(f"{reason}{where}", words.listed(pairs)) for reason, pairs in by_reason.items()]


def _refused_across(comparison: Comparison, settings: Sequence[Setting]) -> bool:
    within = sum(each.refused is not None for setting in settings for each in setting.comparison.differences)
    return sum(each.refused is not None for each in comparison.differences) > within
