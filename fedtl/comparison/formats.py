"""A comparison as tables of words: what the terminal, Markdown and LaTeX show alike."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedtl.comparison.latex import PACKAGES, floating, latex_text
from fedtl.comparison.result import ClientGain, Comparison, Difference, Ranking, Reached
from fedtl.comparison.statistics import Spread

PLUS_MINUS = " ± "
NOTHING = "-"
MOST_NAMED = 12
"""Clients that a table names; JSON names all."""
UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))


@dataclass(frozen=True)
class Section:
    """A table.

    Attributes:
        title: what it shows, and in which unit.
        header: the columns' names; columns of words are those in ``words``, all others are numbers.
        rows: as many cells each.
        words: how many of the first columns are words, and not numbers.
        last_is_words: whether the last one is, too.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    last_is_words: bool = False

    def is_words(self, column: int) -> bool:
        """Whether a column holds words."""
        return column < self.words or (self.last_is_words and column == len(self.header) - 1)


def sections(comparison: Comparison) -> list[Section]:
    """All tables of a comparison that have a row."""
    tables = (
        _groups(comparison),
        _target(comparison),
        differences(comparison),
        ranks(comparison),
        _transfers(comparison),
    )
    return [table for table in tables if table is not None and table.rows]


def as_json(comparison: Comparison) -> str:
    """Everything, for programs."""
    return json.dumps(comparison.to_dict(), indent=2, ensure_ascii=False, allow_nan=False, default=str)


