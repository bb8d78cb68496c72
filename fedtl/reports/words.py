"""Numbers of a comparison in words, and names one after another."""

from __future__ import annotations

from collections.abc import Sequence

from fedtl.comparison import Comparison
from fedtl.comparison.formats import NOTHING, in_percent, p_cell, score_cell
from fedtl.comparison.statistics import Spread

MOST_NAMED = 4


def value(comparison: Comparison, number: float) -> str:
    """A score of a comparison."""
    return spread(comparison, Spread(number, None, 1))


def spread(comparison: Comparison, number: Spread) -> str:
    """A score over seeds, with its unit."""
    text = score_cell(comparison.metric, number)
    return f"{text} %" if in_percent(comparison.metric) and text != NOTHING else text


def p_value(number: float) -> str:
    """With the sign that it needs."""
    text = p_cell(number)
    return f"p < {text[1:]}" if text.startswith("<") else f"p = {text}"


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them; of many the first ones, and how many more there are."""
    if len(names) > MOST_NAMED:
        names = [*names[: MOST_NAMED - 1], f"{len(names) - MOST_NAMED + 1} more"]
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def shortened(name: str, most: int) -> str:
    """The beginning of a name, in at most so many letters."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def count(number: int, word: str, several: str = "") -> str:
    """A number of things, as ``"1 run"`` and ``"2 runs"``."""
    return f"{number:,} {word if number == 1 else several or word + 's'}"
