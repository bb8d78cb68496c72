"""Which of a run's rounds is the best, and from when on no better one is waited for.

Both follow from the scores in the record alone: a run that was interrupted comes to the same as one that was not.

Means over different clients do not compare: without its hardest client a round looks better than any other. So a round
from whose score clients are missing is chosen only where no round has the score of all who should have been scored.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from fedtl.choice import ConfigError
from fedtl.metrics.registry import SMALLER_IS_BETTER
from fedtl.server.scores import LACKING, Coverage, marked, on_validation

if TYPE_CHECKING:
    from fedtl.config.schema import Stop

MODELS = ("personal", "global")
"""Which model serves a client: its own, where it has one."""

VALIDATION = "validation-clients"

MEAN = "weighted_mean"


class Point(NamedTuple):
    """A number and the round it is from."""

    round: int
    value: float


def serving_score(names: Collection[str], data: str) -> str | None:
    """The score on some data of the model that serves the clients; None if none of these is one."""
    return next((name for model in MODELS if (name := f"{model}/{data}") in names), None)


def over_clients(value: Any) -> Any:
    """A metric's value as a record has it; of clients' values their mean."""
    return value.get(MEAN) if isinstance(value, Mapping) else value


def first_best(values: ArrayLike, metric: str, ranks: ArrayLike | None = None) -> int | None:
    """The place of the first of the best values; None if none is finite.

    Args:
        values: as ``[n]``.
        metric: which of two values is better.
        ranks: ``[n]``; only finite values of the highest rank among them are looked at, however good others are.
    """
    signed = _sign(metric) * np.asarray(values, np.float64)
    among = np.isfinite(signed)
    if not among.any():
        return None
    if ranks is not None:
        rank = np.asarray(ranks)
        among &= rank == rank[among].max()
    return int(np.argmax(np.where(among, signed, -np.inf)))


def validated_by(score: str) -> str:
    """The score on validation samples by which the round of another one is chosen: that of the same model."""
    return f"{score.partition('/')[0]}/{VALIDATION}"


@dataclass(frozen=True)
class Followed:
    """A score that is followed from round to round.

    Attributes:
        score: as ``"personal/validation-clients"``.
        metric: as ``"accuracy"`` or ``"loss"``; over clients it is the mean weighted by samples.
    """

    score: str
    metric: str

    def value(self, scores: Mapping[str, Mapping[str, Any]]) -> float | None:
        """Its value in a round with these scores; None where the round lacks it, NaN where it is not finite."""
        if self.score not in scores:
            return None
        value = over_clients(scores[self.score].get(self.metric))
        return float(value) if value is not None and math.isfinite(value) else math.nan

    def lacking(self, scores: Mapping[str, Mapping[str, Any]]) -> Coverage | None:
        """Over which part of the clients its mean is; None where nobody is missing from it, or nothing says so."""
        row = scores.get(self.score) or {}
        return Coverage.of_row(row) if row.get(LACKING) else None

    def better(self, value: float, than: float, by: float = 0.0) -> bool:
        """Whether a value is better than another one by more than ``by``."""
        return _sign(self.metric) * (value - than) > by

    def shown(self, value: float) -> str:
        """A value as a sentence has it."""
        return f"{100 * value:.2f} %" if self.metric == "accuracy" else f"{value:.4f}"

    def shown_gap(self, gap: float) -> str:
        """A difference of two values, likewise."""
        return f"{100 * gap:g} points" if self.metric == "accuracy" else f"{gap:g}"


class Rule(Protocol):
    """What sees the scores of one round after another."""

    def add(self, round: int, scores: Mapping[str, Mapping[str, Any]]) -> None:
        """Take a finished round into account."""


class BestRound:
    """The best of a run's rounds so far: of equals the first.

    A round from whose score clients are missing comes behind all those from whose score nobody is.

    Args:
        followed: the score that decides.

    Attributes:
        lacking: of rounds that were the best so far over which part of the clients, where somebody is missing.
    """

    def __init__(self, followed: Followed) -> None:
        self.followed = followed
        self.lacking: dict[int, Coverage] = {}
        self._records: list[Point] = []
        """The rounds that were better than all before, in order."""

    def add(self, round: int, scores: Mapping[str, Mapping[str, Any]]) -> None:
        """Take a finished round into account."""
        value = self.followed.value(scores)
        if value is None or math.isnan(value):
            return
        lacking = self.followed.lacking(scores)
        if self._records:
            last = self._records[-1]
            whole, whole_before = lacking is None, last.round not in self.lacking
            if whole < whole_before or (whole == whole_before and not self.followed.better(value, last.value)):
                return
        if lacking is not None:
            self.lacking[round] = lacking
        self._records.append(Point(round, value))

    def until(self, round: int | None = None) -> Point | None:
        """The best of the rounds up to this one, or of all; None while none has a finite score."""
        return next((p for p in reversed(self._records) if round is None or p.round <= round), None)


class Stopped(NamedTuple):
    """How a run ended before its last round.

    Attributes:
        round: the last one.
        because: why no more were run.
    """

    round: int
    because: str

    def __str__(self) -> str:
        return f"stopped after round {self.round}: {self.because}"


class EarlyStop:
    """Whether a run has waited long enough for a better score.

    A round counts as better if its score is better than the best one so far by more than ``min_delta``; after
    ``patience`` scored rounds in a row that are not, the run ends. The first round from whose score nobody is missing
    is better than all before it, and from then on others do not count: their means are over other clients.

    Args:
        stop: patience and margin.
        score: the one that is followed.
        first: the first round that counts.

    Attributes:
        ended: the round after which the run ends; None while it goes on.
    """

    def __init__(self, stop: Stop, score: str, first: int = 1) -> None:
        self._stop, self._first = stop, first
        self.followed = Followed(score, stop.metric)
        self._best: Point | None = None
        self._lacking: Coverage | None = None
        """Over which part of the clients the best score is, where somebody is missing from it."""
        self._waited = 0
        self.ended: int | None = None

    def add(self, round: int, scores: Mapping[str, Mapping[str, Any]]) -> None:
        """Take a finished round into account; one without the score does not count, one after the end neither."""
        value = self.followed.value(scores)
        if value is None or round < self._first or self.ended is not None:
            return
        if not math.isnan(value):
            lacking, best = self.followed.lacking(scores), self._best
            if best is not None and lacking is not None and self._lacking is None:
                return
            first_of_all = lacking is None and self._lacking is not None
            if best is None or first_of_all or self.followed.better(value, best.value, self._stop.min_delta):
                self._best, self._lacking, self._waited = Point(round, value), lacking, 0
                return
        self._waited += 1
        if self._waited >= self._stop.patience:
            self.ended = round

    def before(self, rounds: int) -> Stopped | None:
        """How the run has ended before the last of so many rounds; None if it has not."""
        return None if self.ended is None or self.ended >= rounds else Stopped(self.ended, self.because)

    @property
    def because(self) -> str:
        """Why the run ended, without its round."""
        of = f"{self.followed.metric} of {self.followed.score}, stop.patience = {self._stop.patience}"
        if self._best is None:
            return f"no score was a number ({of})"
        margin = f" by more than {self.followed.shown_gap(self._stop.min_delta)}" if self._stop.min_delta else ""
        best = marked(self.followed.shown(self._best.value), self._lacking)
        return f"no better{margin} than {best} in round {self._best.round} ({of})"


def early_stop(stop: Stop, names: Collection[str], first: int) -> EarlyStop:
    """The rule of a config's ``[stop]``.

    Args:
        stop: the table.
        names: of the scores that the run will have.
        first: the first round that counts.

    Raises:
        ConfigError: the run will not have the score.
    """
    score = stop.score or serving_score(names, VALIDATION)
    if score is None:
        raise ConfigError(f"stop: {NOBODY_VALIDATES}")
    if score not in names:
        if on_validation(score) and not any(map(on_validation, names)):
            raise ConfigError(f"stop.score = {score!r}: {NOBODY_VALIDATES}")
        raise ConfigError(f"stop.score = {score!r}: this run has no such score; it has {', '.join(sorted(names))}")
    return EarlyStop(stop, score, first)


def best_by(metric: str, names: Collection[str]) -> Followed:
    """The score that decides under ``evaluate.keep_best``; see :func:`early_stop`."""
    score = serving_score(names, VALIDATION)
    if score is None:
        raise ConfigError(f"evaluate.keep_best: {NOBODY_VALIDATES}")
    return Followed(score, metric)


NOBODY_VALIDATES = "no client holds validation samples, by which a round could be chosen: set data.validation_share"


def _sign(metric: str) -> float:
    return -1.0 if metric in SMALLER_IS_BETTER else 1.0