def markdown(comparison: Comparison) -> str:
    """Tables and notes in Markdown."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    blocks = []
    for section in sections(comparison):
        rule = ["---" if section.is_words(column) else "--:" for column in range(len(section.header))]
        lines = [line(section.header), line(rule), *map(line, section.rows)]
        blocks.append(f"**{section.title}**\n\n" + "\n".join(lines))
    if comparison.notes:
        blocks.append("\n".join(f"- {note}" for note in comparison.notes))
    return "\n\n".join(blocks)


def latex(comparison: Comparison) -> str:
    """Tables in LaTeX, for the packages booktabs and graphicx; notes as comments."""
    blocks = []
    for section in sections(comparison):
        columns = "".join("l" if section.is_words(column) else "r" for column in range(len(section.header)))
        title = f"{section.title[0].upper()}{section.title[1:]}."
        blocks.append(
            floating(latex_text(title), columns, _latex_line(section.header), list(map(_latex_line, section.rows)))
        )
    if comparison.notes:
        blocks.append("\n".join(f"% {note}" for note in comparison.notes))
    return "\n\n".join([PACKAGES, *blocks])


def _groups(comparison: Comparison) -> Section:
    several = len({group.score for group in comparison.groups}) > 1
    clients = any(group.clients for group in comparison.groups)
    validated = any(group.by_validation for group in comparison.groups)
    header = ["method", *["score"] * several, "seeds", *["clients"] * clients, "round", "last"]
    header += [*["best by validation"] * validated, "best on test", *["worst 10 %", "Jain"] * clients]
    rows = []
    for group in comparison.groups:
        row = [group.group, *[group.score] * several, str(group.last.seeds)]
        row += [_span(list(group.clients.values()))] * clients
        row += [_span(list(group.rounds.values())), marked(_scored(comparison, group.last), group.coverage)]
        row += [marked(_scored(comparison, group.by_validation), group.coverage_by_validation)] * validated
        row += [marked(_scored(comparison, group.best_on_test), group.coverage_best_on_test)]
        row += [_scored(comparison, group.worst_decile), _number(group.jain, 4)] * clients
        rows.append(tuple(row))
    scores = "" if several else f" of {comparison.groups[0].score}"
    unit = " in %" if in_percent(comparison.metric) else ""
    over = "mean over clients" + (" weighted by samples" if comparison.statistic == "weighted_mean" else "")
    title = f"{comparison.metric}{unit}{scores}" + (f"; {over}" if clients else "")
    if any(group.last.deviation is not None for group in comparison.groups):
        title += f"; mean{PLUS_MINUS}standard deviation over seeds"
    return Section(title, tuple(header), tuple(rows), words=1 + several)


def _target(comparison: Comparison) -> Section | None:
    if comparison.target is None:
        return None
    reached = [(group.group, group.to_target) for group in comparison.groups if group.to_target is not None]
    largest = max((each.bytes.mean for _, each in reached if each.bytes), default=0.0)
    size, unit = next(((size, unit) for size, unit in UNITS if largest >= size), UNITS[-1])
    rows = [(name, *_cost_cells(each, size)) for name, each in reached]
    goal = f"{100 * comparison.target:g} %" if in_percent(comparison.metric) else f"{comparison.target:g}"
    title = f"Until {comparison.metric} first is {goal}{' or less' if comparison.smaller_is_better else ''}"
    return Section(title, ("method", "reached by", "rounds", unit, "seconds"), tuple(rows))


def _cost_cells(reached: Reached, size: float) -> tuple[str, ...]:
    sent = reached.bytes and Spread(
        reached.bytes.mean / size,
        None if reached.bytes.deviation is None else reached.bytes.deviation / size,
        reached.bytes.seeds,
    )
    runs = f"{reached.runs} of {reached.of} seeds" if reached.of > 1 else "yes" if reached.runs else "no"
    return runs, _number(reached.rounds, 1), _number(sent, 2), _number(reached.seconds, 1)


def differences(comparison: Comparison) -> Section:
    """The pairs that are not refused, with their intervals and tests; it may have no row."""
    paired = [each for each in comparison.differences if each.refused is None]
    tested = any(each.test is not None for each in paired)
    several = any(each.over_seeds and each.over_seeds.seeds > 1 for each in paired)
    level = f"{100 * comparison.level:g} %"
    header = ["method", "minus", "difference", *[f"{level} over clients"] * tested]
    header += [f"{level} over seeds", "seeds better"] * several
    if tested:
        header += ["pairs", "better", "equal", "worse", "p", "p (Holm)", "effect"]
    rows = []
    for each in paired:
        over = each.over_seeds
        row = [each.first, each.second, NOTHING if over is None else signed(comparison, over.mean)]
        row += [_ends(comparison, each.low, each.high)] * tested
        if several:
            row += [_ends(comparison, each.seeds_low, each.seeds_high), _seeds_better(comparison, each)]
        if tested:
            row += _test_cells(each)
        rows.append(tuple(row))
    unit = (
        " in percentage points"
        if in_percent(comparison.metric)
        else " (below 0 is better)" * comparison.smaller_is_better
    )
    where = "in the round best by validation" if comparison.at == "validation" else "in the last round"
    title = f"Differences{unit}, paired by seed and client, {where}"
    if tested:
        title += "; Wilcoxon signed rank, effect: matched-pairs rank-biserial"
    return Section(title, tuple(header), tuple(rows), words=2)


def _test_cells(each: Difference) -> list[str]:
    if each.test is None or each.p_holm is None:
        return [NOTHING] * 7
    counts = [str(count) for count in (each.clients, each.better, each.equal, each.worse)]
    return [*counts, p_cell(each.test.p), p_cell(each.p_holm), f"{each.test.effect:+.2f}"]


def _ends(comparison: Comparison, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return NOTHING
    return f"{signed(comparison, low)} to {signed(comparison, high)}"


def _seeds_better(comparison: Comparison, each: Difference) -> str:
    values = list((each.by_seed or {}).values())
    better = sum(value < 0 if comparison.smaller_is_better else value > 0 for value in values)
    return f"{better} of {len(values)}"


def ranks(comparison: Comparison) -> Section | None:
    """Mean ranks over settings; None where nothing is ranked."""
    ranking = comparison.ranking
    if ranking is None:
        return None
    tested = ranking.nemenyi is not None and ranking.p is not None and ranking.p < comparison.alpha
    rows = []
    for place, (method, mean) in enumerate(zip(ranking.methods, ranking.ranks)):
        row = [method, f"{mean:.2f}"]
        if tested and ranking.nemenyi is not None:
            p_values = ranking.nemenyi[place]
            worse = [other for other, p in zip(ranking.methods[place:], p_values[place:]) if p < comparison.alpha]
            row.append(", ".join(worse) or NOTHING)
        rows.append(tuple(row))
    title = f"Mean ranks over {len(ranking.settings)} settings, 1 is the best{_friedman(ranking, comparison.alpha)}"
    header = ("method", "mean rank", *["better than (Nemenyi)"] * tested)
    return Section(title, header, tuple(rows), last_is_words=tested)


def _friedman(ranking: Ranking, alpha: float) -> str:
    """The tests' statistics, as the end of a title; empty where nothing is tested."""
    if ranking.p is None or ranking.chi_square is None or ranking.f is None:
        return ""
    k, n = len(ranking.methods), len(ranking.settings)
    f = "infinite" if math.isinf(ranking.f) else f"{ranking.f:.2f}"
    return (
        f"; Friedman chi-squared({k - 1}) {ranking.chi_square:.2f}, "
        f"Iman-Davenport F({k - 1}, {(k - 1) * (n - 1)}) {f}, "
        f"p {p_cell(ranking.p)}; Nemenyi's critical difference {ranking.critical_difference:.2f} at {alpha:g}"
    )


