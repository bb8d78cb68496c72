"""What a comparison of runs comes to, as plain typed values, and what follows from them alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from fedtl.comparison.statistics import SignedRank, Spread, spread

At = Literal["last", "validation"]
Shown = Literal["seeds", "clients"]


@dataclass(frozen=True)
class Reached:
    """What it took to reach the target score.

    Attributes:
        runs: how many reached it, of how many runs in ``of``.
        rounds, bytes, seconds: until then, over the runs that did; None where none did.
    """

    runs: int
    of: int
    rounds: Spread | None
    bytes: Spread | None
    seconds: Spread | None


@dataclass(frozen=True)
class Summary:
    """One group's scores over its seeds.

    Attributes:
        group: its name.
        differs: the keys of the config by which it is told from the others.
        method: the strategy's name.
        score: which model on which data, as ``"personal/clients"``.
        runs: folder by seed.
        rounds: the round of ``last`` by seed.
        clients: how many are scored, by seed; empty where the score is one of the server's.
        coverage: marks of means over fewer clients than should have been scored, or on the samples of fewer of whom the
            metric is defined, by seed: of those of ``last``.
        coverage_by_validation, coverage_best_on_test, coverage_compared: likewise of these.
        last: in the last scored round.
        by_validation: in the round with the best score on validation samples; None without such scores.
        best_on_test: the best of all rounds, chosen on the test data that it is from, and so too good.
        worst_decile: the mean of the worst tenth of the clients; None where single clients are not scored.
        jain: Jain's index over clients; likewise.
        to_target: None without a target.
        variant: the method in a few words, alike in all settings.
        setting: in which it ran: the keys that are not the method's, with their values.
        compared: by seed the score in the round that is compared.
        sent: bytes to and from all clients until that round.
    """

    group: str
    differs: Mapping[str, Any]
    method: str
    score: str
    runs: Mapping[int, str]
    rounds: Mapping[int, int]
    clients: Mapping[int, int]
    coverage: Mapping[int, str]
    coverage_by_validation: Mapping[int, str]
    coverage_best_on_test: Mapping[int, str]
    coverage_compared: Mapping[int, str]
    last: Spread
    by_validation: Spread | None
    best_on_test: Spread
    worst_decile: Spread | None
    jain: Spread | None
    to_target: Reached | None
    variant: str
    setting: Mapping[str, Any]
    compared: Mapping[int, float]
    sent: Spread

    @property
    def value(self) -> Spread:
        """The score in the round that is compared, over seeds."""
        return spread(list(self.compared.values()))


@dataclass(frozen=True)
class Difference:
    """One group minus another, paired.

    Attributes:
        first, second: the groups' names; differences are first minus second.
        refused: why they are not paired, in a sentence; None where they are.
        by_seed: the difference of the two runs of each seed, in the statistic that was asked for.
        over_seeds: of these; None where nothing is paired.
        seeds_low, seeds_high: Student's interval of their mean, for what other seeds would give; None of one seed.
        clients: over how many pairs the interval and the test are: clients, or clients of each seed where every seed
            has clients of its own; 0 where single clients are not scored.
        same_clients: whether the seeds share their clients, whose differences are then averaged over seeds.
        low, high: the bootstrap interval over clients, given these seeds; None where it cannot be had.
        test: Wilcoxon's; None where single clients are not scored.
        p_holm: its p-value with Holm's correction for all differences of this comparison.
        better, equal, worse: how many of ``clients`` are under ``first``.
        shown: ``"seeds"`` if the corrected test over clients and the interval over seeds both show the difference,
            ``"clients"`` if the test alone does, which says nothing about other seeds; None if it does not.
    """

    first: str
    second: str
    refused: str | None = None
    by_seed: Mapping[int, float] | None = None
    over_seeds: Spread | None = None
    seeds_low: float | None = None
    seeds_high: float | None = None
    clients: int = 0
    same_clients: bool = False
    low: float | None = None
    high: float | None = None
    test: SignedRank | None = None
    p_holm: float | None = None
    shown: Shown | None = None
    better: int = 0
    equal: int = 0
    worse: int = 0


class ClientGain(NamedTuple):
    """How much better a client is served than by a baseline.

    Attributes:
        client: its name, or its number where it has none.
        seed: under which seed; None where the gain is a mean over seeds that share their clients, or there is one.
        gain: in the metric, above 0 where the client is better off.
    """

    client: str
    seed: int | None
    gain: float


@dataclass(frozen=True)
class Transfer:
    """Whom a method serves better than a baseline, and whom worse.

    Attributes:
        group, baseline: their names.
        gains: of every client, or of each seed's clients where each seed has its own; the smallest first.
    """

    group: str
    baseline: str
    gains: tuple[ClientGain, ...]

    @property
    def better(self) -> tuple[ClientGain, ...]:
        """The clients that are better off."""
        return tuple(each for each in self.gains if each.gain > 0)

    @property
    def worse(self) -> tuple[ClientGain, ...]:
        """The clients that are worse off: negative transfer."""
        return tuple(each for each in self.gains if each.gain < 0)


@dataclass(frozen=True)
class Ranking:
    """Methods ranked in every setting by their means over the seeds that all of them have there.

    Attributes:
        methods: that ran in all settings, the best first.
        settings: in words.
        ranks: the mean rank of each method; 1 is the best.
        left_out: methods that did not run in all settings.
        without_seed: settings that are left out, as no seed is common to the methods there.
        data_sets: how many different data sets the settings are of.
        chi_square: Friedman's statistic; None where too few methods or settings say nothing.
        f, p: Iman and Davenport's out of it, and its p-value.
        critical_difference: Nemenyi's, at the comparison's ``alpha``.
        nemenyi: p-values of all pairs of methods.
        cliques: methods that Nemenyi's test does not tell apart; all of them where Friedman's test shows nothing.
        two: Wilcoxon's test over the settings, where there are two methods; its effect is above 0 where the first of
            ``methods`` is better.
    """

    methods: tuple[str, ...]
    settings: tuple[str, ...]
    ranks: tuple[float, ...]
    left_out: tuple[str, ...] = ()
    without_seed: tuple[str, ...] = ()
    data_sets: int = 1
    chi_square: float | None = None
    f: float | None = None
    p: float | None = None
    critical_difference: float | None = None
    nemenyi: tuple[tuple[float, ...], ...] | None = None
    cliques: tuple[tuple[str, ...], ...] = ()
    two: SignedRank | None = None


@dataclass(frozen=True)
class Comparison:
    """Groups of runs compared, all out of their records.

    Attributes:
        metric: such as ``accuracy``.
        statistic: what stands for all clients: ``weighted_mean`` (by their samples) or ``mean``.
        smaller_is_better: of this metric.
        at: the round in which groups are paired: each run's ``last``, or its best by ``validation``.
        target: the score of ``to_target``.
        level: of the intervals, as 0.95.
        alpha: the significance level that goes with it, as 0.05.
        resamples: of each bootstrap.
        groups, differences, transfers: in the order of the runs.
        notes: what a reader must know, a sentence each; what cannot be concluded among them.
        ranking: of methods over settings; None where fewer than two methods ran in at least two settings.
    """

    metric: str
    statistic: str
    smaller_is_better: bool
    at: At
    target: float | None
    level: float
    alpha: float
    resamples: int
    groups: tuple[Summary, ...]
    differences: tuple[Difference, ...]
    transfers: tuple[Transfer, ...]
    notes: tuple[str, ...]
    ranking: Ranking | None = None

    @property
    def best_first(self) -> tuple[Summary, ...]:
        """The groups by their scores in the round that is compared; equal ones as they come."""
        sign = 1 if self.smaller_is_better else -1
        return tuple(sorted(self.groups, key=lambda group: sign * group.value.mean))

    def winner(self, difference: Difference) -> tuple[str, str]:
        """Who is better by the test of a difference that has one, and than whom."""
        assert difference.test is not None
        pair = (difference.first, difference.second)
        return pair if (difference.test.effect > 0) != self.smaller_is_better else pair[::-1]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON has it; what is no number is None."""
        whole = asdict(self)
        for row, transfer in zip(whole["transfers"], self.transfers):
            share_better, share_worse = (len(part) / len(transfer.gains) for part in (transfer.better, transfer.worse))
            row |= {"share_better": share_better, "share_worse": share_worse, "worse": transfer.worse}
        plain: dict[str, Any] = _plain(whole)
        return plain

    def _repr_markdown_(self) -> str:
        """What a notebook shows."""
        from fedtl.comparison.formats import markdown

        return markdown(self)


def _plain(value: Any) -> Any:
    if isinstance(value, Spread | SignedRank | ClientGain):
        return _plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
