"""Who is who among real clients, who is waited for, and whose reply counts: over a Flower grid that is pretended."""

from __future__ import annotations

import functools
import itertools
import json
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.recorddict_pb2 import RecordDict as Proto
from flwr.serverapp import Grid
from flwr.supercore.run import Run, RunNotRunningException

from fedtl.choice import ConfigError
from fedtl.config.schema import Deploy
from fedtl.deploy import deployed_grid as links
from fedtl.deploy.agent import DESCRIPTION, NAME, STATISTICS_OF, SUMS
from fedtl.deploy.deployed_grid import Client, DeployedGrid
from fedtl.deploy.study import Study
from fedtl.deploy.validator import Expected
from fedtl.failure import RunError
from fedtl.grid.identity import identify
from fedtl.strategies.fedavg import FedAvg, FedAvgSettings
from fedtl.wire import messages as m

TRAIN, EVALUATE, QUERY = MessageType.TRAIN, MessageType.EVALUATE, MessageType.QUERY
W = np.array([1, -1], np.float32)
NAMES = ("north", "south", "west")

Answer = Callable[[str, RecordDict], RecordDict | Error | None]
"""What a node makes of a message: its reply, or None if it has none yet."""


def travelled(content: RecordDict) -> RecordDict:
    """As it comes out at the other end."""
    return recorddict_from_proto(Proto.FromString(recorddict_to_proto(content).SerializeToString()))


@dataclass
class Node:
    """A SuperNode as the SuperLink knows it."""

    id: int
    key: bytes
    answer: Answer
    since: str = "9:00"
    online: bool = True


@dataclass
class Sent:
    """A message that a node was sent."""

    node: int
    kind: str
    content: RecordDict
    message: Message


