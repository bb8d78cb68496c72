"""How large differences are, and how sure: a row for each pair of methods, for each setting."""

from __future__ import annotations

from dataclasses import dataclass

from fedtl.comparison import Comparison, Difference
from fedtl.comparison.formats import in_percent, signed
from fedtl.reports import words
from fedtl.reports.curves import Mark
from fedtl.reports.layout import Setting
from fedtl.reports.scale import Scale, Tick, over, place

WIDTH = 380.0
LEFT, RIGHT, TOP, ROW, BOTTOM = 10.0, 10.0, 4.0, 34.0, 34.0
MOST_PAIRS = 15
"""Of more pairs those of the method with the best score are drawn; the table has all."""
SHORT = 24
"""Letters of a method's name that fit."""


@dataclass(frozen=True)
class Row:
    """One pair.

    Attributes:
        label: the pair, as it fits.
        base: where that stands.
        middle: where the intervals lie.
        mark: the difference.
        shown: by what it is shown: ``"seeds"``, ``"clients"``, or ``"nothing"``.
        clients, seeds: the ends of the two intervals; None where there is none.
    """

    label: str
    base: str
    middle: str
    mark: Mark
    shown: str
    clients: tuple[str, str] | None
    seeds: tuple[str, str] | None


@dataclass(frozen=True)
class Forest:
    """One setting's picture, in its own coordinates."""

    setting: str
    summary: str
    unit: str
    x_ticks: tuple[Tick, ...]
    zero: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    height: float
    width: float = WIDTH
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP


def forest(setting: Setting) -> Forest | None:
    """The picture of a setting; None where no pair has a difference."""
    comparison, notes = setting.comparison, []
    pairs = [each for each in comparison.differences if each.over_seeds is not None]
    if not pairs:
        return None
    if len(pairs) > MOST_PAIRS:
        best = comparison.best_first[0].group
        notes.append(f"Of {len(pairs)} pairs those with {best} are drawn, which has the best score.")
        pairs = [each for each in pairs if best in (each.first, each.second)][:MOST_PAIRS]
    ends = [0.0, *(value for each in pairs for value in _values(each))]
    x = over(ends, LEFT + 4, WIDTH - RIGHT - 4)
    unit = "percentage points" if in_percent(comparison.metric) else comparison.metric
    direction = "below" if comparison.smaller_is_better else "above"
    return Forest(
        setting=setting.name,
        summary=f"Differences of {words.count(len(pairs), 'pair')} of methods with their intervals{setting.where}; the "
        "table of differences has the numbers.",
        unit=f"difference in {unit}; {direction} 0 the first is better",
        x_ticks=x.ticks(percent=in_percent(comparison.metric)),
        zero=x(0.0),
        rows=tuple(_row(each, number, comparison, x) for number, each in enumerate(pairs)),
        notes=tuple(notes),
        height=TOP + ROW * len(pairs) + BOTTOM,
    )


def _values(each: Difference) -> list[float]:
    mean = [] if each.over_seeds is None else [each.over_seeds.mean]
    return [*mean, *(end for end in (each.low, each.high, each.seeds_low, each.seeds_high) if end is not None)]


def _row(each: Difference, number: int, comparison: Comparison, x: Scale) -> Row:
    assert each.over_seeds is not None
    start, label = TOP + ROW * number, f"{each.first} minus {each.second}"
    mean, middle = each.over_seeds.mean, place(start + 22)
    said = [f"{label}: {signed(comparison, mean)}"]
    for name, low, high in (("clients", each.low, each.high), ("seeds", each.seeds_low, each.seeds_high)):
        if low is not None and high is not None:
            ends = f"{signed(comparison, low)} to {signed(comparison, high)}"
            said.append(f"{100 * comparison.level:g} % over {name} {ends}")
    if each.p_holm is not None:
        said.append(f"{words.p_value(each.p_holm)} (Holm)")
    return Row(
        label=f"{words.shortened(each.first, SHORT)} minus {words.shortened(each.second, SHORT)}",
        base=place(start + 12),
        middle=middle,
        mark=Mark(x(mean), middle, ", ".join(said)),
        shown=each.shown or "nothing",
        clients=_ends(each.low, each.high, x),
        seeds=_ends(each.seeds_low, each.seeds_high, x),
    )


def _ends(low: float | None, high: float | None, x: Scale) -> tuple[str, str] | None:
    return None if low is None or high is None else (x(low), x(high))
