"""Flower's Grid as a strategy needs it among real clients: who is who, who is there, and whose reply may count."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import httpx
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run, RunNotRunningException

from fedtl.choice import ConfigError
from fedtl.config.schema import Deploy
from fedtl.data.arrays import MOST_CLASSES
from fedtl.data.own.statistics import Sums
from fedtl.deploy.agent import DESCRIPTION, NAME, STATISTICS_OF, SUMS
from fedtl.deploy.clientapp import NO_ANSWER
from fedtl.deploy.study import Study
from fedtl.deploy.validator import Expected, Refused, ReplyValidator, decoded, shortened
from fedtl.failure import RunError
from fedtl.wire import messages as m

POLL, LOOK_AROUND = 0.2, 2.0
"""Seconds between looks for replies, and between looks for who is connected."""

GRACE = 10.0
"""Seconds that Flower keeps a message longer than anybody waits for its reply: else it is first to say, as of a message
that never was, that there is none."""

MOST_SAMPLES, LARGEST_SAMPLE, LARGEST_NUMBER = 2**40, 2**28, float(np.finfo(np.float32).max)
"""What a client's description of its data may come to."""

T = TypeVar("T")


@dataclass(frozen=True)
class Described:
    """What a client says of its data; see :meth:`~fedtl.data.own.read.Own.describe`."""

    train: int
    unlabelled: int
    test: int
    target_test: int
    public: int
    shape: tuple[int, ...]
    dtype: str
    largest_label: int | None
    names: tuple[str, ...] | None
    labels: tuple[int, ...] = ()
    sums: Sums | None = None
    validation: int = 0


@dataclass(frozen=True)
class Client:
    """A client as the server knows it.

    Attributes:
        name: by which it was registered.
        key: its public key, as Flower has it (PEM); empty if it was revoked.
    """

    name: str
    key: bytes


class Connection(NamedTuple):
    """Where a client is: Flower's number of its SuperNode, and since when that is connected."""

    node: int
    since: str


class Pull:
    """Looks for one reply in a thread of its own.

    Flower's pull waits until all parts of a reply have come, for minutes or, if the sender likes, for hours; one
    client's must not hold up the others'.
    """

    def __init__(self, grid: Grid, message: str, every: float) -> None:
        self._grid, self._message, self._every = grid, message, every
        self._over = threading.Event()
        self._answer: RecordDict | str | BaseException | None = None
        threading.Thread(target=self._look, daemon=True).start()

    def found(self) -> RecordDict | str | None:
        """The reply, or why there is none; None as long as there is neither.

        Raises:
            httpx.HTTPError: the SuperLink is gone.
            RunNotRunningException: it was told to stop the run.
        """
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer

    def give_up(self) -> None:
        """Look no longer."""
        self._over.set()

    def _look(self) -> None:
        while not self._over.is_set() and self._answer is None:
            try:
                for reply in self._grid.pull_messages([self._message]):
                    self._answer = shortened(reply.error.reason) if reply.has_error() else reply.content
            except (httpx.HTTPError, RunNotRunningException) as error:
                self._answer = error
            except Exception as error:
                self._answer = f"its reply is garbled ({type(error).__name__})"
            self._over.wait(self._every)