class PretendedGrid(Grid):
    """Flower's Grid, but for SuperLink and SuperNodes.

    Attributes:
        nodes: whoever was let in.
        sent: all messages so far.
        looked: is called whenever somebody asks who is there, before it is told.
    """

    def __init__(self, *nodes: Node) -> None:
        identify()
        self.nodes = list(nodes)
        self.sent: list[Sent] = []
        self.looked: Callable[[], None] = lambda: None
        self._pushed: dict[str, Sent] = {}
        self._ids = itertools.count(100)
        self._one_at_a_time = threading.Lock()  # nodes of one process: a real client has its own

    def get_nodes(self) -> Iterable[NodeInfo]:
        self.looked()
        return [
            NodeInfo(node_id=node.id, public_key=node.key, last_activated_at=node.since)
            for node in self.nodes
            if node.online
        ]

    def get_node_ids(self) -> Iterable[int]:
        return [node.node_id for node in self.get_nodes()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            for record in message.content.array_records.values():
                assert {type(array) for array in record.values()} <= {Array}  # Flower stores them by this name
            about, name = message.metadata, f"m{next(self._ids)}"
            about.__dict__["_message_id"] = name
            sent = Sent(about.dst_node_id, about.message_type, travelled(message.content), message)
            self.sent.append(sent)
            self._pushed[name] = sent
            ids.append(name)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        with self._one_at_a_time:
            return self._answers(message_ids)

    def _answers(self, message_ids: Iterable[str]) -> list[Message]:
        replies = []
        for name in message_ids:
            sent = self._pushed.get(name)
            if sent is None:
                continue
            node = next(node for node in self.nodes if node.id == sent.node)
            reply = node.answer(sent.kind, sent.content) if node.online else None
            if reply is not None:
                del self._pushed[name]
                content = travelled(reply) if isinstance(reply, RecordDict) else reply
                replies.append(Message(content, reply_to=sent.message))
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        return Run.create_empty(run_id=7)

    def create_message(self, *_: Any, **__: Any) -> Message:
        raise NotImplementedError


@dataclass
class Honest:
    """A client that does what it should: its upload is w plus its number and 1."""

    number: int
    described: dict[str, Any] = field(default_factory=dict)
    trained: dict[str, Any] = field(default_factory=dict)
    scored: dict[str, Any] = field(default_factory=dict)

    def __call__(self, kind: str, content: RecordDict) -> RecordDict | Error | None:
        if kind == QUERY:
            return self.description()
        metrics: dict[str, Any] = {m.CLIENTS: [self.number], m.SAMPLES: [self.number + 1]}
        if kind == EVALUATE:
            metrics |= {"global/correct": [1], "global/loss_sum": [2.5], **self.scored}
            return RecordDict({m.METRICS: MetricRecord(metrics)})
        metrics |= {m.STEPS: [3], m.LOSS + "cross_entropy": [0.5], **self.trained}
        w = np.asarray(m.unpack(content), np.float32)
        upload = ArrayRecord({m.VECTOR: Array(w + np.float32(self.number + 1))})
        return RecordDict({m.METRICS: MetricRecord(metrics), m.ARRAYS: upload})

    def description(self) -> RecordDict:
        about = {
            NAME: NAMES[self.number],
            **dict.fromkeys(("train", "unlabelled", "test", "target_test"), 5),
            "public": 0,
            "shape": [1, 2, 2],
            "dtype": "uint8",
            "largest_label": 2,
            "names": None,
            **self.described,
        }
        return RecordDict({DESCRIPTION: ConfigRecord({DESCRIPTION: json.dumps(about)})})


class Both:
    """A grid with three clients, and the link to it."""

    def __init__(self, *answers: Answer, **settings: Any) -> None:
        answers = answers or tuple(map(Honest, range(3)))
        # Flower's numbers of nodes, and the order in which it tells them, have nothing to do with clients'.
        nodes = [Node(1000 - 10 * i, f"key {i}".encode(), answer) for i, answer in enumerate(answers)]
        self.nodes, self.grid, self.lines = nodes, PretendedGrid(*reversed(nodes)), list[str]()
        clients = [Client(name, f"key {i}".encode()) for i, name in enumerate(NAMES[: len(answers)])]
        study = Study("study-1", '{"name": "x"}', len(clients))
        self.link = DeployedGrid(self.grid, clients, study, Deploy(**{"wait": 0.05, **settings}), self.lines.append)
        self.link.frame = "the frame"
        self.link.expected = (Expected({"w": ("samples", (2,))}, {}, ("cross_entropy",), ()),)

    def ask(self, kind: str = TRAIN, clients: Sequence[int] | None = None, **config: Any) -> list[Message]:
        wanted = range(len(self.nodes)) if clients is None else clients
        own = {m.SUM_UPLOADS: m.WEIGHTED} if kind == TRAIN else {m.SCORE_GLOBAL: True}
        settings = {m.ROUND: 1, m.PHASE: 0, **own, **config}
        content = RecordDict({m.CONFIG: ConfigRecord(settings), m.ARRAYS: m.pack(W)})
        return self.link.send_and_receive(m.Broadcast(kind, content, wanted))

    def outcome(self, *arguments: Any, **config: Any) -> dict[int, str]:
        """By client why there is no reply, or "fine"."""
        replies = self.ask(*arguments, **config)
        return {r.metadata.src_node_id: r.error.reason if r.has_error() else "fine" for r in replies}

    def asked(self, kind: str) -> list[int]:
        """The nodes that were sent such messages."""
        return [sent.node for sent in self.grid.sent if sent.kind == kind]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "POLL", 0.001)
    monkeypatch.setattr(links, "LOOK_AROUND", 0.0)


# Whose reply counts.


def test_replies_are_what_a_strategy_expects() -> None:
    both = Both()
    replies = both.ask()
    assert [reply.metadata.src_node_id for reply in replies] == [0, 1, 2]
    for client, reply in enumerate(replies):
        total = m.unpack(reply.content)
        assert total is not None
        # By samples: the client's upload times its own.
        assert total.tolist() == [(client + 1) * (1 + client + 1), (client + 1) * (-1 + client + 1)]
        assert m.metrics_of(reply.content)[m.CLIENTS] == [client]
    both.link.expected = (replace(both.link.expected[0], sums={"w": ("uniform", (2,))}),)
    assert [m.unpack(r.content).tolist() for r in both.ask()] == [[2, 0], [3, 1], [4, 2]]  # type: ignore[union-attr]
    scores = [m.metrics_of(reply.content) for reply in both.ask(EVALUATE)]
    assert [(s[m.CLIENTS], s["global/correct"]) for s in scores] == [([i], [1]) for i in range(3)]


