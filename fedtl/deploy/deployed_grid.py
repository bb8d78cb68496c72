"""Flower's Grid for real clients: it identifies them by their keys, waits for them, and validates their replies."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar, get_args

import httpx
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run, RunNotRunningException
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.config.schema import Deploy
from fedtl.data.arrays import MOST_CLASSES
from fedtl.data.own.columns import ColumnRules, ColumnSummary, Kind, Summaries
from fedtl.data.own.read import DOMAIN_NAME
from fedtl.data.views.normalise import needs_statistics
from fedtl.deploy.agent import COLUMNS, DESCRIPTION, NAME, OUTCOME_SUMS, STATISTICS_OF, SUMMARIES, SUMS
from fedtl.deploy.clientapp import NO_ANSWER
from fedtl.deploy.study import Study
from fedtl.deploy.validator import Expected, Refused, ReplyValidator, decoded, shortened
from fedtl.deploy.weights import WEIGHTS, Sketch, check_same, unpacked
from fedtl.failure import RunError
from fedtl.moments import Sums
from fedtl.wire import messages as m

POLL, LOOK_AROUND = 0.2, 2.0
"""Seconds between polls for replies, and between polls for who is connected."""

GRACE = 10.0
"""Seconds that Flower keeps a message longer than anybody waits for its reply. Otherwise Flower would report an unknown
message before the timeout here reports the missing reply."""

MOST_SAMPLES, LARGEST_SAMPLE, LARGEST_NUMBER = 2**40, 2**28, float(np.finfo(np.float32).max)
LARGEST_OUTCOME, LONGEST_NAME, MOST_WORDS = 2**20, 500, 10_000
"""Limits on what a client's description of its data may say."""

T = TypeVar("T")


class OutcomesKind(NamedTuple):
    """Of which kind it is what is predicted of a client's samples, where that is no label.

    Attributes:
        shape: of one sample's.
        dtype: "float32" or "int64".
        outputs: how many of a model's it needs.
    """

    shape: tuple[int, ...]
    dtype: str
    outputs: int


@dataclass(frozen=True)
class Described:
    """A client's description of its data; see :meth:`~fedtl.data.own.read.Own.describe`."""

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
    outcomes: OutcomesKind | None = None
    outcome_sums: Sums | None = None
    columns: tuple[str, ...] = ()
    domain: str = ""
    boolean: tuple[str, ...] = ()
    others: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Client:
    """A client as the server knows it.

    Attributes:
        name: under which it is registered.
        key: its public key in Flower's format (PEM); empty if it was revoked.
    """

    name: str
    key: bytes


class Connection(NamedTuple):
    """A client's connection: Flower's number of its SuperNode, and since when that is connected."""

    node: int
    since: str


