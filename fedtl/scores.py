"""From each client's score to the numbers of a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

Summary = dict[str, float]


def summarise(values: Sequence[float], samples: Sequence[int], higher_is_better: bool) -> Summary:
    """What clients' values come to.

    Args:
        values: one per client.
        samples: how many test samples each is over; the weights of the weighted mean.
        higher_is_better: which end is the worst.

    Returns:
        ``weighted_mean`` (by samples), ``mean``, ``std`` (of the population of clients), and the means of the
        ``worst_decile`` and ``best_decile``: the ⌈clients / 10⌉ worst and best.
    """
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


@dataclass
class ClientScores:
    """Scores of many clients, each with one or two models on its own test samples.

    Attributes:
        clients: their ids.
        samples: test samples of each.
        accuracy, loss: by the model's name (``"global"``, ``"personal"``), one value per client.
        without: clients that had no personalised model of their own yet, and were scored with the global one.
        personal: which personalised model was scored: ``"fresh"``, ``"last"``, or ``"kept"`` where only parts of
            it are the client's own; None for none.
        data: whose samples they are: the clients' own, ``"clients"``, or those of their target, ``"target-clients"``.
    """

    clients: list[int] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    accuracy: dict[str, list[float]] = field(default_factory=dict)
    loss: dict[str, list[float]] = field(default_factory=dict)
    without: list[int] = field(default_factory=list)
    personal: str | None = None
    data: str = "clients"

    def summary(self) -> dict[str, Mapping[str, object]]:
        """Scores by name: ``"global/clients"``, ``"personal/clients"``."""
        scores: dict[str, Mapping[str, object]] = {}
        for model, accuracy in self.accuracy.items():
            row: dict[str, object] = {
                "accuracy": summarise(accuracy, self.samples, higher_is_better=True),
                "loss": summarise(self.loss[model], self.samples, higher_is_better=False),
            }
            if model == "personal":
                row |= {"model": self.personal, "clients_without": len(self.without)}
            scores[f"{model}/{self.data}"] = row
        return scores

    def by_client(self) -> dict[str, object]:
        """Every client's own values, as ``clients.jsonl`` keeps them."""
        return {
            "clients": self.clients,
            "samples": self.samples,
            "scores": {
                f"{model}/{self.data}": {"accuracy": self.accuracy[model], "loss": self.loss[model]}
                for model in self.accuracy
            },
        }
