"""A study's table of scores: methods as rows, settings as columns, the best of each column and its ties marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fedtl.comparison.formats import PLUS_MINUS, in_percent, parts_in_words
from fedtl.comparison.layout import Layout, Setting, key_of
from fedtl.comparison.naming import MODEL_WORDS, MOST_LISTED, data_in_words, listed
from fedtl.comparison.result import Comparison, Summary
from fedtl.comparison.statistics import DIGITS, Spread
from fedtl.runs.history import mean_over_clients
from fedtl.studies import Study
from fedtl.studies.record import Planned


@dataclass(frozen=True)
class Entry:
    """One method in one setting.

    Attributes:
        score: which model on which data; empty where nothing ran.
        value: over seeds; None where no run is finished.
        planned: how many seeds there should be.
        best: whether no other method is better here.
        tied: whether the comparison does not show the best to be better; False of the best itself.
        part: over which part of the clients a mean is, as ``"7 of 10 clients"``; empty where it is over all.
    """

    score: str
    value: Spread | None
    planned: int
    best: bool = False
    tied: bool = False
    part: str = ""

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

    def entry(self, method: str, setting: Setting) -> Entry:
        """A method in a setting."""
        column = [key_of(each) for each in self.settings].index(key_of(setting))
        return self.entries[self.methods.index(method)][column]

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
    planned, finished = ({}, {}) if study is None else (_counted(study, only) for only in (False, True))
    most = 0 if study is not None else max(len(group.runs) for group in comparison.groups)
    shown = {frozenset((each.first, each.second)) for each in comparison.differences if each.shown == "seeds"}
    untested = _untested(comparison)
    columns, undefined = [], False
    for setting in layout.settings:
        groups = [layout.group(variant, setting) for variant in layout.variants]
        best = _best([each for each in groups if each is not None], comparison)
        column = []
        for variant, group in zip(layout.variants, groups):
            seeds = planned.get((variant, key_of(setting)), most)
            scored = 0 if group is None or group.value is None else group.value.seeds
            undefined |= scored < finished.get((variant, key_of(setting)), 0)
            if group is None:
                column.append(Entry("", None, seeds))
                continue
            tied = (
                not untested and group not in best and not any(frozenset((group.group, b.group)) in shown for b in best)
            )
            is_best = group in best and len(layout.variants) > 1
            part = parts_in_words(group.coverage_compared)
            column.append(Entry(group.score, group.value, seeds, is_best, tied, part))
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
        notes=(*_on_ties(comparison, columns, untested), *_on_gaps(entries, undefined)),
    )


def _counted(study: Study, finished: bool) -> dict[tuple[str, str], int]:
    """How many seeds each variant has in each setting; or those alone whose run finished, and whose record is there."""
    finals = [run.cell for run in study.finals if not finished or _has_record(study, run)]
    return {(cell.variant, key_of(cell.setting)): finals.count(cell.name) for cell in study.cells}


def _has_record(study: Study, run: Planned) -> bool:
    return run.state == "finished" and (study.folder / run.folder / "rounds.jsonl").is_file()


def _best(groups: Sequence[Summary], comparison: Comparison) -> list[Summary]:
    """Those with the best mean."""
    means = np.round([group.value.mean for group in groups], DIGITS)
    if not len(means):
        return []
    best = means.min() if comparison.smaller_is_better else means.max()
    return [group for group, mean in zip(groups, means) if mean == best]


def _about(comparison: Comparison, entries: Sequence[Sequence[Entry]]) -> str:
    metric = comparison.metric.capitalize() + (" in %" if in_percent(comparison.metric) else "")
    several = any(entry.seeds > 1 for row in entries for entry in row)
    over = f", mean{PLUS_MINUS}standard deviation over {_seeds(entries)}" if several else ", of one seed"
    return f"{metric} of {scored_in_words(comparison)}{over}."


def _untested(comparison: Comparison) -> str:
    """Why no two methods of one setting were tested over clients and seeds; empty where some were."""
    settings = {group.group: key_of(group.setting) for group in comparison.groups}
    pairs = [each for each in comparison.differences if settings[each.first] == settings[each.second]]
    if any(each.test is not None and each.seeds_low is not None for each in pairs):
        return ""
    if any(each.test is not None for each in pairs):
        several = any(group.value.seeds > 1 for group in comparison.groups)
        return f"One seed{' in common' * several} shows nothing about others"
    refused = list(dict.fromkeys(each.refused for each in pairs if each.refused is not None))
    if refused:
        return f"Methods are not paired, as {refused[0]}" if len(refused) == 1 else "Methods are not paired"
    return "Without scores of single clients nothing is tested" if pairs else "Nothing is tested"


def _on_ties(comparison: Comparison, columns: Sequence[Sequence[Entry]], untested: str) -> Iterator[str]:
    """What the marks of the best and of its ties say, and where they say nothing."""
    best = [sum(entry.best for entry in column) for column in columns]
    finished = [sum(entry.value is not None for entry in column) for column in columns]
    if not any(best):
        return
    # Of columns in which it is better than some other one.
    one_of_several = [n == 1 < of for n, of in zip(best, finished)]
    if any(entry.tied for column in columns for entry in column):
        yield (
            f"*: the best is not shown to be better than it at {comparison.alpha:g}, which takes both Wilcoxon's "
            "signed-rank test over clients with Holm's correction and Student's interval over seeds."
        )
    elif untested and max(finished) > 1:
        yield f"{untested}, so no ties are marked."
    elif all(one_of_several):
        yield f"Each is shown to be better than the others at {comparison.alpha:g}; there are no ties."
    elif any(one_of_several):
        yield f"Where one of several is best, it is shown to be better than the others at {comparison.alpha:g}."
    if max(best) > 1:
        yield "Where several are best, their means are equal."
    if 1 in finished:
        yield "A method that finished alone in its column is compared with nothing."


def _on_gaps(entries: Sequence[Sequence[Entry]], undefined: bool) -> Iterator[str]:
    """What is missing; ``undefined`` says whether runs finished that have no score."""
    flat = [entry for row in entries for entry in row]
    if any(0 < entry.seeds < entry.planned for entry in flat):
        yield f"In brackets: seeds {'with a score' if undefined else 'that finished'}, of those planned."
    if any(not entry.seeds for entry in flat):
        yield f"-: no run {'has a score' if undefined else 'finished'}."
    if undefined:
        yield "Runs that finished without a score are those in which it is undefined."
    if part := part_in_words(entries):
        yield f"{part}."


def part_in_words(entries: Sequence[Sequence[Entry]]) -> str:
    """What the mark ``+`` of means over part of the clients says; empty where there is none."""
    parts = sorted({entry.part for row in entries for entry in row if entry.part})
    return f"+: over {listed(parts)}" if parts else ""


def _seeds(entries: Sequence[Sequence[Entry]]) -> str:
    planned = {entry.planned for row in entries for entry in row}
    return f"{max(planned)} seeds" if len(planned) == 1 else f"{min(planned)} to {max(planned)} seeds"


def scored_in_words(comparison: Comparison) -> str:
    """Which model is scored on whom, what stands for all, and in which round, as a part of a sentence."""
    return f"{curves_in_words(comparison)}, {round_in_words(comparison)}"


def round_in_words(comparison: Comparison) -> str:
    """In which round scores are taken."""
    return "in the round that is best on validation data" if comparison.at == "validation" else "in the last round"


def over_fewer(comparison: Comparison) -> list[str]:
    """Words for each method and setting whose score in the round that is compared is over fewer clients."""
    marks = {group.group: parts_in_words(group.coverage_compared) for group in comparison.groups}
    return [f"{name}: over {mark}" for name, mark in marks.items() if mark]


def curves_in_words(comparison: Comparison) -> str:
    """The same of all rounds."""
    return f"{models_in_words(comparison)}{_mean_in_words(comparison)}"


def models_in_words(comparison: Comparison) -> str:
    """Which model is scored on whom."""
    by_score: dict[str, list[str]] = {}
    for group in comparison.groups:
        by_score.setdefault(group.score, [])
        if group.variant not in by_score[group.score]:
            by_score[group.score].append(group.variant)
    models = []
    for score, variants in sorted(by_score.items(), key=lambda row: len(row[1])):
        word = MODEL_WORDS.get(score.partition("/")[0], score)
        # Of the largest part a list would end in "and 8 more".
        who = listed(variants) if len(variants) <= MOST_LISTED else "the others"
        models.append(f"the {word}" + (f" ({who})" if len(by_score) > 1 else ""))
    data = dict.fromkeys(data_in_words(score.partition("/")[2]) for score in by_score)
    return f"{' and '.join(models)} {' and '.join(word for word in data if word)}".rstrip()


def _mean_in_words(comparison: Comparison) -> str:
    """What stands for all clients; empty where clients are not scored."""
    if not any(group.clients or mean_over_clients(group.score) for group in comparison.groups):
        return ""
    return ", mean over clients" + (" weighted by samples" if comparison.statistic == "weighted_mean" else "")
