"""The process that trains cohorts for a Ray grid."""

from __future__ import annotations

import os
import pickle
import socket
import sys
from collections.abc import Callable
from typing import Any

from flwr.app import RecordDict

from fedtl.grid.mailbox import Address, Letter, Mailbox
from fedtl.grid.slots import Begun
from fedtl.wire import messages as m
from fedtl.wire.worker import Reply, Worker


class CohortActor:
    """A process that trains cohorts; see :class:`~fedtl.wire.worker.Worker`."""

    def __init__(self, path: list[str], make_worker: Callable[..., Worker], *parts: Any) -> None:
        # What the driver can import (a user's own model beside a notebook) can be imported here.
        sys.path += [folder for folder in path if folder not in sys.path]
        self._worker = make_worker(*parts)
        self._inbox: Mailbox | None = None
        self._outbox: Mailbox | None = None

    def ready(self, mark: str | None, inbox: Address | None, outbox: Address | None) -> Begun:
        """Told once the worker is made.

        Args:
            mark: a file that lies in the shared folder.
            inbox: where the driver lays what it sends to all.
            outbox: where this actor may lay its answers.
        """
        if inbox and outbox:
            self._inbox, self._outbox = Mailbox.open(inbox), Mailbox.open(outbox)
        has_mail = self._inbox is not None and self._outbox is not None
        return Begun(os.getpid(), socket.gethostname(), mark is None or os.path.exists(mark), has_mail)

    def handle(
        self,
        kind: str,
        sent: RecordDict | bytes | Letter,
        clients: tuple[int, ...],
        first: int,
        row: int,
        slot: int | None,
    ) -> list[Reply] | Letter:
        """Answer one message for a cohort.

        Args:
            kind: Flower's message type.
            sent: the content, or where it lies.
            clients: of the cohort.
            first: the place of the first of them in the round.
            row: which row of the content's is the first of them's.
            slot: of the outbox, for the answer where that is worth it.
        """
        if isinstance(sent, Letter):
            assert self._inbox is not None  # the driver was told that there is one
            content = self._inbox.get(sent, copy=False)
        else:
            content = pickle.loads(sent) if isinstance(sent, bytes) else sent
        replies = self._worker.handle(kind, m.cut(content, row, row + len(clients)), clients, first)
        laid = self._outbox.put(replies, slot) if self._outbox and slot is not None else None
        return laid or replies