def test_each_client_gets_a_message_of_its_own() -> None:
    both = Both()
    both.ask(clients=[0, 2], extra=3)
    asked = [sent for sent in both.grid.sent if sent.kind == TRAIN]
    assert [sent.node for sent in asked] == [1000, 980]
    studies = [Study.of(sent.content) for sent in asked]
    assert studies == [Study("study-1", '{"name": "x"}', 3, client, "the frame") for client in (0, 2)]
    nonces = {str(sent.content[m.STUDY]["nonce"]) for sent in both.grid.sent}  # type: ignore[index, call-overload]
    assert len(nonces) == len(both.grid.sent) == 4
    for sent in asked:
        w = m.unpack(sent.content)
        assert w is not None
        assert (w.tolist(), w.dtype) == (W.tolist(), np.float32)
        # Each sends what it has; the server multiplies it.
        assert m.config_of(sent.content) == {m.ROUND: 1, m.PHASE: 0, "extra": 3, m.SUM_UPLOADS: m.UNWEIGHTED}
        assert sent.message.metadata.ttl == 3600 + links.GRACE
    both.ask(EVALUATE, [1])
    assert m.SUM_UPLOADS not in m.config_of(both.grid.sent[-1].content)


def test_two_contents_reach_those_that_they_are_addressed_to() -> None:
    both = Both()
    both.link.expected = (replace(both.link.expected[0], sums={"w": ("uniform", (2,))}),)
    config = ConfigRecord({m.ROUND: 1, m.PHASE: 0, m.SUM_UPLOADS: m.WEIGHTED})
    contents = [RecordDict({m.CONFIG: config, m.ARRAYS: m.pack(w)}) for w in (W, W + np.float32(0.25))]
    replies = both.link.send_and_receive([Message(contents[client == 1], client, TRAIN) for client in range(3)])
    totals = [m.unpack(reply.content) for reply in replies]
    assert [np.asarray(total).tolist() for total in totals] == [
        (contents[client == 1][m.ARRAYS][m.VECTOR].numpy() + client + 1).tolist()  # type: ignore[index, call-overload]
        for client in range(3)
    ]


def test_a_key_decides_who_a_node_is() -> None:
    both = Both()
    both.grid.nodes += [Node(1, b"key of somebody else", Honest(0)), Node(2, b"", Honest(1))]
    assert both.outcome() == dict.fromkeys(range(3), "fine")
    assert {sent.node for sent in both.grid.sent} == {1000, 990, 980}
    assert sorted(both.link.get_node_ids()) == [0, 1, 2]


def test_who_says_that_it_is_another_client_is_refused() -> None:
    both = Both(Honest(0), Honest(1, described={NAME: "north"}), Honest(2, trained={m.CLIENTS: [0]}))
    assert both.outcome() == {
        0: "fine",
        1: "it has the key of south, and says that it is north",
        2: "it answers for [0], and is client 2",
    }
    assert both.lines == [
        "south: it has the key of south, and says that it is north",
        "west: it answers for [0], and is client 2",
    ]
    assert both.asked(TRAIN) == [1000, 980]


def test_the_name_of_a_sender_in_a_reply_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    both = Both()
    pull = both.grid.pull_messages

    def forged(ids: Iterable[str]) -> Iterable[Message]:
        for reply in pull(ids):
            reply.metadata.__dict__["_src_node_id"] = 980
            reply.metadata.__dict__["_reply_to_message_id"] = "m100"
            yield reply

    monkeypatch.setattr(both.grid, "pull_messages", forged)
    replies = both.ask()
    assert [reply.metadata.src_node_id for reply in replies] == [0, 1, 2]
    assert [m.metrics_of(reply.content)[m.CLIENTS] for reply in replies] == [[0], [1], [2]]


def test_errors_say_what_happened() -> None:
    def broken(kind: str, content: RecordDict) -> RecordDict | Error:
        return Honest(1).description() if kind == QUERY else Error(0, "no\nmore \x1b[2J" + 300 * "x")

    def failed(kind: str, content: RecordDict) -> RecordDict:
        reply = RecordDict({m.FAILURES: m.pack_failures([(2, "RuntimeError at the client")])})
        return Honest(2).description() if kind == QUERY else reply

    both = Both(Honest(0), broken, failed)
    for kind in (TRAIN, EVALUATE):
        outcome = both.outcome(kind)
        assert (outcome[0], outcome[2]) == ("fine", "RuntimeError at the client")
        assert outcome[1].startswith("no more ?[2Jxxx")
        assert len(outcome[1]) == 302
    assert both.lines[1:] == ["west: RuntimeError at the client"]  # said once


