"""A study's table of scores: methods as rows, settings as columns, the best of each column and its ties marked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedtl.comparison.formats import PLUS_MINUS, in_percent
from fedtl.comparison.layout import Layout, Setting
from fedtl.comparison.naming import DATA_WORDS, MODEL_WORDS, MOST_LISTED, listed
from fedtl.comparison.result import Comparison, Summary
from fedtl.comparison.statistics import DIGITS, Spread
from fedtl.studies import Study


@dataclass(frozen=True)
class Entry:
    """One method in one setting.

    Attributes:
        score: which model on which data; empty where nothing ran.
        value: over seeds; None where no run is finished.
        planned: how many seeds there should be.
        best: whether no other method is better here.
        tied: whether the comparison does not show the best to be better; False of the best itself.
        part: whether a mean is over fewer clients than were asked.
    """

    score: str
    value: Spread | None
    planned: int
    best: bool = False
    tied: bool = False
    part: bool = False

    @property
    def seeds(self) -> int:
        """How many finished."""
        return 0 if self.value is None else self.value.seeds


@dataclass(frozen=True)
class ScoreTable:
    """Scores of methods in settings.

    Attributes:
        metric: such as ``accuracy``.
        at: which round of each run: its ``last``, or its best by ``validation``.
        methods: the rows' names.
        settings: the columns' keys and values.
        labels: the columns' names.
        entries: ``[methods][settings]``.
        about: a sentence that says what the numbers are.
        notes: sentences that say what the marks are.
    """

    metric: str
    at: str
    methods: tuple[str, ...]
    settings: tuple[Setting, ...]
    labels: tuple[str, ...]
    entries: tuple[tuple[Entry, ...], ...]
    about: str
    notes: tuple[str, ...]

    @property
    def marked(self) -> bool:
        """Whether some entry is the best."""
        return any(entry.best for row in self.entries for entry in row)

    def caption(self, mark: str = "bold") -> str:
        """What a reader must know; ``mark`` says what the best of a column is."""
        best = [f"The best of each column is {mark}."] if self.marked else []
        return " ".join([self.about, *best, *self.notes])


def score_table(comparison: Comparison, study: Study | None = None) -> ScoreTable:
    """Lay out a comparison's scores; nothing is measured anew.

    Args:
        comparison: of the runs; its ``at`` says which round counts.
        study: that the runs belong to: which cells and seeds there should be, and in which order.
    """
    layout = Layout.of(comparison.groups, study)
    planned = _planned(comparison, study)
    shown = {frozenset((each.first, each.second)) for each in comparison.differences if each.shown == "seeds"}
    tests = any(each.test is not None and each.seeds_low is not None for each in comparison.differences)
    columns = []
    for setting in layout.settings:
        groups = [layout.group(variant, setting) for variant in layout.variants]
        best = _best([each for each in groups if each is not None], comparison)
        column = []
        for variant, group in zip(layout.variants, groups):
            seeds = planned(variant, setting)
            if group is None:
                column.append(Entry("", None, seeds))
                continue
            tied = tests and group not in best and not any(frozenset((group.group, b.group)) in shown for b in best)
            is_best = group in best and len(layout.variants) > 1
            part = bool(group.coverage)
            column.append(Entry(group.score, _value(group, comparison), seeds, is_best, tied, part))
        columns.append(column)
    entries = tuple(zip(*columns))
    return ScoreTable(
        metric=comparison.metric,
        at=comparison.at,
        methods=layout.variants,
        settings=layout.settings,
        labels=layout.labels,
        entries=entries,
        about=_about(comparison, entries),
        notes=tuple(_notes(comparison, entries, tests)),
    )


def _value(group: Summary, comparison: Comparison) -> Spread:
    if comparison.at == "validation" and group.by_validation is not None:
        return group.by_validation
    return group.last


def _planned(comparison: Comparison, study: Study | None) -> _Planned:
    if study is not None:
        cells = {(cell.variant, repr(sorted(cell.setting.items()))): cell.name for cell in study.cells}
        finals = [run.cell for run in study.finals]
        return _Planned({key: finals.count(name) for key, name in cells.items()}, 0)
    return _Planned({}, max(len(group.runs) for group in comparison.groups))


@dataclass(frozen=True)
class _Planned:
    """How many seeds a method should have in a setting: as its study says, else as many as any other has."""

    by_cell: Mapping[tuple[str, str], int]
    otherwise: int

    def __call__(self, variant: str, setting: Setting) -> int:
        return self.by_cell.get((variant, repr(sorted(setting.items()))), self.otherwise)


def _best(groups: Sequence[Summary], comparison: Comparison) -> list[Summary]:
    """Those with the best mean."""
    means = np.round([_value(group, comparison).mean for group in groups], DIGITS)
    if not len(means):
        return []
    best = means.min() if comparison.smaller_is_better else means.max()
    return [group for group, mean in zip(groups, means) if mean == best]


def _about(comparison: Comparison, entries: Sequence[Sequence[Entry]]) -> str:
    metric = comparison.metric.capitalize() + (" in %" if in_percent(comparison.metric) else "")
    several = any(entry.seeds > 1 for row in entries for entry in row)
    over = f", mean{PLUS_MINUS}standard deviation over {_seeds(entries)}" if several else ", of one seed"
    return f"{metric} of {scored_in_words(comparison)}{over}."


def _notes(comparison: Comparison, entries: Sequence[Sequence[Entry]], tests: bool) -> Iterator[str]:
    flat = [entry for row in entries for entry in row]
    if any(entry.tied for entry in flat):
        yield (
            f"*: the best is not shown to be better than it at {comparison.alpha:g}, which takes both Wilcoxon's "
            "signed-rank test over clients with Holm's correction and Student's interval over seeds."
        )
    elif any(entry.best for entry in flat) and not tests:
        several = any(entry.seeds > 1 for entry in flat)
        why = "Without scores of single clients nothing is tested" if several else "One seed shows nothing about others"
        yield f"{why}, so no ties are marked."
    elif any(entry.best for entry in flat):
        yield f"Each is shown to be better than the others at {comparison.alpha:g}; there are no ties."
    if any(0 < entry.seeds < entry.planned for entry in flat):
        yield "In brackets: seeds that finished, of those planned."
    if any(not entry.seeds for entry in flat):
        yield "-: no run finished."
    if any(entry.part for entry in flat):
        yield "+: over fewer clients than were asked."


def _seeds(entries: Sequence[Sequence[Entry]]) -> str:
    planned = {entry.planned for row in entries for entry in row}
    return f"{max(planned)} seeds" if len(planned) == 1 else f"{min(planned)} to {max(planned)} seeds"


def scored_in_words(comparison: Comparison) -> str:
    """Which model is scored on whom, and in which round, as a part of a sentence."""
    groups = comparison.groups
    by_score: dict[str, list[str]] = {}
    for group in groups:
        by_score.setdefault(group.score, [])
        if group.variant not in by_score[group.score]:
            by_score[group.score].append(group.variant)
    models = []
    for score, variants in sorted(by_score.items(), key=lambda row: len(row[1])):
        word = MODEL_WORDS.get(score.partition("/")[0], score)
        # Of the largest part a list would end in "and 8 more".
        who = listed(variants) if len(variants) <= MOST_LISTED else "the others"
        models.append(f"the {word}" + (f" ({who})" if len(by_score) > 1 else ""))
    data = dict.fromkeys(DATA_WORDS.get(score.partition("/")[2], "") for score in by_score)
    means = ""
    if any(group.clients or group.score.endswith("clients") for group in groups):
        means = ", mean over clients" + (" weighted by samples" if comparison.statistic == "weighted_mean" else "")
    where = "in the round that is best on validation data" if comparison.at == "validation" else "in the last round"
    return f"{' and '.join(models)} {' and '.join(word for word in data if word)}".rstrip() + f"{means}, {where}"
