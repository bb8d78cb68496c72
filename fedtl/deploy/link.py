"""Flower's Grid as a strategy needs it among real clients: who is who, who is there, and whose reply may count."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedtl import messages as m
from fedtl.config import Deploy
from fedtl.data.own_statistics import Sums
from fedtl.deploy.desk import DESCRIPTION, NAME, STATISTICS_OF, SUMS
from fedtl.deploy.screen import Expected, Refused, Screen, decoded, shortened
from fedtl.deploy.study import Study
from fedtl.failure import RunError

POLL, LOOK_AROUND = 0.2, 2.0
"""Seconds between looks for replies, and between looks for who is connected."""

NO_ANSWER = 0
"""Flower's ``ErrorCode.UNKNOWN``; the text says what happened."""


@dataclass(frozen=True)
class Described:
    """What a client says of its data; see :meth:`~fedtl.data.own.Own.describe`."""

    train: int
    unlabelled: int
    test: int
    target_test: int
    public: int
    shape: tuple[int, ...]
    dtype: str
    largest_label: int | None
    names: tuple[str, ...] | None
    sums: Sums | None = None


@dataclass(frozen=True)
class Client:
    """A client as the server knows it.

    Attributes:
        name: by which it was registered.
        key: its public key, as Flower has it (PEM).
    """

    name: str
    key: bytes


class Link(Grid):
    """The clients of one study, by their keys.

    Flower lets nobody in whose key is not registered, and says which node has which key; what a node says of itself
    decides nothing. Each client gets a message of its own, and each reply is fetched by the message that it answers, as
    the sender's name in a reply is the sender's to choose. What a reply holds is checked before a strategy sees it.

    Args:
        grid: Flower's, to a SuperLink.
        clients: in the order of their numbers.
        study: what they are told.
        settings: how long to wait for whom.
        say: is told of what somebody at the server would want to know.
    """

    def __init__(
        self, grid: Grid, clients: Sequence[Client], study: Study, settings: Deploy, say: Callable[[str], None] = print
    ) -> None:
        self._grid, self._clients, self._study, self._settings, self._say = grid, clients, study, settings, say
        self._number = {client.key: i for i, client in enumerate(clients)}
        self.described: dict[int, Described] = {}
        self.frame = ""
        self.expected: tuple[Expected, ...] = ()
        self._nodes: dict[int, tuple[int, str]] = {}
        self._absent: set[int] = set()

    # Who is there.

    def here(self) -> dict[int, tuple[int, str]]:
        """Who is connected: by client its node, and since when, as Flower says it."""
        found = {}
        for node in self._grid.get_nodes():
            client = self._number.get(node.public_key)
            if client is not None:
                found[client] = (node.node_id, str(node.last_activated_at))
        for client in sorted(found.keys() & self._absent):
            self._say(f"{self._clients[client].name} is connected again")
        self._absent -= found.keys()
        self._nodes |= found
        return found

    def wait_for(self, wanted: Iterable[int], enough: int, least: int) -> None:
        """Wait until ``enough`` of the ``wanted`` are connected, or ``least`` when the time is over.

        Raises:
            RunError: fewer are.
        """
        wanted, deadline, told = set(wanted), time.monotonic() + self._settings.wait, False
        while len(there := wanted & self.here().keys()) < enough:
            missing = self._names(wanted - there)
            if time.monotonic() > deadline:
                if len(there) >= least:
                    self._say(f"going on without {missing}")
                    return
                raise RunError(
                    f"{len(there)} of {len(wanted)} clients are connected after deploy.wait = "
                    f"{self._settings.wait:g} s, and {least} must be; not there: {missing}"
                )
            if not told:
                self._say(f"waiting for {missing}")
                told = True
            time.sleep(POLL)

    def describe(self, clients: Iterable[int], statistics_of: str = "none") -> dict[int, str]:
        """Ask clients what they hold, those that were not asked yet; gives who did not say it, and why."""
        asked = sorted(set(clients) - self.described.keys())
        query = RecordDict({m.CONFIG: ConfigRecord({STATISTICS_OF: statistics_of})})
        failed = {}
        for client, reply in self._ask(MessageType.QUERY, query, asked).items():
            try:
                self.described[client] = _described(_content(reply), self._clients[client].name, statistics_of)
            except Refused as error:
                failed[client] = str(error)
        return failed

    # Flower's interface, as far as a strategy uses it.

    def nodes_of_clients(self) -> Sequence[int]:
        """A number for each client by which a strategy addresses it: not Flower's, which a late one has not yet."""
        return range(len(self._clients))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages, and give what of the replies may count; for each other one an error that says why.

        Waits for ``min_clients`` of those addressed, and then for replies until ``round_timeout``; ``timeout`` is
        the strategy's own and not looked at.

        Raises:
            RunError: too few clients are connected.
        """
        sent = list(messages)
        if not sent:
            return []
        kind, content = sent[0].metadata.message_type, sent[0].content
        of = {message.metadata.dst_node_id: message for message in sent}
        least = min(len(of), self._settings.min_clients or 1)
        self.wait_for(of, least, least)  # a round does not stand still for one of many
        undescribed = self.describe(set(self.here()) & of.keys())
        asked = [client for client in of if client not in undescribed]
        answers = self._ask(kind, _as_told(kind, content), asked)
        replies = []
        for client, message in of.items():
            found: RecordDict | Error
            try:
                if client in undescribed:
                    raise Refused(undescribed[client])
                found = self._screened(kind, client, content, _content(answers[client]))
            except Refused as error:
                self._say(f"{self._clients[client].name}: {error}")
                found = Error(NO_ANSWER, str(error))
            message.metadata.__dict__["_message_id"] = f"{client}"  # none, as it was not sent; a reply needs one
            replies.append(Message(found, reply_to=message))
        return replies

    def _screened(self, kind: str, client: int, asked: RecordDict, reply: RecordDict) -> RecordDict:
        told, config = self.described[client], m.config_of(asked)
        screen = Screen(client, max(told.train, told.unlabelled), told.test, told.target_test, self._settings.max_norm)
        if (failure := screen.failed(reply)) is not None:
            raise Refused(failure)
        if kind == MessageType.EVALUATE:
            return screen.scored(reply)
        w = m.unpack(asked)
        expected = self.expected[int(config.get(m.PHASE, 0))]  # type: ignore[arg-type]
        vector = np.zeros(0, np.float32) if w is None else np.asarray(w, np.float32)
        return screen.trained(reply, expected, vector, str(config[m.SUM_UPLOADS]))

    def _ask(self, kind: str, content: RecordDict, clients: Sequence[int]) -> dict[int, RecordDict | str]:
        """Each client's reply to a message, or why there is none."""
        answers: dict[int, RecordDict | str] = {}
        waiting: dict[int, tuple[str, str]] = {}  # the message, and since when its client is connected
        here, limit = self.here(), self._settings.round_timeout
        for client in clients:
            if client not in here:
                answers[client] = self._gone(client, "it is not connected")
                continue
            node, since = here[client]
            study = Study(self._study.id, self._study.experiment, len(self._clients), client, self.frame)
            own = Message(RecordDict({**content, m.STUDY: study.record()}), node, kind, ttl=limit)
            (id,) = self._grid.push_messages([own])
            waiting[client] = (id, since)
        began = looked = time.monotonic()
        while waiting:
            for client, (id, _) in list(waiting.items()):
                for reply in self._grid.pull_messages([id]):
                    text = shortened(reply.error.reason) if reply.has_error() else ""
                    answers[client] = text if reply.has_error() else reply.content
                    waiting.pop(client, None)
            now = time.monotonic()
            if now - began > limit:
                for client in waiting:
                    answers[client] = f"it did not answer within deploy.round_timeout = {limit:g} s"
                break
            if now - looked > LOOK_AROUND:
                looked, here = now, self.here()
                for client, (_, since) in list(waiting.items()):
                    if client not in here:
                        answers[client] = self._gone(client, "its connection was lost")
                    elif here[client][1] != since:  # whatever it was doing is forgotten
                        answers[client] = "it was started anew meanwhile"
                    else:
                        continue
                    del waiting[client]
            if waiting:
                time.sleep(POLL)
        return answers

    def _gone(self, client: int, why: str) -> str:
        self._absent.add(client)
        return why

    def _names(self, clients: Iterable[int]) -> str:
        return ", ".join(self._clients[client].name for client in sorted(clients))

    # The rest of it, Flower's own.

    def get_node_ids(self) -> Iterable[int]:
        """The numbers of those that are connected."""
        return self.here().keys()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Not for strategies of fedtl."""
        raise NotImplementedError("a study's clients are asked by send_and_receive")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Not for strategies of fedtl."""
        raise NotImplementedError("a study's clients are asked by send_and_receive")

    def set_run(self, run: Run) -> None:
        """Flower's own grid has it."""

    @property
    def run(self) -> Run:
        """Flower's description of the run."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Build a message, as Flower's older strategies do."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)


def _as_told(kind: str, content: RecordDict) -> RecordDict:
    """A strategy's content as clients get it: each answers with its upload itself, which is then weighted here."""
    # Flower's stores know arrays by the name of their class.
    arrays = {key: ArrayRecord({k: Array(v.numpy()) for k, v in r.items()}) for key, r in content.array_records.items()}
    told = RecordDict({**content, **arrays})
    if kind == MessageType.TRAIN:
        told[m.CONFIG] = ConfigRecord({**m.config_of(content), m.SUM_UPLOADS: "uniform"})
    return told