class Pull:
    """Polls for one reply in a thread of its own.

    Flower's pull blocks until all parts of a reply have arrived: for minutes, or for hours if the sender delays them.
    One client must not delay the replies of the others.
    """

    def __init__(self, grid: Grid, message: str, every: float) -> None:
        self._grid, self._message, self._every = grid, message, every
        self._over = threading.Event()
        self._answer: RecordDict | str | BaseException | None = None
        threading.Thread(target=self._look, daemon=True).start()

    def result(self) -> RecordDict | str | None:
        """The reply, or why there is none; None while neither is known.

        Raises:
            httpx.HTTPError: the SuperLink is gone.
            RunNotRunningException: the run was stopped.
        """
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer

    def give_up(self) -> None:
        """Stop polling."""
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

    Flower admits only registered keys, and says which node has which key; what a node says about itself counts for
    nothing. Each client gets a message of its own, and each reply is fetched by the message that it answers, as a
    sender can put any name into its reply. Each reply is validated before a strategy sees it.

    Args:
        grid: Flower's own, connected to a SuperLink.
        clients: in the order of their numbers.
        study: goes to clients with each message.
        settings: how long to wait for whom.
        say: prints what somebody at the server should know.

    Attributes:
        described: each client's description of its data.
        check_fits: called to check that a description fits the study.
        on_described: called when a description is new or has changed.
        frame: the data schema, as JSON.
        expected: the form of the replies in each phase.
        weights: what of each client's model nobody sends, by its number; empty for nothing, or before it is known.
        pretrained: the weights that each client's model begins with, likewise.
    """

    def __init__(
        self, grid: Grid, clients: Sequence[Client], study: Study, settings: Deploy, say: Callable[[str], None] = print
    ) -> None:
        self._grid, self._clients, self._study, self._settings, self._say = grid, clients, study, settings, say
        self._number = {client.key: i for i, client in enumerate(clients) if client.key}
        self.described: dict[int, Described] = {}
        self.check_fits: Callable[[str, Described], None] = lambda name, description: None
        self.on_described: Callable[[], None] = lambda: None
        self.frame = ""
        self.expected: tuple[Expected, ...] = ()
        self.weights: Sequence[Mapping[str, Sketch]] = ()
        self.pretrained: Sequence[str | None] = ()
        self._described_at: dict[int, str] = {}
        self._absent: set[int] = set()
        self._last_refusal: dict[int, str] = {}

    # Who is connected.

    def connected(self) -> dict[int, Connection]:
        """The connected clients, by number."""
        connections = {}
        for node in self._grid.get_nodes():
            client = self._number.get(node.public_key)
            if client is not None:
                connections[client] = Connection(node.node_id, str(node.last_activated_at))
        for client in sorted(connections.keys() & self._absent):
            self._say(f"{self._clients[client].name} is connected again")
        self._absent -= connections.keys()
        return connections

    def wait_for(self, wanted: Iterable[int], enough: int, least: int) -> None:
        """Wait until ``enough`` of the ``wanted`` clients are connected, or ``deploy.wait`` is over and ``least`` are.

        Raises:
            RunError: fewer than ``least`` are connected by then.
        """
        wanted, deadline, announced = set(wanted), time.monotonic() + self._settings.wait, False
        while len(there := wanted & self.connected().keys()) < enough:
            missing = self._names(wanted - there)
            if time.monotonic() > deadline:
                if len(there) >= least:
                    self._say(f"continuing without {missing}")
                    return
                raise RunError(
                    f"{len(there)} of {len(wanted)} clients are connected after deploy.wait = "
                    f"{self._settings.wait:g} s, and {least} must be; not there: {missing}"
                )
            if not announced:
                self._say(f"waiting for {missing}")
                announced = True
            time.sleep(POLL)

    def compare_weights(self, weights: Sequence[Mapping[str, Sketch]], pretrained: Sequence[str | None]) -> None:
        """Compare what of clients' models nobody sends: now, and of each client that connects later.

        Args:
            weights: what it should be, by the client's number.
            pretrained: the file that its model begins with, likewise.

        Raises:
            ConfigError: a client has other weights.
        """
        self.weights, self.pretrained = weights, pretrained
        now = self.connected()
        asked = {client: now.get(client) for client in sorted(self.described) if weights[client]}
        query = RecordDict({m.CONFIG: ConfigRecord({WEIGHTS: True})})
        limit = self._settings.round_timeout  # a client makes its model first, which the first round needs
        for client, reply in self._ask(MessageType.QUERY, dict.fromkeys(asked, query), asked, limit).items():
            try:
                self._check_weights(client, reply)
            except Refused as error:  # it is asked again before it takes part
                self._say(f"{self._clients[client].name}: {error}")
                del self.described[client]

    def _check_weights(self, client: int, reply: RecordDict | str) -> None:
        theirs = checked(lambda: unpacked(_content(reply)))
        check_same(self.weights[client], theirs, self._clients[client].name, self.pretrained[client])

    def summaries(
        self, clients: Iterable[int], rules: ColumnRules
    ) -> tuple[dict[int, Summaries | None], dict[int, str]]:
        """Ask clients what they say of their tables' columns, as all clients' decide what these become.

        Args:
            clients: whom.
            rules: by which they become numbers.

        Returns:
            What each says, None of one whose numbers need no such word; and of the others why they say nothing.
        """
        now, query = self.connected(), RecordDict({m.CONFIG: ConfigRecord({SUMMARIES: True})})
        connections = {client: now.get(client) for client in sorted(set(clients))}
        replies = self._ask(MessageType.QUERY, dict.fromkeys(connections, query), connections, self._soon)
        each, failed = dict[int, Summaries | None](), dict[int, str]()
        for client, reply in replies.items():
            name = self._clients[client].name
            try:
                each[client] = checked(lambda: summaries_of(_content(reply), name, rules))  # noqa: B023
            except Refused as error:
                failed[client] = str(error)
        return each, failed

    @property
    def _soon(self) -> float:
        """Seconds within which a client in order answers what needs no training."""
        return min(self._settings.wait, self._settings.round_timeout)

    def describe(
        self, clients: Iterable[int], statistics_of: str = "none", outcome_sums: bool = False, columns: str = ""
    ) -> dict[int, str]:
        """Ask clients for descriptions of their data, unless they have answered since they were started.

        Args:
            clients: whose descriptions are needed.
            statistics_of: the kind of sums for normalisation to ask for as well; "none" for none.
            outcome_sums: whether to ask for sums of what is predicted as well.
            columns: what tables' columns become, as JSON, while no frame says it.

        Returns:
            By client, why there is no description.
        """
        now = self.connected()
        connections = {
            client: now.get(client)
            for client in sorted(set(clients))
            if client not in self.described or (client in now and now[client].since != self._described_at[client])
        }
        query = RecordDict({m.CONFIG: ConfigRecord({STATISTICS_OF: statistics_of})})
        if outcome_sums:
            m.config_of(query)[OUTCOME_SUMS] = True
        if columns:
            m.config_of(query)[COLUMNS] = columns
        with_weights = RecordDict({m.CONFIG: ConfigRecord({**m.config_of(query), WEIGHTS: True})})
        queries = {i: with_weights if self.weights and self.weights[i] else query for i in connections}
        failed, changed = {}, False
        # A client makes its model first, if that is asked.
        limit = self._settings.round_timeout if self.weights else self._soon
        replies = self._ask(MessageType.QUERY, queries, connections, limit)
        for client, reply in replies.items():
            name = self._clients[client].name
            try:
                description = checked(lambda: described(_content(reply), name, statistics_of, outcome_sums))  # noqa: B023
                self.check_fits(name, description)
                if WEIGHTS in m.config_of(queries[client]):
                    self._check_weights(client, reply)
            except (Refused, ConfigError) as error:
                self.described.pop(client, None)
                failed[client] = str(error)
                continue
            changed = changed or self.described.get(client) != description
            self.described[client], self._described_at[client] = description, now[client].since
        if changed:
            self.on_described()
        return failed

    # Flower's interface, as far as a strategy uses it.

    def nodes_of_clients(self) -> Sequence[int]:
        """The clients' numbers, by which a strategy addresses them; one that never connected has no node at Flower."""
        return range(len(self._clients))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages, and return the validated replies, with an error that says why in place of each missing one.

        Before training, waits for ``min_clients`` of the addressed clients; then for replies until ``round_timeout``.
        The strategy's own ``timeout`` is ignored.

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
            self.wait_for(of, least, least)  # a round does not wait for a single missing client
        undescribed = self.describe(of)
        now = self.connected()
        asked = {client: now.get(client) for client in of if client in self.described}
        distinct = {id(message.content): message.content for message in sent}  # most often one content for all
        converted = {key: _for_clients(kind, content) for key, content in distinct.items()}
        contents = {client: converted[id(of[client].content)] for client in asked}
        answers = self._ask(kind, contents, asked, self._settings.round_timeout)
        replies = []
        for client, message in of.items():
            outcome: RecordDict | Error
            try:
                answer = answers[client] if client in answers else undescribed[client]
                outcome = checked(lambda: self._validated(kind, client, message.content, _content(answer)))  # noqa: B023
                self._last_refusal.pop(client, None)
            except Refused as error:
                if self._last_refusal.get(client) != str(error):  # once, not in every round
                    self._say(f"{self._clients[client].name}: {error}")
                self._last_refusal[client] = str(error)
                outcome = Error(NO_ANSWER, str(error))
            message.metadata.__dict__["_message_id"] = f"{client}"  # this message was not sent, but a reply needs an id
            replies.append(Message(outcome, reply_to=message))
        return replies

    def _validated(self, kind: str, client: int, request: RecordDict, reply: RecordDict) -> RecordDict:
        data, config = self.described[client], m.config_of(request)
        validation = 0 if config.get(m.UNSEEN) else data.validation  # those of clients that never train are not scored
        validator = ReplyValidator(
            client, max(data.train, data.unlabelled), data.test, data.target_test, self._settings, validation
        )
        if (failure := validator.failed(reply)) is not None:
            raise Refused(failure)
        expected = self.expected[int(config.get(m.PHASE, 0))]  # type: ignore[arg-type]
        if kind == MessageType.EVALUATE:
            personal = config.get(m.SCORE_PERSONAL, "none") != "none"
            models = ["global"] * bool(config.get(m.SCORE_GLOBAL)) + ["personal"] * personal
            return validator.scored(reply, models, expected)
        w = m.unpack(request)
        if w is None and m.VECTOR in (each := m.unpack_all(request, m.EACH)):
            w = each[m.VECTOR][0]
        vector = np.zeros(0, np.float32) if w is None else np.asarray(w, np.float32)
        return validator.trained(reply, expected, vector)

    def _ask(
        self, kind: str, contents: Mapping[int, RecordDict], connections: Mapping[int, Connection | None], limit: float
    ) -> dict[int, RecordDict | str]:
        """Each client's reply to a message, or why there is none.

        Args:
            kind: Flower's message type.
            contents: of the message to each client.
            connections: of the clients to ask; None for those that are not connected.
            limit: seconds to wait for replies.
        """
        answers: dict[int, RecordDict | str] = {}
        waiting: dict[int, tuple[Pull, Connection]] = {}
        for client, connection in connections.items():
            if connection is None:
                answers[client] = self._gone(client, "it is not connected")
                continue
            study = Study(self._study.id, self._study.experiment, len(self._clients), client, self.frame)
            content = RecordDict({**contents[client], m.STUDY: study.record()})
            message = Message(content, connection.node, kind, ttl=limit + GRACE)
            (id,) = [*self._grid.push_messages([message]), ""][:1]
            if not id:
                answers[client] = "Flower did not take the message"
                continue
            waiting[client] = Pull(self._grid, id, POLL * (1 + len(connections) // 16)), connection
        began = looked = time.monotonic()
        while waiting:
            for client, (pull, _) in list(waiting.items()):
                if (result := pull.result()) is not None:
                    answers[client] = result
                    del waiting[client]
            now = time.monotonic()
            if now - began > limit:
                for client in waiting:
                    answers[client] = f"it did not answer within {limit:g} s"
                break
            if now - looked > LOOK_AROUND:
                looked, current = now, self.connected()
                for client, (_, connection) in list(waiting.items()):
                    if client not in current:
                        answers[client] = self._gone(client, "its connection was lost")
                    elif current[client] != connection:  # the restart lost the message
                        answers[client] = "it was restarted meanwhile"
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

    # The rest of Flower's interface.

    def get_node_ids(self) -> Iterable[int]:
        """The numbers of the connected clients."""
        return self.connected().keys()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Not supported: replies would not be validated."""
        raise NotImplementedError("a study's clients are asked by send_and_receive")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Not supported: replies would not be validated."""
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


def _for_clients(kind: str, content: RecordDict) -> RecordDict:
    """A strategy's content in the form for clients, which upload unweighted; the weighting is done here."""
    # Flower's stores recognise only arrays of Flower's own class, by its name.
    arrays = {key: ArrayRecord({k: Array(v.numpy()) for k, v in r.items()}) for key, r in content.array_records.items()}
    converted = RecordDict({**content, **arrays})
    if kind == MessageType.TRAIN:
        converted[m.CONFIG] = ConfigRecord({**m.config_of(content), m.SUM_UPLOADS: m.UNWEIGHTED})
    return converted


def _content(answer: RecordDict | str) -> RecordDict:
    if isinstance(answer, str):
        raise Refused(answer)
    return answer


def checked(read: Callable[[], T]) -> T:
    """The result of reading a reply; whatever error a garbled reply causes becomes a refusal."""
    try:
        return read()
    except Refused:
        raise
    except Exception as error:
        raise Refused(f"its reply is garbled ({type(error).__name__})") from error


def described(reply: RecordDict, name: str, statistics_of: str, outcome_sums: bool = False) -> Described:
    """A client's description of its data, checked.

    Raises:
        Refused: an entry of it is missing or invalid.
    """
    entries = _said(reply, DESCRIPTION, name)
    names, largest = entries["names"], entries["largest_label"]
    labels = entries.get("labels") or () if names is None else ()
    if names is not None:
        if not isinstance(names, list) or not 0 < len(names) <= MOST_CLASSES:
            raise Refused("its labels' names are no list of words")
        names = tuple(shortened(word) for word in names)
    others = entries.get("others")
    if others is not None:
        if not isinstance(others, list) or len(others) > MOST_CLASSES:
            raise Refused("its labels of class 0 are no list of words")
        others = tuple(shortened(word) for word in others)
    columns, boolean = (column_names(entries.get(key, [])) for key in ("columns", "boolean"))
    if not {*boolean} <= {*columns}:
        raise Refused("it names columns of yes and no that are none of its columns")
    description = Described(
        train=_count(entries["train"]),
        unlabelled=_count(entries["unlabelled"]),
        test=_count(entries["test"]),
        target_test=_count(entries["target_test"]),
        public=_count(entries["public"]),
        shape=tuple(_count(n, 1) for n in entries["shape"]),
        dtype={"uint8": "uint8", "float32": "float32"}[entries["dtype"]],
        largest_label=None if largest is None else _count(largest, -1, MOST_CLASSES),
        names=names,
        labels=tuple(sorted({_count(n, 0, largest or 0) for n in labels})),
        validation=_count(entries.get("validation", 0)),  # absent in older versions
        outcomes=_outcomes(entries.get("outcomes")),
        columns=columns,
        domain=_domain(entries.get("domain", "")),
        boolean=boolean,
        others=others,
    )
    if not description.shape or math.prod(description.shape) > LARGEST_SAMPLE:
        raise Refused(f"a sample of it has shape {list(description.shape)!r:.60}")
    if outcome_sums and description.outcomes is not None and description.train + description.validation:
        description = replace(description, outcome_sums=_outcome_sums(reply, description, description.outcomes))
    if not needs_statistics(statistics_of):
        return description
    return replace(description, sums=_sums(reply, statistics_of, description))


def _said(reply: RecordDict, key: str, name: str) -> dict[str, Any]:
    """The table of a reply to a query, in which the client says its name."""
    record = reply.get(key)
    if not isinstance(record, ConfigRecord):
        raise Refused("it does not describe its data")
    entries: dict[str, Any] = json.loads(str(record[key]))
    if entries[NAME] != name:
        raise Refused(f"it has the key of {name}, and says that it is {shortened(entries[NAME])}")
    return entries


def summaries_of(reply: RecordDict, name: str, rules: ColumnRules) -> Summaries | None:
    """What a client says of its columns, checked; None where it need not say anything.

    Raises:
        Refused: an entry of it is missing or invalid.
    """
    said = _said(reply, SUMMARIES, name)[SUMMARIES]
    if said is None:
        return None
    return {
        column: _summary(said[column], column in rules.categorical, rules.missing == "mean")
        for column in column_names(list(said), least=1)
    }


def _summary(said: Any, categorical: bool, sums: bool) -> ColumnSummary:
    values, gaps, withheld, middle = _count(said["values"]), said["gaps"], said["withheld"], float(said["middle"])
    words = {word: _count(count, 1) for word, count in said["words"].items()}
    if said["kind"] not in get_args(Kind) or not isinstance(gaps, bool) or not isinstance(withheld, bool):
        raise Refused("what it says of a column is none of what there is to say")
    if (said["kind"] == "words") != categorical and said["kind"] != "nothing":
        raise Refused("it has words in a column of numbers, or numbers in one of words")
    most = LARGEST_NUMBER * (values if sums else min(values, 1))
    if not abs(middle) <= most or ((withheld or said["kind"] == "nothing") and values):
        raise Refused("what it says of a column is of no numbers")
    if len(words) > MOST_WORDS or not all(map(_is_name, words)):
        raise Refused(
            f"a column of it has more than {MOST_WORDS:,} words, longer ones than {LONGEST_NAME} letters, or no words"
        )
    if sum(words.values()) != (values if said["kind"] == "words" else 0):
        raise Refused("a column of it has not as many words as values")
    return ColumnSummary(said["kind"], values, gaps, middle, words, withheld)


def column_names(value: Any, least: int = 0) -> tuple[str, ...]:
    """The names of a client's columns, checked to be such.

    Raises:
        Refused: they are not.
    """
    words = isinstance(value, list) and all(map(_is_name, value))
    if not words or not least <= len(value) <= LARGEST_OUTCOME or len(set(value)) < len(value):
        raise Refused("its columns' names are no list of different words")
    return tuple(value)


def _is_name(value: Any) -> bool:
    """Whether a value of JSON is a word that can be written to a file, as half of a surrogate pair cannot."""
    return isinstance(value, str) and len(value) <= LONGEST_NAME and not any("\ud800" <= c <= "\udfff" for c in value)


def _outcomes(table: Any) -> OutcomesKind | None:
    if table is None:
        return None
    shape = tuple(_count(n, 1) for n in table["shape"])
    if not 1 <= len(shape) <= 2 or math.prod(shape) > LARGEST_OUTCOME:
        raise Refused(f"what is predicted of a sample of it has shape {list(shape)!r:.60}")
    dtype = {"float32": "float32", "int64": "int64"}[table["dtype"]]
    return OutcomesKind(shape, dtype, _count(table["outputs"], 1, MOST_CLASSES))


def _domain(value: Any) -> str:
    """The name of the client's domain; empty where it says none."""
    if not isinstance(value, str) or (value and not DOMAIN_NAME.fullmatch(value)):
        raise Refused(f"it says {value!r:.40} where the name of its domain is expected")
    return value


def _count(value: Any, least: int = 0, most: int = MOST_SAMPLES) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Refused(f"it says {value!r:.40} where a whole number from {least} to {most} is expected")
    return value


def _sums(reply: RecordDict, kind: str, data: Described) -> Sums:
    """A client's sums for normalisation, checked to be possible sums of as many samples as it has."""
    pixel = kind == "pixel"
    wanted = data.shape if pixel else (data.shape[0], *(1 for _ in data.shape[1:]))
    size, each = math.prod(wanted), 1 if pixel else math.prod(data.shape[1:])
    (count,), total, square = _three(reply, SUMS, size)
    # A share of the training samples may be set aside for validation; the sums include it.
    if count not in [each * (n + more) for n in (data.train, data.unlabelled) for more in (0, data.validation)]:
        raise Refused(f"its sums for the normalisation are over {count:g} numbers, not over its training samples")
    largest = 255.0 if data.dtype == "uint8" else LARGEST_NUMBER
    possible = (np.abs(total) <= largest * count) & (square >= 0) & (square <= largest**2 * count)
    if data.dtype == "uint8":  # for float32, squares are of the differences from the mean
        possible &= square * count >= total**2 * (1 - 1e-9)
    if not possible.all():
        raise Refused("its sums for the normalisation are of no samples of this kind")
    return int(count), total.reshape(wanted), square.reshape(wanted)


def _outcome_sums(reply: RecordDict, data: Described, kind: OutcomesKind) -> Sums:
    """A client's sums of what is predicted, checked to be possible sums of as many samples as it has."""
    (count,), total, square = _three(reply, OUTCOME_SUMS, math.prod(kind.shape))
    if count != data.train + data.validation:
        raise Refused(
            f"its sums of what is predicted are over {count:g} samples, not over its training and validation samples"
        )
    if not ((np.abs(total) <= LARGEST_NUMBER * count) & (square >= 0) & (square <= LARGEST_NUMBER**2 * count)).all():
        raise Refused("its sums of what is predicted are of no numbers")
    return int(count), total.reshape(kind.shape), square.reshape(kind.shape)


def _three(reply: RecordDict, key: str, size: int) -> tuple[NDArray[np.float64], ...]:
    """A count, sums, and sums of squares, each as sent."""
    if key not in reply.array_records:
        raise Refused(
            "its reply lacks the sums for the normalisation as this version of fedtl has them; install the same "
            "version at the server and at its clients"
        )
    arrays, sizes = reply.array_records[key], {"count": 1, "total": size, "square": size}
    return tuple(decoded(arrays[name], (n,), np.dtype(np.float64)) for name, n in sizes.items())
