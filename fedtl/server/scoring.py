"""Scoring in a run: when clients are scored, who is missing from a score, and the scores that replies come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtl.clients.serving import Serving
from fedtl.metrics import Metrics
from fedtl.metrics.registry import ALWAYS
from fedtl.server.gather import ScoreReplies, by_client
from fedtl.server.scores import UNSEEN, ClientScores
from fedtl.wire import messages as m


@dataclass
class Evaluation:
    """When and how clients are scored.

    Attributes:
        every: rounds between scores; the last round is always scored.
        personal: ``"adapted"``, the model that a client would have now by its local update from the present
            global model, or ``"stored"``, the one that it kept when it was last sampled.
        clients: score a sample of this many clients, drawn anew each time; all if None.
        metrics: that are scored besides accuracy and loss.
        always: what every score has.
    """

    every: int = 1
    personal: str = "adapted"
    clients: int | None = None
    metrics: Metrics = field(default_factory=Metrics)
    always: tuple[str, ...] = ALWAYS


@dataclass(frozen=True)
class Asked:
    """What a round's evaluate message asked for.

    Attributes:
        clients: who was to be scored.
        scores_global: whether with the global model.
        personal: which of its own models besides.
        tested: who holds samples to score on, by the data's name in scores; not all data need be there.
        drawn_from: of how many clients those were drawn; None if all were to be scored.
        metrics: besides accuracy and loss.
        unseen: whether they are clients that never train.
        always: what every score has.
    """

    clients: Sequence[int]
    scores_global: bool
    personal: Serving
    tested: Mapping[str, NDArray[np.int64]]
    drawn_from: int | None = None
    metrics: Metrics = field(default_factory=Metrics)
    unseen: bool = False
    always: tuple[str, ...] = ALWAYS

    def missing(self, data: str, scored: Sequence[int], raised: set[int]) -> list[int]:
        """Who was to be scored on some data, and was not.

        Args:
            data: its name in scores, as ``"clients"``.
            scored: who was.
            raised: who failed.
        """
        if data in self.tested:
            holders = np.intersect1d(self.clients, self.tested[data])
            return [int(client) for client in np.setdiff1d(holders, np.asarray(scored, np.int64))]
        # Who holds test samples is not known; of those on target data nobody may.
        return sorted(raised - set(scored)) if scored or data in ("clients", f"{UNSEEN}clients") else []

    def scores(self, replies: ScoreReplies) -> list[ClientScores]:
        """Clients' scores on each kind of data that anybody was, or should have been, scored on."""
        raised = {client for client, _ in replies.failures}
        scores = []
        for data, prefix in m.DOMAINS.items():
            data = f"{UNSEEN}{data}" if self.unseen else data
            own = by_client(m.of_domain(replies.columns, prefix))
            missing = self.missing(data, own.get(m.CLIENTS, []), raised)
            if own.get(m.CLIENTS) or missing:
                scores.append(self._scores_on(data, own, missing))
                for model in scores[-1].values if own.get(m.CLIENTS) else ():
                    losses, samples = scores[-1].values[model]["loss"], scores[-1].samples
                    mean = float(np.average(losses, weights=samples)) if self.metrics else np.nan
                    scores[-1].pooled[model] = self._pooled(f"{prefix}{model}", prefix, replies, mean)
        return scores

    def _pooled(self, name: str, domain: str, replies: ScoreReplies, loss: float) -> dict[str, dict[str, Any]]:
        """Metrics of all clients' samples together, by name, each as the record has it."""
        start = f"{name}/"
        kinds = self.metrics.tables
        own = {key.removeprefix(start): parts for key, parts in replies.tables.items() if key.startswith(start)}
        tables = {
            table: kind().joined([own[table][client] for client in sorted(own[table])])
            for table, kind in kinds.items()
            if table in own
        }
        predictions = None
        if name in replies.predictions:
            parts, labels = replies.predictions[name], replies.predictions[f"{domain}{m.LABELS}"]
            of_all = [np.concatenate([each[client] for client in sorted(parts)]) for each in (labels, parts)]
            predictions = of_all[0], of_all[1]
        return self.metrics.pooled(tables, predictions, loss)

    def _scores_on(self, data: str, columns: Mapping[str, list[Any]], missing: list[int]) -> ClientScores:
        """Clients' scores on one kind of data."""
        clients, samples = columns.get(m.CLIENTS, []), columns.get(m.SAMPLES, [])
        scores = ClientScores(clients, samples, data=data, missing=missing)
        if self.drawn_from is not None:
            scores.drawn_from = len(self.tested[data]) if data in self.tested else self.drawn_from
        personalises = self.personal is not Serving.NONE
        if personalises:
            scores.personal = self.personal.value
        scores.without = [client for client, without in zip(clients, columns.get(m.NO_PERSONAL_MODEL, ())) if without]
        for model, is_asked in (("global", self.scores_global), ("personal", personalises)):
            if losses := columns.get(f"{model}/loss_sum"):
                start, correct = f"{model}{m.METRIC}", columns.get(f"{model}/correct")
                right = {} if correct is None else {"accuracy": [each / n for each, n in zip(correct, samples)]}
                scores.values[model] = {
                    **right,
                    "loss": [loss / n for loss, n in zip(losses, samples)],
                    **{key.removeprefix(start): each for key, each in columns.items() if key.startswith(start)},
                }
            elif is_asked and not clients:  # nobody could be scored, and the record says so
                scores.values[model] = {name: [] for name in self.always}
        return scores


def mean_accuracies(scores: Sequence[ClientScores]) -> dict[str, float]:
    """The mean over clients of each model's accuracy, or loss, as ``"global/clients/accuracy"``."""
    return {
        f"{model}/{each.data}/{metric}": float(np.mean(values[metric]))
        for each in scores
        for model, values in each.values.items()
        if values[metric := "accuracy" if "accuracy" in values else "loss"]
    }


def scores_at_server(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The global model's scores at the server, by the name of model and data.

    Those of the target, and of each domain that no client has, have a prefix.
    """
    held_out = {key: value for key, value in metrics.items() if key.startswith(m.HELD_OUT)}
    source = {key: value for key, value in metrics.items() if not key.startswith((m.TARGET, m.HELD_OUT))}
    target = {key.removeprefix(m.TARGET): value for key, value in metrics.items() if key.startswith(m.TARGET)}
    named = {"global/server-test": source, "global/target-server-test": target}
    for key, value in held_out.items():
        domain, _, metric = key.removeprefix(m.HELD_OUT).partition("/")
        named.setdefault(f"global/{m.HELD_OUT}{domain}", {})[metric] = value
    return {name: scores for name, scores in named.items() if scores}