def test_a_strategy_goes_on_without_who_is_refused() -> None:
    """The mean of two of three, by hand: (1 [2 0] + 2 [3 1]) / 3."""
    both = Both(Honest(0), Honest(1), Honest(2, trained={m.SAMPLES: [6]}))
    strategy, reports = FedAvg(FedAvgSettings(name="fedavg", lr=0.1), seed=0, clients=3), []
    result = strategy.start(both.link, m.pack(W), num_rounds=1, on_round=lambda report, w: reports.append((report, w)))
    (report, w) = reports[0]
    assert w == pytest.approx([8 / 3, 2 / 3])
    assert report.failures == [(2, "'num-examples' is 6, and may be a whole number from 1 to 5")]
    assert result.arrays[m.VECTOR].numpy() is not None
    assert report.scores["global/clients"]["accuracy"]["mean"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


@pytest.mark.parametrize(
    ("least", "max_failures", "failing", "sentence"),
    [
        (None, 0.5, 1, None),
        (None, 0.2, 1, "round 1: 1 of 3 clients failed, more than max_failures = 0.2 allows; client 0: no"),
        (2, 0.0, 1, None),  # whatever max_failures says
        (2, 1.0, 2, "round 1: 2 of 3 clients failed, more than min_clients = 2 allows; client 0: no"),
        (3, 1.0, 1, "round 1: 1 of 3 clients failed, more than min_clients = 3 allows; client 0: no"),
        (1, 1.0, 3, "round 1: 3 of 3 clients failed, more than min_clients = 1 allows; client 0: no"),
        (3, 1.0, 0, None),
    ],
)
def test_how_many_of_a_round_must_not_fail(
    least: int | None, max_failures: float, failing: int, sentence: str | None
) -> None:
    def fails(client: int, kind: str, content: RecordDict) -> RecordDict | Error:
        return Honest(client).description() if kind == QUERY else Error(0, "no")

    both = Both(*(functools.partial(fails, i) if i < failing else Honest(i) for i in range(3)))
    settings = FedAvgSettings(name="fedavg", lr=0.1)
    strategy = FedAvg(settings, seed=0, clients=3, max_failures=max_failures)
    strategy.min_clients = least
    if sentence is None:
        assert strategy.start(both.link, m.pack(W), num_rounds=1).arrays is not None
        return
    with pytest.raises(RunError) as caught:
        strategy.start(both.link, m.pack(W), num_rounds=1)
    assert str(caught.value) == sentence


# Who is there.


def test_who_is_not_connected_is_not_asked() -> None:
    both = Both()
    both.nodes[1].online = False
    assert both.outcome() == {0: "fine", 1: "it is not connected", 2: "fine"}
    assert both.asked(TRAIN) == [1000, 980]
    both.nodes[1].online = True
    assert both.outcome() == {0: "fine", 1: "fine", 2: "fine"}
    assert both.lines == ["south: it is not connected", "south is connected again"]


def test_clients_are_described_once_and_a_late_one_when_it_comes() -> None:
    both = Both()
    both.nodes[2].online = False
    assert both.link.describe([0, 1]) == {}
    assert both.asked(QUERY) == [1000, 990]
    both.outcome()
    assert both.asked(QUERY) == [1000, 990]
    both.nodes[2].online = True
    assert both.outcome(EVALUATE)[2] == "fine"
    assert both.asked(QUERY) == [1000, 990, 980]
    one = both.link.described[1]
    assert (one.train, one.shape, one.dtype, one.largest_label, one.names) == (5, (1, 2, 2), "uint8", 2, None)


def test_a_connection_that_is_lost_is_not_waited_for() -> None:
    def gone(kind: str, content: RecordDict) -> RecordDict | None:
        if kind == QUERY:
            return Honest(1).description()
        both.nodes[1].online = False
        return None

    both = Both(Honest(0), gone, Honest(2))
    assert both.outcome() == {0: "fine", 1: "its connection was lost", 2: "fine"}


def test_a_client_that_was_started_anew_has_forgotten_what_it_was_asked() -> None:
    def restarted(kind: str, content: RecordDict) -> RecordDict | None:
        if kind == QUERY:
            return Honest(1).description()
        both.nodes[1].since = "9:05"
        return None

    both = Both(Honest(0), restarted, Honest(2))
    assert both.outcome() == {0: "fine", 1: "it was restarted meanwhile", 2: "fine"}
    both.nodes[1].answer = Honest(1)
    assert both.outcome() == {0: "fine", 1: "fine", 2: "fine"}


def test_a_late_reply_is_not_waited_for() -> None:
    def slow(kind: str, content: RecordDict) -> RecordDict | None:
        return Honest(1).description() if kind == QUERY else None

    both = Both(Honest(0), slow, Honest(2), round_timeout=0.05)
    late = "it did not answer within 0.05 s"
    assert both.outcome() == {0: "fine", 1: late, 2: "fine"}
    both.nodes[1].answer = Honest(1)  # the reply to the first message comes now; nobody takes it for the second's
    replies = both.ask(EVALUATE)
    assert not any(reply.has_error() for reply in replies)


def test_a_reply_may_take_some_looks() -> None:
    looks = itertools.count()

    def soon(kind: str, content: RecordDict) -> RecordDict | Error | None:
        return None if next(looks) < 5 else Honest(0)(kind, content)

    assert Both(soon).outcome() == {0: "fine"}
    assert next(looks) > 6


def test_waiting_ends_when_enough_are_there() -> None:
    both = Both(wait=600)
    looks = itertools.count()
    both.nodes[0].online = both.nodes[2].online = False

    def come() -> None:
        now = next(looks)
        both.nodes[0].online = now > 2
        both.nodes[2].online = now > 4

    both.grid.looked = come
    both.link.wait_for(range(3), 3, 1)
    assert next(looks) == 6
    assert both.lines == ["waiting for north, west"]


def test_waiting_ends_with_its_time() -> None:
    both = Both()
    both.nodes[1].online = False
    both.link.wait_for(range(3), 3, 2)
    assert both.lines == ["waiting for south", "continuing without south"]
    with pytest.raises(RunError) as caught:
        both.link.wait_for([0, 1], 2, 2)
    assert str(caught.value) == (
        "1 of 2 clients are connected after deploy.wait = 0.05 s, and 2 must be; not there: south"
    )


def test_a_round_waits_for_min_clients_of_its_own() -> None:
    both = Both(min_clients=2)
    both.nodes[0].online = both.nodes[1].online = False
    with pytest.raises(RunError, match=r"^1 of 3 clients are connected .* 2 must be; not there: north, south$"):
        both.ask()
    assert not both.asked(TRAIN)
    with pytest.raises(RunError, match=r"^0 of 1 clients .* 1 must be; not there: south$"):
        both.ask(clients=[1])
    both.nodes[0].online = True
    assert both.outcome() == {0: "fine", 1: "it is not connected", 2: "fine"}
    assert both.outcome(TRAIN, [2]) == {2: "fine"}
    assert both.ask(clients=[]) == []


# Descriptions.


WHOLE = f"where a whole number from 0 to {2**40} is expected"
GARBLED = "its reply is garbled ({})"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"train": -1}, f"it says -1 {WHOLE}"),
        ({"train": 1.0}, f"it says 1.0 {WHOLE}"),
        ({"train": None}, f"it says None {WHOLE}"),
        ({"train": "5"}, f"it says '5' {WHOLE}"),
        ({"train": True}, f"it says True {WHOLE}"),
        ({"train": [0] * 100}, f"it says {str([0] * 100)[:40]} {WHOLE}"),
        ({"test": 2**41}, f"it says {2**41} {WHOLE}"),
        ({"shape": None}, GARBLED.format("TypeError")),
        ({"shape": 3}, GARBLED.format("TypeError")),
        ({"shape": []}, "a sample of it has shape []"),
        ({"shape": [1, -2, 2]}, f"it says -2 {WHOLE.replace('0', '1', 1)}"),
        ({"shape": [1, 2.0]}, f"it says 2.0 {WHOLE.replace('0', '1', 1)}"),
        ({"shape": [2**14, 2**14 + 1]}, f"a sample of it has shape [{2**14}, {2**14 + 1}]"),
        ({"dtype": "float64"}, GARBLED.format("KeyError")),
        ({"dtype": ["uint8"]}, GARBLED.format("TypeError")),
        ({"dtype": None}, GARBLED.format("KeyError")),
        ({"largest_label": "many"}, "it says 'many' where a whole number from -1 to 100000 is expected"),
        ({"largest_label": [2]}, "it says [2] where a whole number from -1 to 100000 is expected"),
        ({"largest_label": float("inf")}, "it says inf where a whole number from -1 to 100000 is expected"),
        ({"largest_label": 10**12}, f"it says {10**12} where a whole number from -1 to 100000 is expected"),
        ({"largest_label": -5}, "it says -5 where a whole number from -1 to 100000 is expected"),
        ({"names": 3}, "its labels' names are no list of words"),
        ({"names": "abc"}, "its labels' names are no list of words"),
        ({"names": []}, "its labels' names are no list of words"),
        ({"names": ["a"] * 100_001}, "its labels' names are no list of words"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict) else "",
)
def test_descriptions_that_are_wrong(change: dict[str, Any], sentence: str) -> None:
    both = Both(Honest(0), Honest(1, described=change))
    assert both.link.describe([0, 1]) == {1: sentence}
    assert both.link.described.keys() == {0}
    assert both.outcome()[1] == sentence
    assert both.asked(TRAIN) == [1000]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "JSONDecodeError"),
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ("null", "TypeError"),
        ('"north"', "TypeError"),
        ("3", "TypeError"),
        ("{}", "KeyError"),
        ('{"name": "south"}', "KeyError"),
        ("\ud7ff", "JSONDecodeError"),
        ("[" * 100_000, "RecursionError"),
    ],
    ids=lambda text: text[:12],
)
def test_descriptions_that_are_none(text: str, kind: str) -> None:
    reply = RecordDict({DESCRIPTION: ConfigRecord({DESCRIPTION: text})})
    assert Both(Honest(0), lambda *_: reply).link.describe([1]) == {1: GARBLED.format(kind)}


