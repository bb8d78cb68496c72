"""What travels between server and clients: the keys of a message's records, and vectors as arrays.

A train or evaluate message holds ``config``; ``arrays``, the download that all clients share, by name (``w`` is the
global model's vector); ``each``, of what differs from client to client a row for each of those that are addressed; and
``given``, what terms of the objective ask for. A reply holds ``metrics`` with a list per key, one entry per client that
it stands for; ``failures`` with those that raised; and, after training, ``arrays`` with the sums of their uploads,
``rows`` with those that are not summed, a row for each client, and ``statistics`` with the sum of what terms ask for;
after scoring, ``tables`` and ``predictions`` for metrics that are no means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import SType
from numpy.typing import NDArray

ARRAYS, CONFIG, METRICS, FAILURES = "arrays", "config", "metrics", "failures"
CONTEXT, STATISTICS, EACH, ROWS = "given", "statistics", "each", "rows"
STUDY = "study"  # what a real client is told besides; see fedtl.deploy.study
VECTOR = "w"

ROUND = "server-round"  # Flower's own strategies use this key too
PHASE = "fedtl-phase"  # which of the run's phases, from 0
PROGRESS = "fedtl-progress"  # of the phase's rounds, from 0 in the first to 1 in the last
LR_FACTOR = "fedtl-lr-factor"  # of clients' learning rates in this round; 1 if absent
PROFILE = "fedtl-profile"  # in a config: where the worker's time goes is asked for; in a reply: seconds by part
KEEP = "fedtl-keep"  # rounds whose memories stay besides the last one's; absent if there are none
SUM_UPLOADS = "fedtl-sum"  # WEIGHTED or UNWEIGHTED; absent: one plain reply per client
WEIGHTED = "weighted"  # an upload counts as the method says
UNWEIGHTED = "none"  # each upload counts once, whatever the method says
SCORE_GLOBAL = "fedtl-score-global"
SCORE_PERSONAL = "fedtl-score-personal"
UNSEEN = "fedtl-unseen"  # whether who is to be scored never trains; absent if not

RECEIVED = "received:"  # in a client's own checkpoint: before the names of a download besides the model
STATISTIC = "statistic:"  # in CONTEXT: before a statistic's name
REPLAYED = "model:replay"  # in CONTEXT: the global model that replayed samples are made of
PHASE_START = "model:phase"  # in CONTEXT: the global model that the phase began with
OF_TERMS = (STATISTIC, PHASE_START, REPLAYED)  # how the names in CONTEXT begin

STATISTICS_SUM = ""  # the statistics' name among the sums of a round, where no upload has it
CLIENTS, SAMPLES, STEPS = "clients", "num-examples", "steps"
NO_PERSONAL_MODEL = "without"  # 1 where a client had no personalised model of its own
NODE = "node"  # of the sum's tree: (level, place)
LOSS = "loss/"
PARTS = "statistics-sizes"  # how many numbers each statistic has
TARGET = "target/"  # before the keys of scores on the target domain
VALIDATION = "validation/"  # before the keys of scores on validation samples

HELD_OUT = "held-out/"  # before the domain's name in the keys of the server's scores on a domain that no client has

METRIC = "/of/"  # between a score's model and the name of a metric besides those that every score has
TABLES = "tables"  # of a reply's scores: tables of its clients joined, by domain, model and table
PREDICTIONS = "predictions"  # of a reply's scores: labels and probabilities of its clients' samples, in order
LABELS = "labels"

DOMAINS = {"clients": "", "target-clients": TARGET, "validation-clients": VALIDATION}
"""Before the keys of scores, by the name of the data in a score's name."""