def _content(answer: RecordDict | str) -> RecordDict:
    if isinstance(answer, str):
        raise Refused(answer)
    return answer


MOST_SAMPLES = 2**40


def _described(reply: RecordDict, name: str, statistics_of: str) -> Described:
    """What a client says that it holds, checked."""
    record = reply.get(DESCRIPTION)
    try:
        told: dict[str, Any] = json.loads(str(record[DESCRIPTION])) if isinstance(record, ConfigRecord) else {}
        if told[NAME] != name:
            raise Refused(f"it has the key of {name}, and says that it is {shortened(told[NAME])}")
        shape = tuple(_count(n) for n in told["shape"])
        found = Described(
            **{held: _count(told[held]) for held in ("train", "unlabelled", "test", "target_test", "public")},
            shape=shape,
            dtype={"uint8": "uint8", "float32": "float32"}[told["dtype"]],
            largest_label=None if told["largest_label"] is None else int(told["largest_label"]),
            names=None if told["names"] is None else tuple(str(word)[:200] for word in told["names"]),
            sums=_sums(reply, statistics_of, shape) if statistics_of in ("dataset", "pixel") else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Refused("its description of its data is garbled") from error
    return found


def _count(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value <= MOST_SAMPLES:
        raise ValueError
    return value


def _sums(reply: RecordDict, kind: str, shape: tuple[int, ...]) -> Sums:
    """A client's sums for the normalisation."""
    wanted = shape if kind == "pixel" else (shape[0], *(1 for _ in shape[1:]))
    size = int(np.prod(wanted))
    found = reply.array_records[SUMS]
    count, total, square = (
        decoded(found[key], n, np.dtype(np.float64)) for key, n in (("count", 1), ("total", size), ("square", size))
    )
    if not all(np.isfinite(part).all() for part in (count, total, square)):
        raise Refused("its sums for the normalisation are not finite")
    return int(count[0]), total.reshape(wanted), square.reshape(wanted)
