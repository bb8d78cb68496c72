"""Runs compared: gathered, measured, paired."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from fedtl.choice import ConfigError, nearest
from fedtl.comparison import notes as remarks
from fedtl.comparison.find import Loaded, load_all
from fedtl.comparison.groups import Group, find_references, group_runs
from fedtl.comparison.measure import STATISTICS, Measured, Question, choose_scores, measure
from fedtl.comparison.only import only_groups
from fedtl.comparison.pairs import Runs, difference, intervals_over_clients, pair, transfer
from fedtl.comparison.ranking import rank_methods
from fedtl.comparison.result import At, Comparison, Difference, Reached, Shown, Summary, Transfer
from fedtl.comparison.statistics import Spread, holm, spread
from fedtl.runs.history import Run, shared_metric
from fedtl.strategies import BASELINES

AT = ("last", "validation")


def compare(
    runs: Loaded | Run | str | Path | Iterable[Run | str | Path],
    *,
    score: str | None = None,
    metric: str | None = None,
    statistic: str = "weighted_mean",
    against: str | None = None,
    target: float | None = None,
    at: At = "last",
    only: Iterable[str] = (),
    level: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> Comparison:
    """Compare runs by their records; nothing is trained.

    Runs that differ in their seed alone are one group. Groups are compared on pairs: the same clients under the same
    seed.

    Args:
        runs: runs, their folders, or folders that hold runs; or all of these as they were read before.
        score: which model on which data, as ``"global/clients"``; or data alone: the personalised model where a group
            has one, else the global one. If not given, this on the clients' test data.
        metric: such as ``accuracy`` or ``loss``; if not given, what all compared runs are shown by, else accuracy.
        statistic: what stands for all clients: ``weighted_mean`` (by their samples), or ``mean``.
        against: the group that all others are compared with, by its name, its method or by ``key=value``; each pair if
            not given. Of a method that was run on several data sets or models, the group of the same.
        target: also count rounds, bytes and seconds until this score.
        at: compare each run's ``last`` scored round, or its best by ``validation``.
        only: methods by name, and ``key=value`` of settings, as ``"alpha=0.1"``; all if empty.
        level: of the intervals.
        resamples: of each bootstrap; 0 for no intervals over clients.
        seed: of the bootstraps' draws.

    Raises:
        ConfigError: there is no such run, score, metric, or group, or nothing is scored.
    """
    _check(statistic, at, level)
    loaded = runs if isinstance(runs, Loaded) else load_all([runs] if isinstance(runs, Run | str | Path) else runs)
    groups, notes = group_runs(loaded.runs, loaded.study)
    groups = only_groups(groups, only)
    metric = metric or shared_metric(run for group in groups for run in group.runs.values())
    _check_target(target, metric)
    question = Question(metric, statistic, level, resamples, seed)
    references = None if against is None else find_references(groups, against)
    chosen, unscored = choose_scores(groups, question, score)
    notes = [*loaded.notes, *notes, *unscored]
    measured: dict[str, dict[int, Measured]] = {}
    for group in groups:
        if group.name in chosen:
            measured[group.name], lacking = measure(group, chosen[group.name], question)
            notes += lacking
    kept = [group for group in groups if measured.get(group.name)]
    if references is not None:
        references = [group for group in references if group in kept]
        if not references:
            raise ConfigError(f"--against = {against!r}: it has no {metric} to compare with")
    rounds = {group.name: _rounds(group, measured[group.name], at) for group in kept}
    summaries = tuple(_summary(group, rounds[group.name], target) for group in kept)
    pairs = _pairs(kept, references)
    paired = [pair(rounds[a], rounds[b]) for a, b in pairs]
    over_clients = intervals_over_clients(paired, question)
    differences = [difference(a, b, each, ends, question) for (a, b), each, ends in zip(pairs, paired, over_clients)]
    comparison = Comparison(
        metric=metric,
        statistic=statistic,
        smaller_is_better=question.smaller_is_better,
        at=at,
        target=target,
        level=level,
        alpha=question.alpha,
        resamples=resamples,
        groups=summaries,
        differences=tuple(_corrected(differences, question.alpha)),
        transfers=tuple(_transfers(kept, rounds, question)),
        notes=(),
        ranking=rank_methods(kept, summaries, question),
    )
    return replace(comparison, notes=(*notes, *remarks.of(comparison, kept, rounds)))


def _check(statistic: str, at: str, level: float) -> None:
    """Check what does not depend on the runs."""
    if statistic not in STATISTICS:
        raise ConfigError(f"--statistic = {statistic!r} is unknown: {nearest(statistic, STATISTICS)}")
    if at not in AT:
        raise ConfigError(f"--at = {at!r} is unknown: {nearest(at, AT)}")
    if not 0 < level < 1:
        raise ConfigError(f"level = {level}: should lie between 0 and 1")


def _check_target(target: float | None, metric: str) -> None:
    if target is not None and not math.isfinite(target):
        raise ConfigError(f"--target = {target}: should be a finite number")
    if target is not None and metric == "accuracy" and not 0 <= target <= 1:
        raise ConfigError(f"--target = {target:g}: accuracy is a share between 0 and 1, as 0.9")


def _rounds(group: Group, measured: Mapping[int, Measured], at: At) -> Runs:
    """A group's runs, each with the round that is compared."""
    if at == "last":
        return {seed: (one, one.last_round) for seed, one in measured.items()}
    rounds = {}
    for seed, one in measured.items():
        round = one.validated_round
        if round is None:
            raise ConfigError(
                f"--at = 'validation': {one.run.path} has no scores on validation samples; set data.validation_share, "
                "or leave --at out"
            )
        rounds[seed] = (one, round)
    return rounds