def test_a_reply_that_describes_nothing() -> None:
    none = RecordDict({DESCRIPTION: MetricRecord({"train": 3})})
    assert Both(Honest(0), lambda *_: none).link.describe([1]) == {1: "it does not describe its data"}
    assert Both(Honest(0), lambda *_: RecordDict()).link.describe([1]) == {1: "it does not describe its data"}


def test_largest_descriptions() -> None:
    most = {"train": 2**40, "shape": [2**14, 2**14], "largest_label": 100_000}
    link = Both(Honest(0, described=most)).link
    assert link.describe([0]) == {}
    assert (link.described[0].train, link.described[0].largest_label) == (2**40, 100_000)
    assert link.described[0].shape == (2**14, 2**14)


def test_names_of_labels_are_words_that_can_be_printed() -> None:
    """Half a letter, which no UTF-8 has, and what would steer a terminal."""
    names = ["\ud800", "\x1b[2J\nfedtl: all is well", "cat"]
    link = Both(Honest(0, described={"largest_label": None, "names": names})).link
    assert link.describe([0]) == {}
    assert link.described[0].names == ("?", "?[2J fedtl: all is well", "cat")


OTHER_VERSION = (
    "its reply lacks the sums for the normalisation as this version of fedtl has them; install the same version at the "
    "server and at its clients"
)
IMPOSSIBLE = "its sums for the normalisation are of no samples of this kind"


