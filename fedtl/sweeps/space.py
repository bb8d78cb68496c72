"""What a search may choose from: lists, and ranges of numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedtl.choice import ConfigError, Options, shown, validate

EDGE = 0.05
"""The part of a range, from either end, in which a chosen value asks whether the range was wide enough."""

DIGITS = 4
"""Significant digits of a number that is drawn from a range."""

EXACT = 12
"""Of one that is some steps from a range's low end: as it would be written, without what floating point adds."""

REPEATED = 10_000
"""Draws in a row that have been drawn before, after which numbers of more digits are drawn."""


class Range(Options):
    """Numbers from ``low`` to ``high``; whole ones if both are.

    Attributes:
        low, high: its ends, which belong to it.
        log: whether it is even in the logarithm.
        step: between the numbers from ``low`` on; any number if not given, of whole ones 1.
    """

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None

    @property
    def whole(self) -> bool:
        """Whether its numbers are whole."""
        return isinstance(self.low, int) and isinstance(self.high, int) and not isinstance(self.step, float)

    @property
    def count(self) -> int | None:
        """How many there are, where they are finitely many."""
        return int((self.high - self.low) / self._step + 1e-9) + 1 if self._step else None

    def numbers(self) -> tuple[int | float, ...] | None:
        """All of them in order, where they are finitely many."""
        return None if self.count is None else tuple(map(self._number, range(self.count)))

    def draw(self, rng: np.random.Generator, digits: int = DIGITS) -> int | float:
        """One of them at random; where there is no end of them, one of so many significant digits."""
        low, high = (math.log(end) if self.log else end for end in (self.low, self.high))
        if self.count is not None and not self.log:
            return self._number(int(rng.integers(self.count)))
        value = low + (high - low) * float(rng.random())
        value = math.exp(value) if self.log else value
        if self.count is not None and self._step:
            place = int((value - self.low) / self._step)
            near = range(max(0, place - 1), min(self.count, place + 3))
            return min(map(self._number, near), key=lambda number: abs(number - value))
        return min(max(_rounded(value, digits), self.low), self.high)

    def edge(self, value: int | float) -> str | None:
        """``"smallest"`` or ``"largest"`` where a value lies at an end; the largest may lie below ``high``."""
        largest = self.high if self.count is None else self._number(self.count - 1)
        low, high, at = (math.log(each) if self.log else each for each in (self.low, largest, value))
        if high <= low:
            return None
        place = (at - low) / (high - low)
        return "smallest" if place <= EDGE else "largest" if place >= 1 - EDGE else None

    @property
    def _step(self) -> int | float | None:
        return self.step or (1 if self.whole else None)

    def _number(self, place: int) -> int | float:
        number = self.low + place * (self._step or 0)
        return number if self.whole else _rounded(number, EXACT)


@dataclass(frozen=True)
class Listed:
    """Values one by one."""

    values: tuple[Any, ...]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.values)

    def numbers(self) -> tuple[Any, ...]:
        """All of them in order."""
        return self.values

    def draw(self, rng: np.random.Generator, digits: int = DIGITS) -> Any:
        """One of them at random."""
        return self.values[int(rng.integers(len(self.values)))]

    def edge(self, value: Any) -> str | None:
        """As of a range, where all are numbers and there are three at least."""
        if len(self.values) < 3 or not all(isinstance(each, (int, float)) for each in self.values):
            return None
        return {min(self.values): "smallest", max(self.values): "largest"}.get(value)


Axis = Range | Listed
Space = Mapping[str, Axis]
Values = dict[str, Any]


def read_space(table: Mapping[str, Any], key: str) -> dict[str, Axis]:
    """Read a space: a list, or a table with ``low`` and ``high``, for each dotted key of the config.

    Raises:
        ConfigError: one of them is neither.
    """
    return {name: _axis(value, f"{key}.{name}") for name, value in table.items()}


def _axis(value: Any, key: str) -> Axis:
    if isinstance(value, (list, tuple)):
        return Listed(read_values(value, key))
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key} = {shown(value)}: give a list, or a range as {{ low = 0.001, high = 0.1 }}")
    axis = validate(Range, value, key)
    if axis.low >= axis.high:
        raise ConfigError(f"{key}.low = {axis.low}: should be smaller than high, which is {axis.high}")
    if axis.log and axis.low <= 0:
        raise ConfigError(f"{key}.low = {axis.low}: a range with log = true begins above 0")
    if axis.step is not None and axis.step <= 0:
        raise ConfigError(f"{key}.step = {axis.step}: should be above 0")
    return axis


def read_values(values: Any, key: str) -> tuple[Any, ...]:
    """A list of values, each once.

    Raises:
        ConfigError: it is empty or no list, or has a value twice.
    """
    if not isinstance(values, (list, tuple)) or not values:
        raise ConfigError(f"{key} = {shown(values)}: give a list of values, as [0.1, 1.0]")
    for place, value in enumerate(values):
        if value in values[:place]:
            raise ConfigError(f"{key} = {shown(values)}: has {value!r} twice")
    return tuple(values)


def points(space: Space, key: str) -> list[Values]:
    """All combinations of a space's values.

    Raises:
        ConfigError: a range has no end of them.
    """
    axes: list[Sequence[Any]] = []
    for name, axis in space.items():
        numbers = axis.numbers()
        if numbers is None:
            raise ConfigError(f"{key}.{name}: a grid needs a list, or a range with a step")
        axes.append(numbers)
    return [dict(zip(space, values)) for values in itertools.product(*axes)]


def size(space: Space) -> float:
    """How many combinations there are; infinity if there is no end of them."""
    return math.prod(math.inf if axis.count is None else axis.count for axis in space.values())


def draws(space: Space, count: int, seed: int) -> list[Values]:
    """``count`` different combinations at random; all of them where there are no more.

    Of a narrow range, as from 0.99 to 0.999, there may be fewer numbers of so many digits: of the rest each has more.
    """
    if size(space) <= count:
        return points(space, "")
    drawn, rng, digits, repeated = list[Values](), np.random.default_rng(seed), DIGITS, 0
    while len(drawn) < count:
        values = {name: axis.draw(rng, digits) for name, axis in space.items()}
        if values not in drawn:
            drawn.append(values)
            repeated = 0
            continue
        repeated += 1
        if repeated == REPEATED:
            digits, repeated = digits + 1, 0
    return drawn


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")
