"""A clock's parts add up to what passed, whatever is nested in what; actors are counted by what they do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fedtl.clock import OTHER, Clock, Headcount


class Time:
    """A time that passes when it is told to, and in whole seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def passes(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def time() -> Time:
    return Time()


def test_each_moment_belongs_to_the_innermost_part(time: Time) -> None:
    clock = Clock(now=time)
    clock.start()
    time.passes(1)
    with clock.part("outer"):
        time.passes(2)
        with clock.part("inner"):
            time.passes(4)
        time.passes(8)
        with clock.part("outer"):  # within itself it is one part still
            time.passes(16)
    time.passes(32)
    assert clock.stop() == {OTHER: 33, "outer": 26, "inner": 4}


def test_laps_follow_each_other_without_a_gap(time: Time) -> None:
    clock = Clock(now=time)
    clock.start()
    with clock.part("a"):
        time.passes(1)
        assert clock.lap() == {OTHER: 0, "a": 1}
        time.passes(2)
    time.passes(4)
    assert clock.lap() == {"a": 2, OTHER: 4}
    clock.start()
    time.passes(8)
    assert clock.lap() == {OTHER: 8}


def test_a_part_ends_where_something_is_raised(time: Time) -> None:
    clock = Clock(now=time)
    clock.start()
    with pytest.raises(ValueError, match="no"), clock.part("a"):
        time.passes(1)
        raise ValueError("no")
    time.passes(2)
    assert clock.stop() == {OTHER: 2, "a": 1}


def test_a_clock_that_nobody_started_looks_at_no_time() -> None:
    def never() -> float:
        raise AssertionError("it looked")

    clock, headcount = Clock(settle=never, now=never), Headcount(now=never)
    with clock.part("a"), clock.part("b"):
        headcount.now(at_work=1)


def test_a_device_is_waited_for_before_the_time_is_taken(time: Time) -> None:
    """What a part has only asked a GPU for is that part's time."""
    asked: Iterator[int] = iter([0, 5, 0])
    clock = Clock(settle=lambda: time.passes(next(asked)), now=time)
    clock.start()
    with clock.part("asks"):
        time.passes(1)
    assert clock.stop() == {OTHER: 0, "asks": 6}


def test_actors_are_counted_by_what_they_do(time: Time) -> None:
    headcount = Headcount(now=time)
    headcount.start()
    headcount.now(for_server=2)
    time.passes(1)
    headcount.now(at_work=2)
    time.passes(10)
    headcount.now(at_work=1, for_others=1)
    time.passes(100)
    assert headcount.lap() == {Headcount.AT_WORK: 120, Headcount.FOR_OTHERS: 100, Headcount.FOR_SERVER: 2}
    time.passes(1000)  # a lap changes nothing in what they do
    assert headcount.lap() == {Headcount.AT_WORK: 1000, Headcount.FOR_OTHERS: 1000, Headcount.FOR_SERVER: 0}