class VectorArray(Array):
    """Flower's Array over a vector that stays one until somebody asks for its bytes.

    Between processes of one machine the vector travels as shared memory; Flower's own runtimes ask for
    ``data`` and get what an ordinary Array holds.
    """

    def __init__(self, vector: NDArray[Any]) -> None:
        self._vector = np.ascontiguousarray(vector)
        self.dtype, self.shape, self.stype = str(vector.dtype), tuple(vector.shape), SType.NUMPY

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The vector as ``numpy.save`` writes it."""
        return Array(self._vector).data

    def numpy(self) -> NDArray[Any]:
        """The vector itself; it may be read-only."""
        return self._vector


class Broadcast(Sequence[Message]):
    """One content for many nodes: a message to each, made when somebody looks at them.

    A simulated Grid needs none of them: it sends the one content on. Flower's Grids see a list of messages.

    Attributes:
        kind: Flower's message type.
        content: what all of them are sent; of ``each`` a row for each of them.
        nodes: to whom, in order.
    """

    def __init__(self, kind: str, content: RecordDict, nodes: Sequence[int]) -> None:
        self.kind, self.content, self.nodes = kind, content, nodes
        self._messages: list[Message] | None = None

    @property
    def opened(self) -> bool:
        """Whether somebody has seen the messages, and so may have changed them."""
        return self._messages is not None

    def message_to(self, node: int) -> Message:
        """The message to one of the nodes, made anew."""
        if EACH not in self.content:
            return Message(self.content, node, self.kind)
        place = self.nodes.index(node)
        return Message(cut(self.content, place, place + 1), node, self.kind)

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, index: Any) -> Any:
        if self._messages is None:
            self._messages = [self.message_to(node) for node in self.nodes]
        return self._messages[index]


def pack(vector: NDArray[np.floating]) -> ArrayRecord:
    """A vector as Flower's record; it is not copied."""
    return pack_all({VECTOR: vector})


def pack_all(vectors: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    """Named vectors as Flower's record; they are not copied."""
    record = ArrayRecord()
    for name, vector in vectors.items():
        record[name] = VectorArray(vector)  # the constructor would ask for its bytes
    return record


def unpack(content: RecordDict, which: str = ARRAYS) -> NDArray[np.floating] | None:
    """The vector of a message's content, or None where it has none; it may be read-only."""
    tensors = unpack_all(content, which)
    return tensors.get(VECTOR)


def unpack_all(content: RecordDict, which: str) -> dict[str, NDArray[Any]]:
    """The named vectors of a message's content, none where it has none; they may be read-only."""
    record = content.get(which)
    return {name: array.numpy() for name, array in record.items()} if isinstance(record, ArrayRecord) else {}


def cut(content: RecordDict, start: int, stop: int) -> RecordDict:
    """A content for some of those that it addresses, in places ``start..stop-1``: of ``each`` it has their rows."""
    rows = unpack_all(content, EACH)
    return RecordDict({**content, EACH: pack_all({k: v[start:stop] for k, v in rows.items()})}) if rows else content


def config_of(content: RecordDict) -> ConfigRecord:
    """A message's config; empty where it has none."""
    record = content.get(CONFIG)
    return record if isinstance(record, ConfigRecord) else ConfigRecord()


def metrics_of(content: RecordDict) -> MetricRecord:
    """A reply's metrics."""
    return cast(MetricRecord, content[METRICS])


def of_domain(columns: Mapping[str, list[Any]], prefix: str) -> dict[str, list[Any]]:
    """The columns of scores on one of :data:`DOMAINS`, without its prefix."""
    others = tuple(other for other in DOMAINS.values() if other and other != prefix)
    return {k.removeprefix(prefix): v for k, v in columns.items() if k.startswith(prefix) and not k.startswith(others)}


def ints(record: MetricRecord, key: str) -> list[int]:
    """A list of whole numbers, empty where the key is absent."""
    return cast("list[int]", record.get(key, []))


def floats(record: MetricRecord, key: str) -> list[float]:
    """A list of numbers, empty where the key is absent."""
    return cast("list[float]", record.get(key, []))


def seconds_of(content: RecordDict) -> dict[str, float]:
    """Where a worker's time went: seconds by part; empty where nobody asked."""
    return cast("dict[str, float]", dict(content.get(PROFILE, {})))


def pack_failures(failures: list[tuple[int, str]]) -> ConfigRecord:
    """Clients that raised, each with what it said."""
    return ConfigRecord({CLIENTS: [c for c, _ in failures], "messages": [m for _, m in failures]})


def unpack_failures(content: RecordDict) -> list[tuple[int, str]]:
    """The clients of a reply that raised."""
    record = content.get(FAILURES)
    if not isinstance(record, ConfigRecord):
        return []
    return list(zip(cast("list[int]", record[CLIENTS]), cast("list[str]", record["messages"])))