def sums(count: Any, total: Any, square: Any, dtype: str = "float64") -> Answer:
    def answer(kind: str, content: RecordDict) -> RecordDict:
        reply = Honest(0).description()
        assert m.config_of(content) == {STATISTICS_OF: "dataset"}
        arrays = {"count": [count], "total": total, "square": square}
        reply[SUMS] = ArrayRecord({key: Array(np.array(value, dtype)) for key, value in arrays.items()})
        return reply

    return answer


def test_sums_for_the_normalisation() -> None:
    link = Both(sums(20, [30], [90])).link
    assert link.describe([0], "dataset") == {}
    statistics = link.described[0].sums
    assert statistics is not None
    count, total, square = statistics
    assert (count, total.tolist(), square.tolist()) == (20, [[[30.0]]], [[[90.0]]])
    for answer, sentence in (
        (sums(20, [np.nan], [90]), IMPOSSIBLE),
        (sums(20, [30], [np.inf]), IMPOSSIBLE),
        (sums(20, [30, 1], [90]), "an array of it has shape [2] and type float64, expected are [1] and float64"),
        (
            sums(20, [30], [90], "float32"),
            "an array of it has shape [1] and type float32, expected are [1] and float64",
        ),
        (Honest(0), OTHER_VERSION),
    ):
        assert Both(answer).link.describe([0], "dataset") == {0: sentence}


def test_sums_of_another_version_are_refused() -> None:
    """Up to then their squares were not of differences from the mean."""

    def answer(kind: str, content: RecordDict) -> RecordDict:
        reply = sums(20, [30], [90])(kind, content)
        reply["sums"] = reply[SUMS]
        del reply[SUMS]
        return reply

    assert Both(answer).link.describe([0], "dataset") == {0: OTHER_VERSION}