def _pairs(groups: Sequence[Group], references: Sequence[Group] | None) -> list[tuple[str, str]]:
    if references is None:
        return [(first.name, second.name) for first, second in combinations(groups, 2)]
    return [
        (group.name, reference.name)
        for group in groups
        for reference in references
        if group not in references and (len(references) == 1 or group.setting == reference.setting)
    ]


def _corrected(differences: Sequence[Difference], alpha: float) -> list[Difference]:
    """Differences with Holm's correction for all that were tested, and what they show."""
    adjusted = iter(holm([each.test.p for each in differences if each.test is not None]))
    rows = []
    for each in differences:
        if each.test is None:
            rows.append(each)
            continue
        p_holm = next(adjusted)
        rows.append(replace(each, p_holm=p_holm, shown=_shown(each, each.test.effect) if p_holm < alpha else None))
    return rows


def _shown(significant: Difference, effect: float) -> Shown:
    """By what a difference that is significant over clients is shown: the seeds have to say the same."""
    ends = (significant.seeds_low, significant.seeds_high)
    return "seeds" if all(end is not None and end * effect > 0 for end in ends) else "clients"


def _transfers(groups: Sequence[Group], rounds: Mapping[str, Runs], question: Question) -> list[Transfer]:
    """Each group against each baseline among the groups: those of the same data and model, if there are any."""
    rows = []
    for rank, method in enumerate(BASELINES):
        baselines = [group for group in groups if group.method == method]
        for group in groups:
            if group.method in BASELINES[: rank + 1]:
                continue
            alike = [each for each in baselines if each.setting == group.setting]
            for baseline in alike or baselines:
                row = transfer(group.name, baseline.name, pair(rounds[group.name], rounds[baseline.name]), question)
                if row is not None:
                    rows.append(row)
    return rows


def _summary(group: Group, compared: Runs, target: float | None) -> Summary:
    measured = {seed: one for seed, (one, _) in compared.items()}
    runs = list(measured.values())
    validated = {seed: (one, round) for seed, one in measured.items() if (round := one.validated_round) is not None}
    clients = {seed: one.clients(one.last_round) for seed, one in measured.items()}
    return Summary(
        group=group.name,
        differs=group.differs,
        method=group.method,
        score=runs[0].score,
        runs={seed: str(one.run.path) for seed, one in measured.items()},
        rounds={seed: one.last_round for seed, one in measured.items()},
        clients={seed: len(each.clients) for seed, each in clients.items() if each is not None},
        coverage=_marks({seed: (one, one.last_round) for seed, one in measured.items()}),
        coverage_by_validation=_marks(validated),
        coverage_best_on_test=_marks({seed: (one, one.best_on_test.round) for seed, one in measured.items()}),
        coverage_compared=_marks(compared),
        last=spread([one.last for one in runs]),
        by_validation=spread([one.at(r) for one, r in validated.values()]) if len(validated) == len(runs) else None,
        best_on_test=spread([one.best_on_test.value for one in runs]),
        worst_decile=_spread_of_all([one.worst_decile(one.last_round) for one in runs]),
        jain=_spread_of_all([one.jain(one.last_round) for one in runs]),
        to_target=None if target is None else _reached(runs, target),
        variant=group.variant,
        setting=group.setting,
        compared={seed: one.at(round) for seed, (one, round) in compared.items()},
        sent=spread([one.costs_until(round)["bytes"] for one, round in compared.values()]),
    )


def _marks(rounds: Runs) -> dict[int, str]:
    """By seed the marks that a score needs in some round of each run; without those that need none."""
    return {seed: mark for seed, (one, round) in rounds.items() if (mark := one.mark(round))}


def _spread_of_all(values: Sequence[float | None]) -> Spread | None:
    """A number over seeds; None unless each has one."""
    numbers = [value for value in values if value is not None]
    return spread(numbers) if len(numbers) == len(values) else None


def _reached(runs: Sequence[Measured], target: float) -> Reached:
    costs = [cost for one in runs if (cost := one.costs_to(target)) is not None]
    if not costs:
        return Reached(0, len(runs), None, None, None)
    rounds, sent, seconds = (spread([cost[axis] for cost in costs]) for axis in ("rounds", "bytes", "seconds"))
    return Reached(len(costs), len(runs), rounds, sent, seconds)
