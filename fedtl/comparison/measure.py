"""One run's numbers of one score, out of its records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError, nearest
from fedtl.comparison.groups import Group
from fedtl.comparison.statistics import Values, jain
from fedtl.runs.best import serving_score, validated_by
from fedtl.runs.history import (
    COSTS,
    FURTHER,
    SMALLER_IS_BETTER,
    Point,
    Run,
    Series,
    mean_over_clients,
    of_everybody,
    on_validation,
)

STATISTICS = ("weighted_mean", "mean")
DATA = ("target-clients", "clients", "target-server-test", "server-test")
"""What groups are compared on, best first: only the clients' own data say who is served; a target is what is asked."""


class ClientValues(NamedTuple):
    """Every scored client's value in one round.

    Attributes:
        clients: their numbers, ascending.
        values, samples: ``[clients]``.
    """

    clients: NDArray[np.int64]
    values: Values
    samples: Values


@dataclass(frozen=True)
class Question:
    """What is asked of every run.

    Attributes:
        metric, statistic: as in :meth:`fedtl.runs.history.Run.scores`.
        level, resamples, seed: of bootstrap intervals.
    """

    metric: str
    statistic: str
    level: float = 0.95
    resamples: int = 9999
    seed: int = 0

    @property
    def alpha(self) -> float:
        """The significance level that goes with the intervals', as 0.05 with 0.95."""
        return round(1 - self.level, 10)

    @property
    def smaller_is_better(self) -> bool:
        """Of the metric."""
        return self.metric in SMALLER_IS_BETTER

    def better(self, differences: Values) -> Values:
        """Differences whose sign says which is better: above 0 the first."""
        return -differences if self.smaller_is_better else differences


class Measured:
    """One run's numbers of one score.

    Attributes:
        run, score, question: of what, which, and what is asked.
        curve: the statistic over the scored rounds, without those in which it is no number.
        skipped: the last scored round, if that is one of those.
    """

    def __init__(self, run: Run, score: str, question: Question) -> None:
        self.run, self.score, self.question = run, score, question
        whole = run.scores(question.metric, question.statistic)[score]
        self.curve = _finite(whole)
        self.skipped = int(whole.rounds[-1]) if whole.rounds[-1] != self.curve.rounds[-1] else None
        self._by_round: dict[int, ClientValues | None] = {}

    @property
    def last_round(self) -> int:
        """The last round that has the score."""
        return int(self.curve.rounds[-1])

    @property
    def last(self) -> float:
        """Its value there."""
        return float(self.curve.values[-1])

    @cached_property
    def best_on_test(self) -> Point:
        """The best value of all rounds, and its round."""
        return self.run.best(self.question.metric, self.question.statistic)[self.score]

    @cached_property
    def validated_round(self) -> int | None:
        """The first of the rounds that are best on validation samples; None where there is no such score."""
        point = self.run.validated(self.question.metric, self.question.statistic).get(self.score)
        return None if point is None else point.round

    @cached_property
    def chosen_among_fewer(self) -> bool:
        """Whether a best round had to be chosen by means from which clients are missing, as there was no other."""
        chosen = [(self.score, self.best_on_test.round)]
        if self.validated_round is not None:
            chosen += [(name, self.validated_round) for name in (self.score, validated_by(self.score))]
        return not all(self.run.complete(name, [round]).all() for name, round in chosen)

    def mark(self, round: int) -> str:
        """Over which part of the clients the score is in a round; empty where it is over all, or that is not known."""
        return str(self.run.coverage(self.score, round, self.question.metric) or "")

    def at(self, round: int) -> float:
        """The score in a round that has it."""
        return float(self.curve.values[np.flatnonzero(self.curve.rounds == round)[0]])

    def clients(self, round: int) -> ClientValues | None:
        """Every client's value in a round; None where single clients are not scored."""
        if round not in self._by_round:
            self._by_round[round] = self._read(round)
        return self._by_round[round]

    def _read(self, round: int) -> ClientValues | None:
        score, domain = of_everybody(self.score)
        for record in reversed(self.run.clients):
            if record["round"] != round:
                continue
            for one in (record, *(record.get(kind) or {} for kind in FURTHER)):
                values = (one.get("scores") or {}).get(score, {}).get(self.question.metric)
                if values is not None:
                    return self._of_domain(self._client_values(one["clients"], values, one.get("samples")), domain)
        return None

    def _of_domain(self, clients: ClientValues, domain: str) -> ClientValues | None:
        """The clients of a domain, all if it is empty; None where it is not recorded who is of it."""
        if not domain:
            return clients
        domains = self.run.domains_of(clients.clients.tolist())
        if domains is None:
            return None
        mine = np.array(domains) == domain
        return ClientValues(*(each[mine] for each in clients))

    def worst_decile(self, round: int) -> float | None:
        """The mean of the worst tenth of the clients, as it was recorded."""
        if not mean_over_clients(self.score):
            return None
        curve = self.run.scores(self.question.metric, "worst_decile").get(self.score)
        values = [] if curve is None else curve.values[curve.rounds == round]
        return float(values[0]) if len(values) else None

    def jain(self, round: int) -> float | None:
        """Jain's index over the clients."""
        clients = self.clients(round)
        return None if clients is None or not len(clients.values) else jain(clients.values)

    def costs_to(self, target: float) -> dict[str, float] | None:
        """Rounds, bytes and seconds until the score first was as good as the target; None where it never was.

        Rounds from whose mean clients are missing do not count where there are others.
        """
        reached = self.curve.values <= target if self.question.smaller_is_better else self.curve.values >= target
        whole = self.run.complete(self.score, self.curve.rounds)
        if whole.any():
            reached &= whole
        if not reached.any():
            return None
        return self.costs_until(int(self.curve.rounds[np.argmax(reached)]))

    def costs_until(self, round: int) -> dict[str, float]:
        """Rounds, bytes and seconds at the end of a round."""
        costs = {}
        for axis in COSTS:
            cost = self.run.costs(axis)  # type: ignore[arg-type]
            costs[axis] = float(cost.values[np.flatnonzero(cost.rounds == round)[0]])
        return costs

    def _client_values(self, clients: Sequence[int], values: Sequence[float | None], samples: object) -> ClientValues:
        numbers = np.array([np.nan if value is None else float(value) for value in values], np.float64)
        weights = np.asarray(samples if samples is not None else np.ones(len(numbers)), np.float64)
        names = np.asarray(clients, np.int64)
        if not len(names) == len(numbers) == len(weights):
            file = self.run.path / "clients.jsonl"
            raise ConfigError(
                f"{file}: a round has lists of unequal length: {len(names)}, {len(numbers)}, {len(weights)}"
            )
        if self.question.statistic == "mean":
            weights = np.ones(len(numbers))
        order = np.argsort(names)
        order = order[np.isfinite(numbers[order])]
        return ClientValues(names[order], numbers[order], weights[order])


