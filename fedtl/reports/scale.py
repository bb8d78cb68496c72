"""From numbers to places on a picture, and back to the words at its ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where, and what it says."""

    place: str
    text: str


@dataclass(frozen=True)
class Scale:
    """A linear axis: from ``low`` to ``high`` over the pixels from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> str:
        """The place of a number, as SVG has it."""
        return place(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start))

    def ticks(self, most: int = 5, percent: bool = False, whole: bool = False) -> tuple[Tick, ...]:
        """Round numbers within the axis."""
        from matplotlib.ticker import MaxNLocator

        factor = 100.0 if percent else 1.0
        locator = MaxNLocator(most, integer=whole, steps=[1, 2, 2.5, 5, 10], min_n_ticks=1 if whole else 2)
        values = [v / factor for v in locator.tick_values(factor * self.low, factor * self.high)]
        step = abs(self.high - self.low) * 1e-9
        return tuple(
            Tick(self(v), f"{round(factor * v, 10):g}") for v in values if self.low - step <= v <= self.high + step
        )


def over(values: Iterable[float], start: float, end: float, margin: float = 0.04) -> Scale:
    """An axis over all finite values, with some room at both ends."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    room = margin * (high - low) or 0.5 * abs(high) or 1.0
    return Scale(low - room, high + room, start, end)


def place(number: float) -> str:
    """A coordinate in as few letters as will do."""
    return f"{number:.1f}".removesuffix(".0")


def path(points: Sequence[tuple[str, str]]) -> str:
    """A line through places."""
    return "M" + "L".join(f"{x},{y}" for x, y in points) if points else ""


def thinned(length: int, most: int) -> list[int]:
    """At most so many indices, evenly spread, with the first and the last."""
    if length <= most:
        return list(range(length))
    return sorted({round(i * (length - 1) / (most - 1)) for i in range(most)})