def _transfers(comparison: Comparison) -> Section:
    rows = [
        (
            each.group,
            each.baseline,
            f"{100 * len(each.better) / len(each.gains):.0f} %",
            f"{100 * len(each.worse) / len(each.gains):.0f} %",
            _who(each.worse),
        )
        for each in comparison.transfers
    ]
    title = "Clients that are better and worse off than without federation, or with one model for all"
    return Section(
        title,
        ("method", "than under", "better", "worse", "worse off, the worst first"),
        tuple(rows),
        2,
        last_is_words=True,
    )


def _who(gains: Sequence[ClientGain]) -> str:
    """Clients by name, those of each seed together; the worst off if they are many."""
    if not gains:
        return "nobody"
    named = gains[:MOST_NAMED]
    by_seed: dict[int | None, list[str]] = {}
    for each in sorted(named, key=lambda each: -1 if each.seed is None else each.seed):
        by_seed.setdefault(each.seed, []).append(each.client)
    words = [", ".join(who) if seed is None else f"seed {seed}: {', '.join(who)}" for seed, who in by_seed.items()]
    more = f"; and {len(gains) - len(named)} more" if len(gains) > len(named) else ""
    return "; ".join(words) + more


def in_percent(metric: str) -> bool:
    """Whether tables show a metric in per cent."""
    return metric == "accuracy"


def _scored(comparison: Comparison, value: Spread | None) -> str:
    return score_cell(comparison.metric, value)


def score_cell(metric: str, value: Spread | None) -> str:
    """A score over seeds, in per cent where its metric is a share."""
    factor, digits = (100.0, 2) if in_percent(metric) else (1.0, 4)
    if value is None:
        return NOTHING
    deviation = None if value.deviation is None else factor * value.deviation
    return _number(Spread(factor * value.mean, deviation, value.seeds), digits)


def _number(value: Spread | None, digits: int) -> str:
    if value is None or math.isnan(value.mean):
        return NOTHING
    deviation = "" if value.deviation is None else f"{PLUS_MINUS}{value.deviation:.{digits}f}"
    return f"{value.mean:.{digits}f}{deviation}"


def signed(comparison: Comparison, value: float) -> str:
    """A difference of scores, in percentage points where the metric is a share."""
    text = f"{100 * value:+.2f}" if in_percent(comparison.metric) else f"{value:+.4f}"
    return text if float(text) else text[1:]


def p_cell(value: float) -> str:
    """A p-value."""
    return "<0.0001" if value < 1e-4 else f"{value:.4f}"


def _span(numbers: Sequence[int]) -> str:
    if not numbers:
        return NOTHING
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def marked(text: str, coverage: Mapping[int, str]) -> str:
    """A mean over seeds with the mark that it needs where it is over fewer clients than it should be.

    Args:
        text: the mean.
        coverage: the marks of the runs that need one, by seed.
    """
    return f"{text} ({parts_in_words(coverage)})" if coverage and text != NOTHING else text


def parts_in_words(coverage: Mapping[int, str]) -> str:
    """Over which parts of the clients means are; see :func:`marked`."""
    return " or ".join(sorted(set(coverage.values())))


SIGNED = re.compile(r"(?<!\S)[+-]\d+(\.\d+)?")
"""A number with a sign, whose minus is no hyphen."""


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(_latex_cell(cell) for cell in cells)


def _latex_cell(cell: str) -> str:
    return SIGNED.sub(r"$\g<0>$", latex_text(cell))