def choose_scores(groups: Sequence[Group], question: Question, score: str | None) -> tuple[dict[str, str], list[str]]:
    """Which score each group is compared by.

    Args:
        groups: of runs.
        question: what is asked of them.
        score: for all; or data alone, as "unseen-clients": the personalised model on these where there is one, else
            the global one; if None, likewise on the data that most groups are scored on.

    Returns:
        Scores by the groups' names, and sentences about groups and runs that have none.

    Raises:
        ConfigError: no run has the score or the metric.
    """
    by_group = {group.name: _scores_of(group, question) for group in groups}
    known = set().union(*by_group.values())
    if not known:
        where = ", ".join(str(run.path) for group in groups for run in group.runs.values())
        _raise_unless_scored(groups, question)
        raise ConfigError(f"no scored round is recorded yet in {where}")
    of_data = {name.partition("/")[2] for name in known}
    if score is not None and score not in of_data:
        if score not in known:
            raise ConfigError(f"--score = {score!r}: no run has it: {nearest(score, known)}")
        chosen = {name: score for name, have in by_group.items() if score in have}
        what = f"has no {question.metric} of {score}"
    else:
        data = score or _data_of_most(list(by_group.values()))
        chosen = {
            name: serving for name, have in by_group.items() if (serving := serving_score(have, data)) is not None
        }
        what = f"has no {question.metric} on {data}"
    return chosen, [f"Left out: {name} {what}." for name in by_group if name not in chosen]


def measure(group: Group, score: str, question: Question) -> tuple[dict[int, Measured], list[str]]:
    """A group's runs by seed, and sentences about those that lack the score."""
    measured, notes = {}, []
    for seed, run in group.runs.items():
        if score in _scores_of_run(run, question):
            measured[seed] = Measured(run, score, question)
        else:
            notes.append(f"Left out: {run.path} has no {question.metric} of {score}.")
    return measured, notes


def _finite(curve: Series) -> Series:
    kept = np.isfinite(curve.values)
    return Series(curve.rounds[kept], curve.values[kept])


def _scores_of(group: Group, question: Question) -> set[str]:
    return set().union(*(_scores_of_run(run, question) for run in group.runs.values()))


def _scores_of_run(run: Run, question: Question) -> set[str]:
    """The scores on test data that are a number in some round."""
    try:
        curves = run.scores(question.metric, question.statistic)
    except ConfigError:
        return set()
    return {name for name, curve in curves.items() if np.isfinite(curve.values).any() and not on_validation(name)}


def _raise_unless_scored(groups: Sequence[Group], question: Question) -> None:
    """Raise the sentence of a run that is scored, but not by this metric."""
    for group in groups:
        for run in group.runs.values():
            run.scores(question.metric, question.statistic)


def _data_of_most(scores: Sequence[set[str]]) -> str:
    """The data that most groups are scored on; of equals the first of :data:`DATA`, of others where there is none."""
    others = sorted({name.partition("/")[2] for name in set().union(*scores)})
    having: Mapping[str, int] = {
        each: sum(serving_score(have, each) is not None for have in scores) for each in (*DATA, *others)
    }
    return max(DATA if any(having[each] for each in DATA) else others, key=lambda each: having[each])
