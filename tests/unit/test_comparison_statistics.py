"""The statistics of comparisons, held to other people's numbers and to closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fedtl.comparison.bootstrap import BCA, Stratum, interval, intervals, weighted_mean
from fedtl.comparison.statistics import (
    EXACT,
    holm,
    interval_over_seeds,
    jain,
    signed_rank,
    smallest_p,
    spread,
)

# Darwin's maize, cross- against self-fertilised: Wilcoxon (1945), in scipy's documentation with p = 0.041259765625 and
# the smaller sum of ranks 24, of 120 in all.
MAIZE = np.array([6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75], np.float64)


def equal_weights(differences: np.ndarray) -> Stratum:
    return Stratum(differences, np.ones(len(differences)))


def test_the_signed_rank_test_is_wilcoxons_own_example() -> None:
    test = signed_rank(MAIZE)
    assert test.p == pytest.approx(0.041259765625, rel=1e-12)
    assert test.pairs == 15
    assert test.effect == pytest.approx((96 - 24) / 120)
    assert signed_rank(-MAIZE) == (test.p, -test.effect, 15)


def test_the_effect_size_is_that_of_a_worked_example() -> None:
    # Lowry's, with a zero and a tie, as on Wikipedia's page of the test: the signed ranks
    # 1.5 + 1.5 - 3 - 4 - 5 - 6 + 7 + 8 + 9 come to 9, of 45 in all.
    after = np.array([125, 115, 130, 140, 140, 115, 140, 125, 140, 135], np.float64)
    before = np.array([110, 122, 125, 120, 140, 124, 123, 137, 135, 145], np.float64)
    test = signed_rank(after - before)
    assert test.effect == pytest.approx(9 / 45)
    assert test.pairs == 9


def test_ties_are_exact_by_hand() -> None:
    # Ranks of 1, 1, -1, 3: 2, 2, 2, 4. Of the 16 sums of signed ranks in favour, at most 2: {} and three times {2};
    # at least 8: as many. Ours is 8, so p = 2 * 4 / 16.
    assert signed_rank(np.array([1.0, 1.0, -1.0, 3.0])).p == pytest.approx(0.5)


def test_ties_are_exact_as_scipys_permutations_are() -> None:
    differences = np.random.default_rng(1).integers(-3, 5, 12).astype(np.float64)
    kept = differences[differences != 0]
    ranks = stats.rankdata(np.abs(kept))

    def positive(signed: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.where(signed > 0, ranks, 0.0).sum(axis)

    theirs = stats.permutation_test((kept,), positive, permutation_type="samples", n_resamples=np.inf, vectorized=True)
    assert signed_rank(differences).p == pytest.approx(theirs.pvalue, rel=1e-9)


@pytest.mark.parametrize("pairs", [6, 15, 40])
def test_without_ties_it_is_scipys_exact_test(pairs: int) -> None:
    differences = np.random.default_rng(pairs).normal(0.4, 1.0, pairs)
    assert signed_rank(differences).p == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue, rel=1e-9)


def test_many_pairs_are_close_to_the_exact_test() -> None:
    differences = np.random.default_rng(0).normal(0.15, 1.0, EXACT + 100)
    exact = stats.wilcoxon(differences, method="exact").pvalue
    assert signed_rank(differences).p == pytest.approx(exact, rel=0.05)


def test_equal_scores_say_nothing() -> None:
    assert signed_rank(np.zeros(5)) == (1.0, 0.0, 0)
    assert signed_rank(np.array([0.0, 0.0, 1.0])) == (1.0, 1.0, 1)


def test_rounding_makes_no_ranks() -> None:
    # 0.8 - 0.7 and 0.3 - 0.2 are one difference; as floats they are two.
    assert 0.8 - 0.7 != 0.3 - 0.2
    assert signed_rank(np.array([0.8 - 0.7, -(0.3 - 0.2)])).effect == 0.0


@pytest.mark.parametrize("pairs", [1, 2, 5, 8])
def test_the_smallest_p_is_reached_when_all_agree(pairs: int) -> None:
    assert signed_rank(np.arange(1.0, pairs + 1)).p == pytest.approx(smallest_p(pairs)) == 2.0 ** (1 - pairs)


def test_holm_by_hand() -> None:
    # Holm's steps on four p-values: 4 * 0.005, 3 * 0.01, 2 * 0.03, and 0.04, which may not fall below 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_jain_by_hand() -> None:
    # Jain, Chiu and Hawe (1984): k of n users that share equally, and others with nothing, have k/n.
    assert jain(np.array([1.0, 1.0, 0.0, 0.0])) == pytest.approx(0.5)
    assert jain(np.full(7, 0.3)) == pytest.approx(1.0)
    assert jain(np.array([1.0, 2.0, 3.0])) == pytest.approx(36 / 42)
    assert math.isnan(jain(np.zeros(3)))
    assert math.isnan(jain(np.array([1.0, -1.0]))), "of R², say"


def test_the_deviation_is_the_samples() -> None:
    assert spread([2, 4, 4, 4, 5, 5, 7, 9]) == (5.0, pytest.approx(math.sqrt(32 / 7)), 8)
    assert spread([0.5]) == (0.5, None, 1)


def test_the_interval_is_the_analytic_one_of_many_clients() -> None:
    differences = np.random.default_rng(3).normal(0.02, 0.1, 400)
    half = 1.96 * differences.std(ddof=1) / math.sqrt(400)
    ends = interval([equal_weights(differences)], 0.95, 4000, seed=0)
    assert ends == pytest.approx((differences.mean() - half, differences.mean() + half), abs=0.1 * half)


def test_the_interval_of_several_seeds_draws_within_each() -> None:
    # Two seeds far apart: clients drawn across them would make the interval as wide as their distance.
    generator = np.random.default_rng(4)
    strata = [equal_weights(generator.normal(center, 0.1, 200)) for center in (-1.0, 1.0)]
    half = 1.96 * math.sqrt(sum(each.differences.var(ddof=1) / 200 for each in strata)) / 2
    ends = interval(strata, 0.95, 4000, seed=0)
    assert ends is not None
    assert ends[1] - ends[0] == pytest.approx(2 * half, rel=0.15)
    assert ends[0] < weighted_mean(strata) < ends[1]


def test_the_interval_covers_as_often_as_it_says() -> None:
    # Of 300 intervals of 20 clients each about 95 % cover the truth; five standard deviations of that count below.
    generator = np.random.default_rng(5)
    covered = 0
    for number in range(300):
        low, high = interval([equal_weights(generator.normal(1.0, 1.0, 20))], 0.95, 400, seed=number) or (0.0, 0.0)
        covered += low <= 1.0 <= high
    assert covered >= 300 * 0.92 - 5 * math.sqrt(300 * 0.92 * 0.08)


def test_the_interval_can_be_had_again_and_says_when_it_cannot_be_had() -> None:
    differences = np.random.default_rng(6).normal(size=30)
    strata = [equal_weights(differences)]
    assert interval(strata, 0.95, 500, seed=1) == interval(strata, 0.95, 500, seed=1)
    assert interval(strata, 0.95, 500, seed=1) != interval(strata, 0.95, 500, seed=2)
    assert interval([equal_weights(np.array([0.1]))], 0.95, 500, seed=1) is None
    assert interval([equal_weights(np.full(4, 0.1))], 0.95, 500, seed=1) == pytest.approx((0.1, 0.1))


def scipys(strata: list[Stratum], resamples: int, seed: int) -> tuple[float, float]:
    """The interval as scipy finds it alone, with draws of its own."""

    def statistic(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        parts = [
            (each.differences[index] * each.weights[index]).sum(axis) / each.weights[index].sum(axis)
            for each, index in zip(strata, drawn)
        ]
        return np.mean(parts, axis=0)

    clients = [np.arange(len(each.differences)) for each in strata]
    for method in ("BCa", "percentile") if sum(map(len, clients)) <= BCA else ("percentile",):
        ends = stats.bootstrap(
            clients,
            statistic,
            n_resamples=resamples,
            batch=2_000_000 // sum(map(len, clients)),
            method=method,
            random_state=np.random.default_rng(seed),
        ).confidence_interval
        if np.isfinite(ends).all():
            break
    return ends.low, ends.high


@pytest.mark.filterwarnings("ignore::scipy.stats.DegenerateDataWarning")
def test_intervals_that_are_found_together_are_those_that_scipy_finds_one_by_one() -> None:
    generator = np.random.default_rng(8)
    means = []
    for sizes in ((20, 20, 20), (5, 12), (3, 3), (2,), (400, 400)):
        samples = [generator.integers(10, 60, size).astype(np.float64) for size in sizes]
        for step in (0.05, 0.05, 0.25, 0.0):  # of few values, many draws equal the mean but for the rounding
            noise = [generator.normal(0, 0.1, size) for size in sizes]
            differences = [np.round(each / step) * step if step else each for each in noise]
            means.append([Stratum(*each) for each in zip(differences, samples)])
        means.append([equal_weights(each) for each in noise])
        means.append([Stratum(*each) for each in zip(noise, samples[::-1]) if len(each[0]) == len(each[1])])
    varying = [strata for strata in means if strata and any(np.ptp(each.differences) for each in strata)]
    together = intervals(varying, 0.95, 300, seed=3)
    for strata, ends in zip(varying, together):
        assert ends == pytest.approx(scipys(strata, 300, 3), rel=1e-9, abs=1e-12)
    assert together == [interval(strata, 0.95, 300, seed=3) for strata in varying]


def test_draws_that_are_made_in_several_parts_are_scipys() -> None:
    strata = [equal_weights(np.random.default_rng(9).normal(size=500)) for _ in range(2)]
    assert 2_000_000 // 1000 < 2500
    assert interval(strata, 0.95, 2500, seed=0) == pytest.approx(scipys(strata, 2500, 0), rel=1e-9)


def test_the_interval_over_seeds_is_students() -> None:
    # 5 ± t(0.975, 7 degrees of freedom) = 2.3646 times sqrt(32/7) / sqrt(8).
    half = 2.3646 * math.sqrt(32 / 7) / math.sqrt(8)
    assert interval_over_seeds([2, 4, 4, 4, 5, 5, 7, 9], 0.95) == pytest.approx((5 - half, 5 + half), rel=1e-4)
    assert interval_over_seeds([0.1], 0.95) is None
    assert interval_over_seeds([0.0, 0.0], 0.95) == (0.0, 0.0)


def test_weights_count_samples() -> None:
    stratum = Stratum(np.array([0.0, 1.0]), np.array([3.0, 1.0]))
    assert weighted_mean([stratum]) == pytest.approx(0.25)
    assert weighted_mean([stratum, equal_weights(np.array([1.0, 1.0]))]) == pytest.approx(0.625)


def test_a_null_study_finds_a_difference_as_often_as_the_level_says() -> None:
    """200 studies in which both methods serve 20 clients equally well: about 5 % are below 0.05."""
    generator = np.random.default_rng(7)
    samples = generator.integers(10, 60, 20)
    below = 0
    for _ in range(200):
        chance = generator.uniform(0.6, 0.95, 20)
        ours, theirs = (generator.binomial(samples, chance) / samples for _ in range(2))
        below += signed_rank(ours - theirs).p < 0.05
    assert below <= 200 * (0.05 + 0.03)
