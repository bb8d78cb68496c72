"""The answer in the first screen. It says no more than the comparison shows, pair by pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedtl.comparison import Comparison
from fedtl.comparison.formats import marked
from fedtl.comparison.table import scored_in_words
from fedtl.reports import words
from fedtl.reports.layout import Setting
from fedtl.reports.material import Material

MOST_SETTINGS = 3
"""Whose answers the headline gives one by one."""

MOST_WINNERS = 3
"""Whose pairs a sentence names."""

Pair = tuple[str, str]
"""Who is better, and than whom."""


@dataclass(frozen=True)
class Shown:
    """What the pairs of one setting come to.

    Attributes:
        by_seeds: shown by the test over clients and the interval over seeds alike.
        by_clients: shown for the clients of these seeds alone.
        not_shown: tested, and neither is shown to be better.
        not_tested: nothing was tested, for whatever reason; the notes say which.
    """

    by_seeds: tuple[Pair, ...] = ()
    by_clients: tuple[Pair, ...] = ()
    not_shown: tuple[Pair, ...] = ()
    not_tested: tuple[Pair, ...] = ()

    def best(self, methods: int) -> str | None:
        """The method that is shown to be better than every other one, for other seeds too; None if there is none."""
        wins: dict[str, int] = {}
        for winner, _ in self.by_seeds:
            wins[winner] = wins.get(winner, 0) + 1
        return next((name for name, count in wins.items() if methods > 1 and count == methods - 1), None)


@dataclass(frozen=True)
class Line:
    """One setting's answer.

    Attributes:
        setting: its name; empty where there is one setting only.
        sentences: what is shown, and what is not.
        scores: of each method, the best first: name, score and colour.
    """

    setting: str
    sentences: tuple[str, ...]
    scores: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True)
class Claim:
    """The answer.

    Attributes:
        headline: one sentence that is true of the whole report.
        measured: what its scores are, and what "better" means.
        lines: setting by setting.
    """

    headline: str
    measured: tuple[str, ...] = ()
    lines: tuple[Line, ...] = field(default=())


def claim(material: Material, settings: Sequence[Setting]) -> Claim:
    """What a report may claim."""
    if material.comparison is None:
        return Claim(f"Nothing can be concluded: {material.because}.")
    shown = {setting.name: read(setting.comparison) for setting in settings}
    lines = tuple(_line(setting, shown[setting.name]) for setting in settings)
    measured = [f"Scores are {material.comparison.metric} of {scored_in_words(material.comparison)}."]
    if any(each.test is not None for each in material.comparison.differences):
        measured.append(_better(material.comparison))
    if material.asked.against is not None:
        measured.append(f"Only pairs with {material.asked.against} are compared.")
    return Claim(_headline(settings, shown), tuple(measured), lines)


def read(comparison: Comparison) -> Shown:
    """Sort pairs by what is shown of them."""
    rows: dict[str, list[Pair]] = {name: [] for name in Shown.__dataclass_fields__}
    for each in comparison.differences:
        if each.test is None:
            rows["not_tested"].append((each.first, each.second))
        elif each.shown is None:
            rows["not_shown"].append((each.first, each.second))
        else:
            rows[f"by_{each.shown}"].append(comparison.winner(each))
    return Shown(**{name: tuple(pairs) for name, pairs in rows.items()})


def _headline(settings: Sequence[Setting], shown: Mapping[str, Shown]) -> str:
    if all(len(setting.methods) == 1 for setting in settings):
        names = dict.fromkeys(setting.methods[0].label for setting in settings)
        if len(names) == 1:
            return f"There is one method, {next(iter(names))}, so it is compared with nothing."
        return "No setting has two methods, so nothing is compared within a setting."
    several = [setting for setting in settings if len(setting.methods) > 1]
    where = "" if len(settings) == 1 else f" in {_all_settings(len(several), len(settings))}"
    compared = [shown[setting.name] for setting in several]
    best = {shown[setting.name].best(len(setting.methods)) for setting in several}
    if len(best) == 1 and (name := best.pop()) is not None:
        return f"{name} is better than {_others(name, several)}{where}."
    everywhere = [pair for pair in compared[0].by_seeds if all(pair in each.by_seeds for each in compared)]
    if everywhere:
        rest = any(set(each.by_seeds) != set(everywhere) for each in compared)
        return f"{_wins_in_short(everywhere, several)}{where}.{' What else is shown differs by setting.' * rest}"
    if any(each.by_seeds for each in compared):
        return _setting_by_setting(several, shown)
    if any(each.by_clients for each in compared):
        return "Differences are shown for the clients of these very seeds only, not for other seeds."
    if any(each.not_shown for each in compared):
        return f"No difference between the methods is shown{' in any setting' * (len(settings) > 1)}."
    return "Nothing could be tested, so no method is shown to be better than another."


def _setting_by_setting(settings: Sequence[Setting], shown: Mapping[str, Shown]) -> str:
    """What is shown where; that nothing is shown in a setting does not say that nothing is there."""
    having = [setting for setting in settings if shown[setting.name].by_seeds]
    if len(settings) > MOST_SETTINGS:
        return f"Differences are shown in {len(having)} of {len(settings)} settings, none of them in every setting."
    parts = [f"With {setting.name} {_wins_in_short(shown[setting.name].by_seeds, [setting])}" for setting in having]
    without = [setting.name for setting in settings if setting not in having]
    if without:
        parts.append(f"With {words.listed(without)} no difference is shown that holds for other seeds")
    return " ".join(f"{part}." for part in parts)


def _all_settings(compared: int, of: int) -> str:
    if compared < of:
        return f"{compared} of {of} settings, the only ones with more than one method"
    return "both settings" if of == 2 else f"all {of} settings"


def _others(name: str, settings: Sequence[Setting]) -> str:
    others = list(dict.fromkeys(m.label for setting in settings for m in setting.methods if m.label != name))
    alike = all(len(setting.methods) - 1 == len(others) for setting in settings)
    if not alike:
        return "every other method"
    return words.listed(others) if len(others) <= words.MOST_NAMED - 1 else f"all {len(others)} other methods"


def _wins_in_short(pairs: Sequence[Pair], settings: Sequence[Setting]) -> str:
    """Pairs with a winner; of many winners the one that is better than most others, or those."""
    wins = _by_winner(pairs)
    if len(wins) <= MOST_WINNERS:
        return _wins(pairs)
    most = max(len(losers) for losers in wins.values())
    names = [name for name, losers in wins.items() if len(losers) == most]
    others = len({method.label for setting in settings for method in setting.methods}) - 1
    are = "is" if len(names) == 1 else "are each"
    return f"{words.listed(names)} {are} better than {most} of the {others} other methods"


def _wins(pairs: Sequence[Pair], order: Sequence[str] = ()) -> str:
    """Pairs with a winner, those of one winner together; of many winners those that come first in an order."""
    wins = _by_winner(pairs)
    names = sorted(wins, key=order.index) if order else list(wins)
    text = "; ".join(f"{name} is better than {words.listed(wins[name])}" for name in names[:MOST_WINNERS])
    left = sum(len(wins[name]) for name in names[MOST_WINNERS:])
    return f"{text}; and {words.count(left, 'pair')} more, which the table of differences has" if left else text


def _by_winner(pairs: Sequence[Pair]) -> dict[str, list[str]]:
    losers: dict[str, list[str]] = {}
    for name, other in pairs:
        losers.setdefault(name, []).append(other)
    return losers


def _between(pairs: Sequence[Pair]) -> str:
    """Pairs without a winner, as few words as will do."""
    if len(pairs) > words.MOST_NAMED:
        return f"{len(pairs)} pairs, which the table of differences names"
    return words.listed([f"{first} and {second}" for first, second in pairs])


def _line(setting: Setting, shown: Shown) -> Line:
    comparison = setting.comparison
    names = [group.group for group in comparison.best_first]
    sentences = []
    if shown.by_seeds:
        sentences.append(f"Shown, by the clients' test and the seeds' interval alike: {_wins(shown.by_seeds, names)}.")
    if shown.by_clients:
        wins = _wins(shown.by_clients, names)
        sentences.append(f"Shown for the clients of these seeds, but not for other seeds: {wins}.")
    if shown.not_shown:
        everybody = 1 < len(comparison.differences) == len(shown.not_shown)
        pairs = "any two methods that are compared" if everybody else _between(shown.not_shown)
        sentences.append(f"No difference is shown between {pairs}.")
    if shown.not_tested:
        sentences.append(f"Nothing was tested between {_between(shown.not_tested)}; the notes say why.")
    colours = {method.label: method.colour for method in setting.methods}
    scores = []
    for group in comparison.best_first:
        text = marked(words.spread(comparison, group.value), group.coverage_compared)
        scores.append((group.group, text, colours[group.group]))
    return Line(setting.name, tuple(sentences), tuple(scores))


def _better(comparison: Comparison) -> str:
    tests = sum(each.test is not None for each in comparison.differences)
    return (
        f"“Better” means that Wilcoxon's signed-rank test over clients, with Holm's correction for "
        f"{words.count(tests, 'test')}, is below {comparison.alpha:g}, and that the {100 * comparison.level:g} % "
        "interval over seeds lies wholly on the same side of zero."
    )