@pytest.mark.parametrize("count", [-20, 0, 0.5, 5, 1e18, np.nan, np.inf])
def test_sums_of_a_number_of_samples_that_is_not_its_own(count: float) -> None:
    """The description says 5 samples of 4 numbers each in one channel."""
    message = f"its sums for the normalisation are over {count:g} numbers, not over its training samples"
    assert Both(sums(count, [30], [90])).link.describe([0], "dataset") == {0: message}


@pytest.mark.parametrize(
    ("total", "square", "possible"),
    [
        (30, 45, True),  # 20 numbers of 1.5: no spread, Σx² · n = (Σx)²
        (30, 44, False),
        (20 * 255, 20 * 255**2, True),
        (20 * 255, 20 * 255**2 + 1, False),
        (20 * 255 + 1, 20 * 255**2, False),
        (-30, -90, False),
    ],
)
def test_sums_that_no_bytes_have(total: float, square: float, possible: bool) -> None:
    errors = Both(sums(20, [total], [square])).link.describe([0], "dataset")
    assert errors == ({} if possible else {0: IMPOSSIBLE})


# What Flower's grid or a client can do to a round that must go on.


def test_a_client_that_comes_between_two_looks() -> None:
    both = Both()
    both.link.describe([0, 1])
    both.nodes[2].online = False
    looks = itertools.count()

    def come() -> None:
        both.nodes[2].online = next(looks) >= 3  # after those of wait_for, of describe's caller, and of describe

    both.grid.looked = come
    assert set(both.outcome()) == {0, 1, 2}


def test_a_reply_that_flower_cannot_unpack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's grid builds a message out of a client's own bytes, and lets what that raises out of pull_messages."""
    both = Both(round_timeout=0.2)
    both.link.describe(range(3))
    pull = both.grid.pull_messages

    def stumbles(ids: Iterable[str]) -> Iterable[Message]:
        replies = list(pull(ids))
        if any(reply.metadata.src_node_id == 990 for reply in replies):
            raise ValueError("Object type not recognized")
        return replies

    monkeypatch.setattr(both.grid, "pull_messages", stumbles)
    outcome = both.outcome()
    assert (outcome[0], outcome[2]) == ("fine", "fine")
    assert outcome[1] == "its reply is garbled (ValueError)"


@pytest.mark.parametrize("ids", [[], [""]], ids=["too large", "refused"])
def test_a_message_that_flower_does_not_take(ids: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    both = Both()
    both.link.describe(range(3))
    push = both.grid.push_messages

    def refuses(messages: Iterable[Message]) -> Iterable[str]:
        (message,) = messages
        return ids if message.metadata.dst_node_id == 990 else push([message])

    monkeypatch.setattr(both.grid, "push_messages", refuses)
    assert both.outcome() == {0: "fine", 1: "Flower did not take the message", 2: "fine"}


@pytest.mark.parametrize("kind", [TRAIN, EVALUATE])
@pytest.mark.parametrize("reply", [RecordDict(), Error(0, "")], ids=["a reply", "an error"])
def test_a_reply_of_nothing_at_all(reply: RecordDict | Error, kind: str) -> None:
    both = Both(Honest(0), lambda asked, _: Honest(1).description() if asked == QUERY else reply, Honest(2))
    outcome = both.outcome(kind)
    assert (outcome[0], outcome[2]) == ("fine", "fine")
    assert outcome[1] == ("it has no metrics" if isinstance(reply, RecordDict) else "")


@pytest.mark.parametrize("kind", [TRAIN, EVALUATE, QUERY])
def test_a_reply_that_takes_for_ever_holds_up_nobody(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's pull waits for the rest of a reply that its sender has not finished."""
    both, finished = Both(round_timeout=0.3, wait=0.3), threading.Event()
    if kind != QUERY:
        both.link.describe(range(3))
    pull, begun = both.grid.pull_messages, threading.Event()

    def waits(ids: Iterable[str]) -> Iterable[Message]:
        replies = list(pull(ids))
        if any(reply.metadata.src_node_id == 990 for reply in replies):
            begun.set()
            finished.wait(60)
        return replies

    monkeypatch.setattr(both.grid, "pull_messages", waits)
    try:
        if kind == QUERY:
            assert both.link.describe(range(3)) == {1: "it did not answer within 0.3 s"}
            assert both.link.described.keys() == {0, 2}
        else:
            assert both.outcome(kind) == {0: "fine", 1: "it did not answer within 0.3 s", 2: "fine"}
        assert begun.is_set()
        assert not finished.is_set()
    finally:
        finished.set()


