"""Ranks over settings: the tests' numbers against the paper and scipy, and what is said of too few settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import friedmanchisquare

from fedtl.comparison import compare
from fedtl.comparison.formats import sections
from fedtl.comparison.friedman import cliques, friedman, smallest_friedman_p
from tests.made_up import ALPHA, made_up_study

# Demšar 2006, table 6: ranks of C4.5, C4.5+m, C4.5+cf, C4.5+m+cf by their AUC on 14 data sets.
DEMSAR = np.array(
    [
        [4, 3, 2, 1],
        [1, 2, 3, 4],
        [4, 1, 2, 3],
        [4, 1, 3, 2],
        [4, 2, 3, 1],
        [1, 2.5, 4, 2.5],
        [3, 2, 4, 1],
        [2.5, 2.5, 4, 1],
        [4, 3, 2, 1],
        [2.5, 2.5, 2.5, 2.5],
        [4, 2.5, 1, 2.5],
        [3, 2, 4, 1],
        [4, 1, 2, 3],
        [3, 1, 4, 2],
    ]
)
SETTINGS = {ALPHA: (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)}


def test_the_papers_example() -> None:
    result = friedman(DEMSAR, 0.05, smaller_is_better=True)
    assert np.round(result.ranks, 3).tolist() == [3.143, 2.0, 2.893, 1.964]
    assert round(result.chi_square, 2) == 9.28
    assert round(result.f, 2) == 3.69
    assert 0.01 < result.p < 0.05  # F(3, 39) has the critical value 2.85
    assert round(result.critical_difference, 2) == 1.25
    assert [len(each) for each in cliques(result.ranks, result.critical_difference)] == [4]
    # At 0.10 C4.5 is worse than both with m; C4.5+cf belongs to either group.
    weaker = friedman(DEMSAR, 0.10, smaller_is_better=True)
    assert round(weaker.critical_difference, 2) == 1.12
    assert [each.tolist() for each in cliques(weaker.ranks, weaker.critical_difference)] == [[3, 1, 2], [2, 0]]
    assert np.argwhere(np.triu(weaker.nemenyi < 0.10)).tolist() == [[0, 1], [0, 3]]


@pytest.mark.parametrize(("methods", "critical"), [(3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_nemenyis_critical_values(methods: int, critical: float) -> None:
    values = np.random.default_rng(0).random((20, methods))
    difference = friedman(values, 0.05).critical_difference
    assert difference / math.sqrt(methods * (methods + 1) / 120) == pytest.approx(critical, abs=1e-3)


def test_without_ties_it_is_scipys_statistic() -> None:
    values = np.random.default_rng(1).random((9, 5))
    result = friedman(values, 0.05)
    assert result.chi_square == pytest.approx(friedmanchisquare(*values.T).statistic)
    np.testing.assert_allclose(friedman(-values, 0.05, smaller_is_better=True).ranks, result.ranks)


def test_equal_methods_do_not_differ_and_perfect_order_has_the_chance_of_it() -> None:
    same = friedman(np.tile(np.arange(6.0)[:, None], 3), 0.05)
    assert (same.chi_square, same.p) == (0.0, 1.0)
    ordered = friedman(np.tile([3.0, 2.0, 1.0], (6, 1)), 0.05)
    assert math.isinf(ordered.f)
    assert ordered.p == smallest_friedman_p(6, 3) == 6.0**-5


def test_a_studys_methods_are_ranked_by_their_means(tmp_path: Path) -> None:
    def values(method: str, setting: Mapping[str, Any], seed: int, round: int) -> NDArray[np.float64]:
        mean = {"pfedme": 0.8, "fedavg": 0.7, "local": 0.6}[method] + 0.02 * setting[ALPHA]
        return mean + np.array([-0.01, 0.0, 0.01]) - 0.001 * seed

    study = made_up_study(tmp_path, values, axes=SETTINGS, failed={("local", 2, 0)})
    comparison = compare(study.folder, resamples=0)
    ranking = comparison.ranking
    assert ranking is not None
    assert ranking.methods == ("pfedme", "fedavg", "local")
    assert ranking.ranks == (1.0, 2.0, 3.0)
    assert ranking.settings == tuple(f"alpha={each}" for each in SETTINGS[ALPHA])
    assert ranking.p == pytest.approx(6.0**-5)
    assert ranking.cliques == (("pfedme", "fedavg"), ("fedavg", "local"))  # CD is 1.35
    section = next(each for each in sections(comparison) if each.title.startswith("Mean ranks over 6 settings"))
    assert section.rows == (("pfedme", "1.00", "local"), ("fedavg", "2.00", "-"), ("local", "3.00", "-"))
    assert "Iman-Davenport F(2, 10) infinite" in section.title
    assert any("the 6 settings are of 1 data set, so they say little about other data" in n for n in comparison.notes)
    assert [group.group for group in comparison.groups][:2] == ["pfedme 0", "pfedme 1"]  # the study's names


def test_only_common_seeds_are_ranked(tmp_path: Path) -> None:
    def values(method: str, setting: Mapping[str, Any], seed: int, round: int) -> NDArray[np.float64]:
        # Under seed 1 all are much better; "fedavg" would win where it alone has that seed.
        return np.full(3, {"pfedme": 0.3, "fedavg": 0.2, "local": 0.1}[method] + 0.5 * seed)

    failed = {("pfedme", 0, 1), ("local", 1, 0), ("fedavg", 1, 1)}
    study = made_up_study(tmp_path, values, axes={ALPHA: (0.1, 0.5, 1.0)}, seeds=(0, 1), failed=failed)
    comparison = compare(study.folder, resamples=0)
    assert comparison.ranking is not None
    assert comparison.ranking.ranks == (1.0, 2.0, 3.0)
    assert comparison.ranking.without_seed == ("alpha=0.5",)
    assert "Left out of the ranks, as the methods have no seed in common there: alpha=0.5." in comparison.notes


def test_few_settings_are_not_tested(tmp_path: Path) -> None:
    def values(method: str, setting: Mapping[str, Any], seed: int, round: int) -> NDArray[np.float64]:
        return np.full(3, 0.5 + 0.1 * (method == "pfedme"))

    few = made_up_study(tmp_path / "few", values, axes={ALPHA: (0.1, 0.2, 0.3, 0.4)}, seeds=(0,))
    comparison = compare(few.folder, resamples=0)
    assert comparison.ranking is not None
    assert comparison.ranking.p is None
    assert "4 settings are too few to conclude anything from ranks: 5 at least are tested." in comparison.notes
    # Without a run in some setting a method is not ranked; of the two that are left Wilcoxon's test remains.
    methods, failed = ("fedavg", "pfedme", "local"), {("local", 1, 0)}
    two = made_up_study(tmp_path / "two", values, methods, axes=SETTINGS, seeds=(0,), failed=failed)
    comparison = compare(two.folder, resamples=0)
    assert comparison.ranking is not None
    assert comparison.ranking.left_out == ("local",)
    assert comparison.ranking.two is not None
    assert comparison.ranking.two.p == 2 / 2**6
    assert comparison.ranking.two.effect == 1.0, "of the best against the other, in whichever order they ran"
    assert any("fedavg differ at 0.05 (Wilcoxon's signed-rank test, p = 0.031)" in note for note in comparison.notes)


def test_two_names_of_one_config_are_two_methods_of_a_study(tmp_path: Path) -> None:
    def values(method: str, setting: Mapping[str, Any], seed: int, round: int) -> NDArray[np.float64]:
        return 0.5 + 0.01 * np.arange(4.0) + 0.02 * seed

    study = made_up_study(tmp_path, values, methods=("one", "other"))
    comparison = compare(study.folder, resamples=0)
    assert {group.variant for group in comparison.groups} == {"one", "other"}
    assert {group.last.seeds for group in comparison.groups} == {3}
    assert all(each.shown is None for each in comparison.differences)
