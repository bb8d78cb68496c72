"""The way up: clients' replies, who failed, and who did not answer in time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from fedtl.failure import RunError, may_fail
from fedtl.server.reduce import UploadSums
from fedtl.wire import messages as m

Failure = tuple[int, str]
"""A client, and what it said."""


@dataclass
class Replies:
    """What came back to one question.

    Attributes:
        columns: metrics by name, one entry for each client that answered.
        failures: who did not, and why.
        seconds: where the workers' time went, by parts; empty unless a profile is made.
    """

    columns: dict[str, list[Any]] = field(default_factory=lambda: {m.CLIENTS: [], m.SAMPLES: []})
    failures: list[Failure] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def add_error(self, reply: Message, nodes: Sequence[int]) -> int:
        """Add a reply without content; gives the client whose it is."""
        client = nodes.index(reply.metadata.src_node_id)
        self.failures.append((client, str(reply.error.reason)))
        return client

    def add_seconds(self, reply: Message) -> None:
        """Add where a worker's time went, if its reply says so."""
        for part, seconds in m.seconds_of(reply.content).items():
            self.seconds[part] = self.seconds.get(part, 0.0) + seconds


@dataclass
class TrainReplies(Replies):
    """What came back from the clients that were to train.

    Attributes:
        uploads: what they sent.
        steps: mini-batches trained on, all clients together.
    """

    uploads: UploadSums = field(default_factory=UploadSums)
    steps: int = 0


@dataclass
class ScoreReplies(Replies):
    """What came back from the clients that were to be scored.

    Attributes:
        tables: what metrics follow from, by domain, model and table, and by a client of each reply; whole
            numbers are added up, and stand under one client.
        predictions: labels ``[n]`` and probabilities ``[n, k]`` by domain and model, each client's by its number; none
            where clients keep them.
    """

    tables: dict[str, dict[int, NDArray[Any]]] = field(default_factory=dict)
    predictions: dict[str, dict[int, NDArray[Any]]] = field(default_factory=dict)


def gather_training(replies: Iterable[Message], asked: Sequence[int], nodes: Sequence[int]) -> TrainReplies:
    """Gather the replies to a train message; each is summed as it comes, and may stand for many clients.

    Args:
        replies: in any order.
        asked: the clients that were to train, in the order of the tree's places.
        nodes: the node of each client.

    Returns:
        Columns and failures in the order of the clients' ids.
    """
    place_of = {client: place for place, client in enumerate(asked)}
    gathered, heard = TrainReplies(), set[int]()
    for reply in replies:
        if reply.has_error():
            client = gathered.add_error(reply, nodes)
            gathered.uploads.add_nothing(place_of[client])
            heard.add(client)
            continue
        gathered.add_seconds(reply)
        metrics, failed = m.metrics_of(reply.content), m.unpack_failures(reply.content)
        trained = m.ints(metrics, m.CLIENTS)
        who = [*trained, *(client for client, _ in failed)]
        level, place = m.ints(metrics, m.NODE) if len(who) > 1 else (0, place_of[who[0]])
        gathered.uploads.add(reply.content, trained, (level, place))
        gathered.failures += failed
        gathered.steps += sum(m.ints(metrics, m.STEPS))
        heard |= set(who)
        for key in metrics:
            if key in (m.CLIENTS, m.SAMPLES) or key.startswith(m.LOSS):
                gathered.columns.setdefault(key, []).extend(m.floats(metrics, key))
    gathered.failures += [(client, "it did not answer in time") for client in asked if client not in heard]
    gathered.failures.sort()
    gathered.columns = by_client(gathered.columns)
    return gathered


def gather_scores(replies: Iterable[Message], nodes: Sequence[int]) -> ScoreReplies:
    """Gather the replies to an evaluate message, in the order in which they come.

    Args:
        replies: in any order.
        nodes: the node of each client.
    """
    gathered = ScoreReplies()
    for reply in replies:
        if reply.has_error():
            gathered.add_error(reply, nodes)
            continue
        gathered.add_seconds(reply)
        gathered.failures += m.unpack_failures(reply.content)
        metrics = m.metrics_of(reply.content)
        for key in metrics:
            gathered.columns.setdefault(key, []).extend(m.floats(metrics, key))
        for key, table in m.unpack_all(reply.content, m.TABLES).items():
            parts = gathered.tables.setdefault(key, {})
            place = m.ints(metrics, f"{_domain_of(key)}{m.CLIENTS}")[0]
            if parts and table.dtype == np.int64:
                ((place, before),) = parts.items()
                table = before + table
            parts[place] = table
        for key, rows in m.unpack_all(reply.content, m.PREDICTIONS).items():
            prefix = _domain_of(key)
            ends = np.cumsum(m.ints(metrics, f"{prefix}{m.SAMPLES}"))
            each = np.split(rows, ends[:-1])
            gathered.predictions.setdefault(key, {}).update(zip(m.ints(metrics, f"{prefix}{m.CLIENTS}"), each))
    return gathered


def _domain_of(key: str) -> str:
    """With which of :data:`fedtl.wire.messages.DOMAINS`' prefixes a key begins."""
    return next(prefix for prefix in sorted(m.DOMAINS.values(), reverse=True) if key.startswith(prefix))


def by_client(columns: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Columns with one entry per client, in the order of the clients' ids, whatever the order of the replies."""
    clients = columns.get(m.CLIENTS, [])
    order = sorted(range(len(clients)), key=clients.__getitem__)
    return {key: [values[i] for i in order] for key, values in columns.items()}


def check_failures(
    failures: Sequence[Failure], asked: int, round: int, max_failures: float, min_clients: int | None
) -> None:
    """Check that enough clients trained.

    Args:
        failures: who did not, and why.
        asked: how many were asked.
        round: for the message.
        max_failures: the share of them that may fail.
        min_clients: how many must not fail; what ``max_failures`` says if None.

    Raises:
        RunError: too many clients failed, or all.
    """
    most = may_fail(max_failures, asked) if min_clients is None else asked - min_clients
    if failures and (len(failures) > most or len(failures) == asked):
        client, text = failures[0]
        key = f"max_failures = {max_failures:g}" if min_clients is None else f"min_clients = {min_clients}"
        why = f"more than {key} allows" if len(failures) > most else "and none is left"
        raise RunError(f"round {round}: {len(failures)} of {asked} clients failed, {why}; client {client}: {text}")
