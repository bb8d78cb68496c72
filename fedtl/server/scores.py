"""From each client's score to the numbers of a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedtl.metrics.registry import ALWAYS, SMALLER_IS_BETTER

Summary = dict[str, float]
T = TypeVar("T")

UNDEFINED = "undefined"
"""In a record, beside a metric's means over clients: on how many clients' samples it is not defined."""

SCORED, OF, DRAWN_FROM, MISSING = "scored", "of", "drawn_from", "missing"
"""In a record, beside a mean over clients: how many it is over, of how many who should have been scored, and of how
many those were drawn by ``evaluate.clients``; in ``clients.jsonl``: who is missing."""

LACKING = "lacking"
"""In a record, beside a mean over fewer clients than should have been scored: how many are missing.

The rules by which a run chooses among its rounds go by it. Records of earlier versions lack it: their runs chose by the
means alone, keep the models of that choice, and ended by it, so that they go on by it too."""

SCORES = (
    *(f"personal/{data}" for data in ("clients", "target-clients", "validation-clients")),
    *(f"global/{data}" for data in ("clients", "target-clients", "validation-clients")),
    *(f"global/{data}" for data in ("server-test", "target-server-test")),
)
"""Those by which a run may stop: of which model, on which samples. A record has single domains' as well."""


def summarise(values: Sequence[float], samples: Sequence[int], higher_is_better: bool) -> Summary:
    """What clients' values come to.

    Args:
        values: one per client.
        samples: how many test samples each is over; the weights of the weighted mean.
        higher_is_better: which end is the worst.

    Returns:
        ``weighted_mean`` (by samples), ``mean``, ``std`` (of the population of clients), and the means of the
        ``worst_decile`` and ``best_decile``: the ⌈clients / 10⌉ worst and best. All NaN where there is no client.
    """
    if not len(values):
        return dict.fromkeys(("weighted_mean", "mean", "std", "worst_decile", "best_decile"), math.nan)
    v, n = np.asarray(values, np.float64), np.asarray(samples, np.float64)
    ordered = np.sort(v) if higher_is_better else np.sort(v)[::-1]
    tenth = math.ceil(len(v) / 10)
    return {
        "weighted_mean": float((v * n).sum() / n.sum()),
        "mean": float(v.mean()),
        "std": float(v.std()),
        "worst_decile": float(ordered[:tenth].mean()),
        "best_decile": float(ordered[-tenth:].mean()),
    }


UNSEEN = "unseen-"
"""Before the name of the data in scores of clients that never train, as in ``"personal/unseen-clients"``."""

UNSEEN_DATA = (f"{UNSEEN}clients", f"{UNSEEN}target-clients")


def on_unseen(score: str) -> bool:
    """Whether a score, by its name, is of clients that never train."""
    return score.partition("/")[2].startswith(UNSEEN)


def mean_over_clients(score: str) -> bool:
    """Whether a score, by its name as ``"personal/clients/photo"``, is a mean over clients."""
    return score.partition("/")[2].partition("/")[0].endswith("clients")


def of_everybody(score: str) -> tuple[str, str]:
    """Of a score of one domain's clients, as ``"global/clients/photo"``, that of all clients, and the domain.

    A score of another kind is given back as it is, with an empty domain.
    """
    whole, _, domain = score.rpartition("/")
    return (whole, domain) if mean_over_clients(score) and whole.count("/") else (score, "")


def on_validation(score: str) -> bool:
    """Whether a score, by its name as ``"global/validation-clients"``, is on validation samples, not test data."""
    return score.partition("/")[2].startswith("validation")


class Coverage(NamedTuple):
    """Over which part of the clients a mean is.

    Attributes:
        scored: how many it is over.
        of: how many it should be over: those that were asked and hold test samples.
        drawn_from: of how many ``evaluate.clients`` drew those; None if it drew none.
    """

    scored: int
    of: int
    drawn_from: int | None = None

    @classmethod
    def of_row(cls, row: Mapping[str, Any], metric: str | None = None) -> Coverage | None:
        """What a score's record says of it; None where it says nothing.

        Args:
            row: the record.
            metric: whose mean is over those clients alone on whose samples it is defined; if None, over all scored.
        """
        if SCORED not in row or OF not in row:
            return None
        return cls(int(row[SCORED]) - undefined_in(row, metric), int(row[OF]), row.get(DRAWN_FROM))

    @property
    def complete(self) -> bool:
        """Whether nobody is missing who should have been scored."""
        return self.scored >= self.of

    def __str__(self) -> str:
        """The mark that goes beside the mean, as ``"7 of 10 clients"``; empty where it is over all clients."""
        if self.drawn_from is not None:
            drawn = f"{self.of} drawn of {self.drawn_from} clients"
            return drawn if self.complete else f"{self.scored} of the {drawn}"
        return "" if self.complete else f"{self.scored} of {self.of} clients"