@pytest.mark.parametrize("met", [httpx.ConnectError("refused"), RunNotRunningException()])
def test_the_superlinks_end_is_the_runs(met: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    both, raised = Both(), list[Any]()
    both.link.describe(range(3))

    def gone(ids: Iterable[str]) -> Iterable[Message]:
        raise met

    monkeypatch.setattr(threading, "excepthook", raised.append)  # else a traceback of the thread that looks
    monkeypatch.setattr(both.grid, "pull_messages", gone)
    with pytest.raises(type(met)):
        both.ask()
    assert raised == []


def test_a_query_waits_no_longer_than_clients_are_waited_for() -> None:
    never = Both(Honest(0), lambda *_: None, wait=0.05, round_timeout=600)
    assert never.link.describe([0, 1]) == {1: "it did not answer within 0.05 s"}
    never = Both(Honest(0), lambda *_: None, wait=600, round_timeout=0.04)
    assert never.link.describe([0, 1]) == {1: "it did not answer within 0.04 s"}


def test_scoring_does_not_wait_for_who_is_away() -> None:
    both = Both(wait=600, min_clients=3)
    both.nodes[1].online = False
    assert both.outcome(EVALUATE) == {0: "fine", 1: "it is not connected", 2: "fine"}


def test_a_client_that_was_started_anew_is_asked_again_what_it_holds() -> None:
    """Its files may be others; what does not fit any longer is not asked for more."""
    both = Both()
    fits, came = list[str](), list[set[int]]()
    both.link.check_fits = lambda name, description: fits.append(f"{name} {description.train}")
    both.link.on_described = lambda: came.append(set(both.link.described))
    both.outcome()
    assert fits == ["north 5", "south 5", "west 5"]
    assert came == [{0, 1, 2}]
    both.nodes[1].since, both.nodes[1].answer = "9:05", Honest(1, described={"train": 4})
    assert both.outcome()[1] == "fine"
    assert both.outcome()[1] == "fine"
    assert both.asked(QUERY) == [1000, 990, 980, 990]
    assert (fits[3:], len(came), both.link.described[1].train) == (["south 4"], 2, 4)

    def refuse(name: str, description: Any) -> None:
        raise ConfigError(f"{name} has other samples")

    both.link.check_fits = refuse
    both.nodes[1].since = "9:10"
    assert both.outcome() == {0: "fine", 1: "south has other samples", 2: "fine"}
    assert (both.asked(TRAIN)[-2:], both.link.described.keys(), len(came)) == ([1000, 980], {0, 2}, 2)


@pytest.mark.parametrize(
    "scores",
    [
        {m.SAMPLES: [0], "global/correct": [0]},
        {"personal/correct": [0], "personal/loss_sum": [1.0]},
        {m.NO_PERSONAL_MODEL: [1]},
        {"target/clients": [1], "target/num-examples": [0]},
        {m.CLIENTS: []},
    ],
    ids=["over no samples", "not asked for", "not asked for, without", "of a target that is none", "of nobody"],
)
def test_scores_of_one_client_do_not_end_the_run(scores: dict[str, Any]) -> None:
    both = Both(Honest(0), Honest(1, scored=scores), Honest(2))
    check_goes_on(both)


def test_a_score_that_is_missing_does_not_end_the_run() -> None:
    def without(kind: str, content: RecordDict) -> RecordDict | Error | None:
        reply = Honest(0)(kind, content)
        if kind == EVALUATE:
            assert isinstance(reply, RecordDict)
            del m.metrics_of(reply)["global/correct"]
        return reply

    check_goes_on(Both(without, Honest(1), Honest(2)))


def test_scores_that_are_refused_do_not_end_the_run() -> None:
    check_goes_on(Both(Honest(0), Honest(1, scored={"global/correct": 3}), Honest(2)))


def check_goes_on(both: Both) -> None:
    strategy, reports = FedAvg(FedAvgSettings(name="fedavg", lr=0.1), seed=0, clients=3), []
    strategy.start(both.link, m.pack(W), num_rounds=2, on_round=lambda report, _: reports.append(report))
    assert len(reports) == 2
    for report in reports:
        (scores,) = report.client_scores
        lengths = {len(scores.clients), len(scores.samples), *map(len, scores.values["global"].values())}
        assert len(lengths) == 1
        assert "personal" not in scores.values
        assert set(scores.clients) <= {0, 1, 2}