class DeployedGrid(Grid):
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

    Attributes:
        described: what each client said that it holds.
        fits: checks that such a description goes with the study.
        came: is told when clients were described that were not before.
        frame: what all samples have in common, as JSON.
        expected: what replies look like, for each phase.
    """

    def __init__(
        self, grid: Grid, clients: Sequence[Client], study: Study, settings: Deploy, say: Callable[[str], None] = print
    ) -> None:
        self._grid, self._clients, self._study, self._settings, self._say = grid, clients, study, settings, say
        self._number = {client.key: i for i, client in enumerate(clients) if client.key}
        self.described: dict[int, Described] = {}
        self.fits: Callable[[str, Described], None] = lambda name, told: None
        self.came: Callable[[], None] = lambda: None
        self.frame = ""
        self.expected: tuple[Expected, ...] = ()
        self._described_at: dict[int, str] = {}
        self._absent: set[int] = set()
        self._said: dict[int, str] = {}

    # Who is there.

    def here(self) -> dict[int, Connection]:
        """Who is connected, by the client's number."""
        found = {}
        for node in self._grid.get_nodes():
            client = self._number.get(node.public_key)
            if client is not None:
                found[client] = Connection(node.node_id, str(node.last_activated_at))
        for client in sorted(found.keys() & self._absent):
            self._say(f"{self._clients[client].name} is connected again")
        self._absent -= found.keys()
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
        """Ask clients what they hold, those that were not asked since they were started.

        Args:
            clients: who is to have said it.
            statistics_of: the sums for the normalisation that are asked for as well; "none" for none.

        Returns:
            Who did not say it, and why.
        """
        here = self.here()
        asked = [
            client
            for client in sorted(set(clients))
            if client not in self.described or (client in here and here[client].since != self._described_at[client])
        ]
        query = RecordDict({m.CONFIG: ConfigRecord({STATISTICS_OF: statistics_of})})
        failed, came = {}, False
        limit = min(self._settings.wait, self._settings.round_timeout)  # it takes no time, if a client is well
        seats = {client: here.get(client) for client in asked}
        found = self._ask(MessageType.QUERY, dict.fromkeys(seats, query), seats, limit)
        for client, reply in found.items():
            name = self._clients[client].name
            try:
                told = checked(lambda: described(_content(reply), name, statistics_of))  # noqa: B023
                self.fits(name, told)
            except (Refused, ConfigError) as error:
                self.described.pop(client, None)
                failed[client] = str(error)
                continue
            came = came or self.described.get(client) != told
            self.described[client], self._described_at[client] = told, here[client].since
        if came:
            self.came()
        return failed

    # Flower's interface, as far as a strategy uses it.

    def nodes_of_clients(self) -> Sequence[int]:
        """A number for each client by which a strategy addresses it: not Flower's, which a late one has not yet."""
        return range(len(self._clients))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages, and give what of the replies may count; for each other one an error that says why.

        Before training waits for ``min_clients`` of those addressed; then for replies until ``round_timeout``;
        ``timeout`` is the strategy's own and not looked at.

        Raises:
            RunError: too few clients are connected.
        """
        sent = list(messages)
        if not sent:
            return []
        kind = sent[0].metadata.message_type
        of = {message.metadata.dst_node_id: message for message in sent}
        if kind == MessageType.TRAIN:
            least = min(len(of), self._settings.min_clients or 1)
            self.wait_for(of, least, least)  # a round does not stand still for one of many
        undescribed = self.describe(of)
        here = self.here()
        asked = {client: here.get(client) for client in of if client in self.described}
        unlike = {id(message.content): message.content for message in sent}  # mostly one content for all
        told = {key: _as_told(kind, content) for key, content in unlike.items()}
        contents = {client: told[id(of[client].content)] for client in asked}
        answers = self._ask(kind, contents, asked, self._settings.round_timeout)
        replies = []
        for client, message in of.items():
            found: RecordDict | Error
            try:
                answer = answers[client] if client in answers else undescribed[client]
                found = checked(lambda: self._screened(kind, client, message.content, _content(answer)))  # noqa: B023
                self._said.pop(client, None)
            except Refused as error:
                if self._said.get(client) != str(error):  # once, and not in every round
                    self._say(f"{self._clients[client].name}: {error}")
                self._said[client] = str(error)
                found = Error(NO_ANSWER, str(error))
            message.metadata.__dict__["_message_id"] = f"{client}"  # none, as it was not sent; a reply needs one
            replies.append(Message(found, reply_to=message))
        return replies

    def _screened(self, kind: str, client: int, asked: RecordDict, reply: RecordDict) -> RecordDict:
        told, config = self.described[client], m.config_of(asked)
        screen = ReplyValidator(
            client, max(told.train, told.unlabelled), told.test, told.target_test, self._settings, told.validation
        )
        if (failure := screen.failed(reply)) is not None:
            raise Refused(failure)
        if kind == MessageType.EVALUATE:
            personal = config.get(m.SCORE_PERSONAL, "none") != "none"
            return screen.scored(reply, ["global"] * bool(config.get(m.SCORE_GLOBAL)) + ["personal"] * personal)
        w = m.unpack(asked)
        if w is None and m.VECTOR in (each := m.unpack_all(asked, m.EACH)):
            w = each[m.VECTOR][0]
        expected = self.expected[int(config.get(m.PHASE, 0))]  # type: ignore[arg-type]
        vector = np.zeros(0, np.float32) if w is None else np.asarray(w, np.float32)
        return screen.trained(reply, expected, vector)

    def _ask(
        self, kind: str, contents: Mapping[int, RecordDict], clients: Mapping[int, Connection | None], limit: float
    ) -> dict[int, RecordDict | str]:
        """Each client's reply to a message, or why there is none.

        Args:
            kind: Flower's message type.
            contents: what each is asked.
            clients: whom to ask, and where; None for those that are not connected.
            limit: seconds to wait for replies.
        """
        answers: dict[int, RecordDict | str] = {}
        waiting: dict[int, tuple[Pull, Connection]] = {}
        for client, seat in clients.items():
            if seat is None:
                answers[client] = self._gone(client, "it is not connected")
                continue
            study = Study(self._study.id, self._study.experiment, len(self._clients), client, self.frame)
            own = Message(RecordDict({**contents[client], m.STUDY: study.record()}), seat.node, kind, ttl=limit + GRACE)
            (id,) = [*self._grid.push_messages([own]), ""][:1]
            if not id:
                answers[client] = "Flower did not take the message"
                continue
            waiting[client] = Pull(self._grid, id, POLL * (1 + len(clients) // 16)), seat
        began = looked = time.monotonic()
        while waiting:
            for client, (pull, _) in list(waiting.items()):
                if (found := pull.found()) is not None:
                    answers[client] = found
                    del waiting[client]
            now = time.monotonic()
            if now - began > limit:
                for client in waiting:
                    answers[client] = f"it did not answer within {limit:g} s"
                break
            if now - looked > LOOK_AROUND:
                looked, here = now, self.here()
                for client, (_, seat) in list(waiting.items()):
                    if client not in here:
                        answers[client] = self._gone(client, "its connection was lost")
                    elif here[client] != seat:  # whatever it was doing is forgotten
                        answers[client] = "it was started anew meanwhile"
                    else:
                        continue
                    waiting.pop(client)[0].give_up()
            if waiting:
                time.sleep(POLL)
        for pull, _ in waiting.values():
            pull.give_up()
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
        told[m.CONFIG] = ConfigRecord({**m.config_of(content), m.SUM_UPLOADS: m.UNWEIGHTED})
    return told


def _content(answer: RecordDict | str) -> RecordDict:
    if isinstance(answer, str):
        raise Refused(answer)
    return answer


def checked(look: Callable[[], T]) -> T:
    """What a look at a reply gives; a reply that cannot be looked at is refused, whatever it is that it breaks."""
    try:
        return look()
    except Refused:
        raise
    except Exception as error:
        raise Refused(f"its reply is garbled ({type(error).__name__})") from error


def described(reply: RecordDict, name: str, statistics_of: str) -> Described:
    """What a client says that it holds.

    Raises:
        Refused: it is not what it may be.
    """
    record = reply[DESCRIPTION]
    if not isinstance(record, ConfigRecord):
        raise Refused("it does not describe its data")
    told: dict[str, Any] = json.loads(str(record[DESCRIPTION]))
    if told[NAME] != name:
        raise Refused(f"it has the key of {name}, and says that it is {shortened(told[NAME])}")
    names, largest = told["names"], told["largest_label"]
    if names is not None:
        if not isinstance(names, list) or not 0 < len(names) <= MOST_CLASSES:
            raise Refused("its labels' names are no list of words")
        names = tuple(shortened(word) for word in names)
    found = Described(
        train=_count(told["train"]),
        unlabelled=_count(told["unlabelled"]),
        test=_count(told["test"]),
        target_test=_count(told["target_test"]),
        public=_count(told["public"]),
        shape=tuple(_count(n, 1) for n in told["shape"]),
        dtype={"uint8": "uint8", "float32": "float32"}[told["dtype"]],
        largest_label=None if largest is None else _count(largest, -1, MOST_CLASSES),
        names=names,
        labels=()
        if names is not None
        else tuple(sorted({_count(n, 0, largest or 0) for n in told.get("labels") or ()})),
        validation=_count(told.get("validation", 0)),  # which a client of another version need not know of
    )
    if not found.shape or math.prod(found.shape) > LARGEST_SAMPLE:
        raise Refused(f"a sample of it has shape {list(found.shape)!r:.60}")
    if statistics_of not in ("dataset", "pixel"):
        return found
    return replace(found, sums=_sums(reply, statistics_of, found))


def _count(value: Any, least: int = 0, most: int = MOST_SAMPLES) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Refused(f"it says {value!r:.40} where a whole number from {least} to {most} is expected")
    return value


def _sums(reply: RecordDict, kind: str, told: Described) -> Sums:
    """A client's sums for the normalisation, which must be possible ones of as many samples as it has."""
    pixel = kind == "pixel"
    wanted = told.shape if pixel else (told.shape[0], *(1 for _ in told.shape[1:]))
    size, each = math.prod(wanted), 1 if pixel else math.prod(told.shape[1:])
    if SUMS not in reply.array_records:
        raise Refused(
            "its reply lacks the sums for the normalisation as this version of fedtl has them; install the same "
            "version at the server and at its clients"
        )
    found = reply.array_records[SUMS]
    (count,), total, square = (
        decoded(found[key], (n,), np.dtype(np.float64)) for key, n in (("count", 1), ("total", size), ("square", size))
    )
    # A share of the training samples may be for validation; the sums are of all.
    if count not in [each * (n + more) for n in (told.train, told.unlabelled) for more in (0, told.validation)]:
        raise Refused(f"its sums for the normalisation are over {count:g} numbers, not over its training samples")
    largest = 255.0 if told.dtype == "uint8" else LARGEST_NUMBER
    possible = (np.abs(total) <= largest * count) & (square >= 0) & (square <= largest**2 * count)
    if told.dtype == "uint8":  # of other numbers the squares are of differences from their mean
        possible &= square * count >= total**2 * (1 - 1e-9)
    if not possible.all():
        raise Refused("its sums for the normalisation are of no samples of this kind")
    return int(count), total.reshape(wanted), square.reshape(wanted)