def undefined_in(row: Mapping[str, Any], metric: str | None) -> int:
    """On how many scored clients' samples a metric is not defined, as AUC where there is one class."""
    value = row.get(metric or "")
    return int(value.get(UNDEFINED) or 0) if isinstance(value, Mapping) else 0


def marked(text: str, coverage: Coverage | None) -> str:
    """A mean as text, with the mark that it needs: ``"84.29 (7 of 10 clients)"``."""
    mark = "" if coverage is None else str(coverage)
    return f"{text} ({mark})" if mark else text


@dataclass
class ClientScores:
    """Scores of many clients, each with one or two models on its own samples of one kind.

    Attributes:
        clients: their ids.
        samples: test samples of each, or validation samples.
        values: by the model's name (``"global"``, ``"personal"``) and the metric's, one value per client; NaN where the
            metric is not defined on a client's samples.
        pooled: of metrics that are no means over samples, likewise: ``"pooled"``, the metric of all clients' samples
            together, and ``"bins"`` where it follows from a histogram of so many; ``"not_pooled"``, why there is none.
        without: clients that had no personalised model of their own yet, and were scored with the global one.
        personal: which personalised model was scored: ``"adapted"``, ``"stored"``, or ``"partial"`` where only parts of
            it are the client's own; None for none.
        data: which samples they are: the clients' own test samples, ``"clients"``, those of their target,
            ``"target-clients"``, or their validation samples, ``"validation-clients"``; of clients that never train
            ``"unseen-clients"`` and ``"unseen-target-clients"``.
        missing: who should have been scored and was not: it raised, its model was not finite, or it did not answer.
        drawn_from: of how many clients a sample was scored; None if all were to be.
    """

    clients: list[int] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    pooled: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    without: list[int] = field(default_factory=list)
    personal: str | None = None
    data: str = "clients"
    missing: list[int] = field(default_factory=list)
    drawn_from: int | None = None

    @property
    def coverage(self) -> Coverage:
        """How many clients were scored, of how many."""
        return Coverage(len(self.clients), len(self.clients) + len(self.missing), self.drawn_from)

    def summary(self) -> dict[str, Mapping[str, object]]:
        """Scores by name: ``"global/clients"``, ``"personal/clients"``."""
        scores: dict[str, Mapping[str, object]] = {}
        for model, metrics in self.values.items():
            pooled = self.pooled.get(model, {})
            row: dict[str, object] = {
                # Of a metric of classes that is not pooled nobody knows these, so that all have its reason.
                metric: {
                    **self._summary_of(metric, values),
                    **pooled.get(metric, pooled.get(metric.partition("/")[0], {})),
                }
                for metric, values in metrics.items()
            }
            row |= {SCORED: self.coverage.scored, OF: self.coverage.of}
            if self.missing:
                row[LACKING] = len(self.missing)
            if self.drawn_from is not None:
                row[DRAWN_FROM] = self.drawn_from
            if model == "personal":
                row |= {"model": self.personal, "clients_without": len(self.without)}
            scores[f"{model}/{self.data}"] = row
        return scores

    def of_domain(self, name: str, clients: NDArray[np.int64]) -> ClientScores:
        """The scores of a domain's clients, as of data of their own.

        Args:
            name: the domain's.
            clients: who is of it.
        """
        mine = np.isin(self.clients, clients)

        def own(values: Sequence[T]) -> list[T]:
            return [value for value, is_mine in zip(values, mine) if is_mine]

        return replace(
            self,
            clients=own(self.clients),
            samples=own(self.samples),
            values={model: {metric: own(v) for metric, v in each.items()} for model, each in self.values.items()},
            pooled={},
            without=[client for client in self.without if client in clients],
            data=f"{self.data}/{name}",
            missing=[client for client in self.missing if client in clients],
            drawn_from=None if self.drawn_from is None else len(clients),
        )

    def by_client(self) -> dict[str, object]:
        """Every client's own values, as ``clients.jsonl`` keeps them."""
        return {
            "clients": self.clients,
            "samples": self.samples,
            MISSING: self.missing,
            "scores": {f"{model}/{self.data}": metrics for model, metrics in self.values.items()},
        }

    def _summary_of(self, metric: str, values: Sequence[float]) -> Summary:
        """What the values come to over the clients on whose samples the metric is defined."""
        higher_is_better = metric not in SMALLER_IS_BETTER
        if metric in ALWAYS:
            return summarise(values, self.samples, higher_is_better)
        defined = [(value, n) for value, n in zip(values, self.samples) if not math.isnan(value)]
        summary = summarise([value for value, _ in defined], [n for _, n in defined], higher_is_better)
        return {**summary, UNDEFINED: len(values) - len(defined)}
