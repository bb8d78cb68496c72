"""What is reported of a round: its clients, failures, bytes, losses, scores and times."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from fedtl.server.exchange import Vectors
from fedtl.server.scores import ClientScores
from fedtl.wire import messages as m

METHOD, MESSAGES, SCORING = "method", "messages", "scoring"
"""Parts of the server's time in a profile: sampling, sums and the method's step; handing out and gathering
messages; scoring on its own test set."""


@dataclass
class Round:
    """What happened in one round.

    Attributes:
        round: its number, from 1.
        clients: who was sampled.
        failures: who raised, and what it said.
        bytes_down, bytes_up: what the method's messages carry between server and clients, counted per client
            as if each were alone on its machine.
        trained: how many of them trained: ``train`` is a mean over these; None where nobody says.
        train: each term's mean over the clients, weighted by their samples.
        steps: mini-batches trained on, all clients together.
        scores: by name, as ``"global/server-test"``.
        client_scores: every client's own, where the clients were scored, for each domain of their test samples.
        seconds, seconds_scoring: the whole round's, and of them the scoring's.
        worker_seconds: where a profile is made, the workers' by what they did: ``"training"`` and ``"scoring"``,
            each by parts.
        profile: where the time of server and workers went; empty unless a profile is made.
        bytes_by_name: ``bytes_down`` and ``bytes_up``, by what they are: ``{"down": {"w": …}, "up": {"w": …}}``.
        ends: why the run ends with this round, though it is not the last one; empty where it goes on.
    """

    round: int
    clients: list[int] = field(default_factory=list)
    failures: list[tuple[int, str]] = field(default_factory=list)
    bytes_down: int = 0
    bytes_up: int = 0
    trained: int | None = None
    train: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    scores: dict[str, Mapping[str, object]] = field(default_factory=dict)
    client_scores: list[ClientScores] = field(default_factory=list)
    seconds: float = 0.0
    seconds_scoring: float = 0.0
    worker_seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    profile: dict[str, Any] = field(default_factory=dict)
    bytes_by_name: dict[str, dict[str, int]] = field(default_factory=dict)
    ends: str = ""

    @property
    def sends_more_than_a_model(self) -> bool:
        """Whether the method's own messages carry more than a model down and one up, as those of terms may."""
        names = {name for sent in self.bytes_by_name.values() for name in sent}
        return any(name not in ("w", "statistics") and not name.startswith(m.OF_TERMS) for name in names)

    def add_bytes_down(self, content: RecordDict, clients: int) -> None:
        """Count what a train message carries to so many clients."""
        shared = {**m.unpack_all(content, m.ARRAYS), **m.unpack_all(content, m.CONTEXT)}
        down = {name: clients * vector.nbytes for name, vector in shared.items()}
        down |= {name: rows.nbytes for name, rows in m.unpack_all(content, m.EACH).items()}
        self.bytes_down = sum(down.values())
        self.bytes_by_name["down"] = down

    def add_bytes_up(self, sums: Vectors, rows: Vectors, clients: int) -> None:
        """Count what so many clients uploaded, each by itself in float32."""
        up = {name: clients * total.numel() * 4 for name, total in sums.items()}
        up |= {name: tensor.numel() * 4 for name, tensor in rows.items()}
        self.bytes_up = sum(up.values())
        self.bytes_by_name["up"] = up

    def add_worker_seconds(self, kind: str, seconds: Mapping[str, float]) -> None:
        """Add where the workers' time went, by parts of ``"training"`` or ``"scoring"``."""
        for part, more in seconds.items():
            total = self.worker_seconds.setdefault(kind, {})
            total[part] = total.get(part, 0.0) + more

    def add_client_scores(
        self,
        scores: Sequence[ClientScores],
        failures: Sequence[tuple[int, str]],
        domains: Mapping[str, NDArray[np.int64]],
    ) -> None:
        """Add clients' scores, and who was not scored: it failed, or is missing from a score.

        Args:
            scores: on each kind of data.
            failures: who failed, and what it said.
            domains: the clients of each domain, who are summarised by themselves on their own test samples.
        """
        self.client_scores += scores
        own = [each for each in scores if each.data == "clients"]
        by_domain = [each.of_domain(name, clients) for each in own for name, clients in domains.items()]
        for each in (*scores, *by_domain):
            self.scores |= each.summary()
        missing = {client for each in scores for client in each.missing} - {client for client, _ in failures}
        unscored = [*failures, *((client, "it gave no score") for client in missing)]
        self.failures = sorted([*self.failures, *((client, f"scoring: {text}") for client, text in unscored)])


OnRound = Callable[[Round, NDArray[np.float32]], None]
"""Called after a round with its report and the new global model."""
