"""Messages between a client's processes, through a Unix socket and never pickled."""

from __future__ import annotations

import json
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from flwr.app import RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as Proto

LARGEST = 2**32
"""The most bytes of one part."""


class SocketMessage(NamedTuple):
    """What one process sends to the other.

    Attributes:
        words: a small table that fits JSON.
        content: of the message; None where there is none.
    """

    words: dict[str, Any]
    content: RecordDict | None = None


def send(connection: Connection, part: SocketMessage) -> None:
    """Send a part."""
    connection.send_bytes(json.dumps({**part.words, "content": part.content is not None}).encode())
    if part.content is not None:
        connection.send_bytes(recorddict_to_proto(part.content).SerializeToString())


def receive(connection: Connection) -> SocketMessage:
    """Wait for a part.

    Raises:
        EOFError: the other process has ended.
    """
    words = json.loads(connection.recv_bytes(2**20))
    if not words.pop("content"):
        return SocketMessage(words)
    return SocketMessage(words, recorddict_from_proto(Proto.FromString(connection.recv_bytes(LARGEST))))
