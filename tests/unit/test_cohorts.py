"""Cohorts: every client once, in order; equal work for the actors; few of them in a short round."""

from __future__ import annotations

import numpy as np
import pytest

from fedtl.grid.cohorts import WORTH, Cohort, cut


def ends(cohorts: list[Cohort]) -> list[int]:
    return [cohort.first + len(cohort.clients) for cohort in cohorts]


@pytest.mark.parametrize("seconds", [None, 0.001, 5 * WORTH, 10 * WORTH, 1000.0])
@pytest.mark.parametrize("actors", [1, 2, 3, 8])
@pytest.mark.parametrize("clients", [0, 1, 2, 7, 20, 1000])
@pytest.mark.parametrize("equal", [True, False])
def test_every_client_once_in_its_place(clients: int, actors: int, seconds: float | None, equal: bool) -> None:
    ids = tuple(np.random.default_rng(0).permutation(5000)[:clients].tolist())
    work = None if equal else np.random.default_rng(1).integers(1, 1000, clients)
    cohorts = cut(ids, actors, work, seconds)
    assert [client for cohort in cohorts for client in cohort.clients] == list(ids)
    assert [cohort.first for cohort in cohorts] == [0, *ends(cohorts)][: len(cohorts)]
    assert sum(cohort.work for cohort in cohorts) == (clients if work is None else work.sum())
    assert all(cohort.clients for cohort in cohorts)


def test_a_short_round_is_one_equal_piece_for_each_actor() -> None:
    assert [len(cohort.clients) for cohort in cut(tuple(range(20)), 2, None, 0.01)] == [10, 10]
    assert [len(cohort.clients) for cohort in cut(tuple(range(1000)), 4, None, 0.01)] == [250] * 4


def test_stacked_cohorts_are_one_piece_for_each_actor_however_long_the_round() -> None:
    for seconds in (None, 1000.0):
        assert [len(c.clients) for c in cut(tuple(range(20)), 2, None, seconds, in_one_piece=True)] == [10, 10]


def test_pieces_are_equal_in_work_not_in_clients() -> None:
    work = np.array([90] + [10] * 9 + [1] * 90)
    first, second = cut(tuple(range(100)), 2, work, 0.001)
    assert abs(first.work - second.work) <= 90
    assert len(first.clients) < len(second.clients)


def test_a_long_round_ends_with_small_pieces() -> None:
    """However wrong the estimate, actors end within a small piece of each other."""
    cohorts = cut(tuple(range(1000)), 2, None, 100.0)
    assert len(cohorts) <= 10
    assert [cohort.work for cohort in cohorts[:2]] == [256, 256]  # half of each actor's share
    assert max(cohort.work for cohort in cohorts[-2:]) <= 1000 / 2 / 10
    # While nothing is known about a kind of message, its last clients are alone: a slow one delays no other.
    assert [len(cohort.clients) for cohort in cut(tuple(range(6)), 2)][-3:] == [1, 1, 1]


def test_a_long_cohort_begins_where_the_sums_tree_has_a_large_node() -> None:
    assert all(end % 32 == 0 for end in ends(cut(tuple(range(1000)), 2, None, 100.0))[:2])


def test_alone_keeps_places_and_deaths() -> None:
    alone = Cohort(4, (11, 12, 13), 6.0, deaths=2).alone()
    assert alone == [Cohort(4, (11,), 2.0, 2), Cohort(5, (12,), 2.0, 2), Cohort(6, (13,), 2.0, 2)]
