"""What simulated Grids have in common: nodes that are clients, and messages sent in groups of equal content."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedtl.clock import Clock, Headcount
from fedtl.grid.identity import identify
from fedtl.wire.messages import Broadcast
from fedtl.wire.worker import Reply

FIRST_NODE = 2
"""The node of client 0; 1 is the server."""


@dataclass(frozen=True)
class Order:
    """One content for several clients.

    Attributes:
        kind: Flower's message type.
        content: what all of them are sent.
        clients: their ids, in the order of the messages.
        first: the place of the first of them among all that were addressed together; the others follow it.
    """

    kind: str
    content: RecordDict
    clients: tuple[int, ...]
    first: int = 0


class SimulatedGrid(Grid):
    """A Flower Grid of N simulated nodes; client i is node ``FIRST_NODE + i``.

    Consecutive messages that share one content object, mostly all of a round's, are one order: the content is sent
    on once for all of them, and a reply may stand for several clients; it then comes as the reply to the first one's
    message. Places are counted over all messages, whatever they hold, as sums go by them.

    Attributes:
        headcount: whether the actors are at work; counts where somebody profiles.
        clock: this process's own, of whoever profiles.
    """

    WAITING = "waiting for clients"
    """In a profile: this process's time while clients train or are scored."""

    def __init__(self, clients: int) -> None:
        identify()
        self.headcount, self.clock = Headcount(), Clock()
        self._clients = clients
        self._ids = itertools.count(1)
        self._answers: dict[str, Message] = {}

    @abstractmethod
    def carry_out(self, order: Order, timeout: float | None) -> Iterable[Reply]:
        """Let workers answer an order; clients without an answer in time are simply missing."""

    @property
    def actors(self) -> int:
        """How many work for clients at the moment."""
        return 1

    def profile(self, clock: Clock) -> None:
        """Tell ``clock`` while this process waits for clients, and count the actors."""
        self.clock = clock
        self.headcount.start()
        self.headcount.now(for_server=self.actors)

    def nodes_of_clients(self) -> Sequence[int]:
        """The node of each client, in the order of the clients' ids."""
        return range(FIRST_NODE, FIRST_NODE + self._clients)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages and wait for the replies, at most ``timeout`` seconds."""
        if isinstance(messages, Broadcast) and not messages.opened:
            order = self._order(messages.kind, messages.content, messages.nodes, 0)
            return self._answers_to(order, messages.message_to, timeout)
        replies, first = list[Message](), 0
        for (_, kind), alike in itertools.groupby(
            messages, lambda message: (id(message.content), message.metadata.message_type)
        ):
            to = {message.metadata.dst_node_id: message for message in alike}
            for message in to.values():
                self._number(message)
            order = self._order(kind, next(iter(to.values())).content, to, first)
            replies += self._answers_to(order, to.__getitem__, timeout)
            first += len(to)
        return replies

    def _order(self, kind: str, content: RecordDict, nodes: Iterable[int], first: int) -> Order:
        return Order(kind, content, tuple(node - FIRST_NODE for node in nodes), first)

    def _answers_to(self, order: Order, message_to: Callable[[int], Message], timeout: float | None) -> list[Message]:
        """The replies to one order; ``message_to`` gives what a node was sent."""
        replies: list[Message] = []
        if not order.clients:
            return replies
        for reply in self.carry_out(order, timeout):
            asked = message_to(FIRST_NODE + reply.clients[0])
            if not asked.metadata.message_id:
                self._number(asked)
            replies.append(Message(reply.content, reply_to=asked))
        self.headcount.now(for_server=self.actors)
        return replies

    def _number(self, message: Message) -> None:
        message.metadata.__dict__["_message_id"] = f"{next(self._ids)}"

    # The rest of Flower's interface.

    def get_node_ids(self) -> Iterable[int]:
        """All nodes; simulated ones are always connected."""
        return self.nodes_of_clients()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; the simulated clients answer at once, and the answers wait to be pulled."""
        ids = []
        for message in messages:
            for reply in self.send_and_receive([message]):
                self._answers[message.metadata.message_id] = reply
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Take the answers to messages pushed before."""
        return [self._answers.pop(id) for id in message_ids if id in self._answers]

    def set_run(self, run: Run) -> None:
        """Nothing to set: a simulated Grid serves one run."""

    @property
    def run(self) -> Run:
        """Flower's description of a run, empty here."""
        return Run.create_empty(run_id=1)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Build a message, as Flower's older strategies do."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)
