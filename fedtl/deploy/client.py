"""``fedtl deploy client``: the client agent's process, and a SuperNode that connects it to the server."""

from __future__ import annotations

import logging
import os
import shlex
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from multiprocessing.connection import Connection, Listener
from pathlib import Path

from fedtl.deploy import flower, wire
from fedtl.deploy.agent import ClientAgent, Declined
from fedtl.deploy.folders import ClientFolder
from fedtl.deploy.process import ChildProcess, alone
from fedtl.deploy.server import handshake
from fedtl.failure import RunError

AGAIN = 5.0
"""Seconds between attempts to connect."""

LOOK_AROUND, MISSED = 10.0, 2
"""Seconds between checks that the server still answers, and how many must fail in a row before it counts as gone."""

MISSED_WITHIN = 90.0
"""Seconds after which Flower has certainly noticed that a client is gone."""

PAUSE = 1.0
"""Seconds to wait after a local connection could not be accepted."""

log = logging.getLogger("fedtl.client")


def take_part(folder: ClientFolder, agent: ClientAgent, say: Callable[[str], None]) -> None:
    """Take part in the server's studies until Ctrl-C or SIGTERM.

    Args:
        folder: the client's.
        agent: answers the messages.
        say: prints what happens.

    Raises:
        RunError: another process already takes part with this folder, or the server's certificate is not the right one.
    """
    folder.log.mkdir(exist_ok=True)
    taken = f"{folder.name} already takes part, in another process with the folder {folder.path}"
    with alone(folder.log / "lock", taken):
        keep_log(folder)
        with answering(folder, agent):
            stay_connected(folder, say)


def stay_connected(folder: ClientFolder, say: Callable[[str], None]) -> None:
    """Keep a SuperNode running, which receives the messages."""
    programs = write_programs(folder)
    program: ChildProcess | None = None
    refusals = Refusals(folder, say)
    try:
        find_server(folder, say)
        while True:
            command = flower.supernode(folder, free_port(), programs)
            if program is None:
                say(command.short)
            program = ChildProcess(command, folder.log / "supernode.log")
            before = program.output.stat().st_size
            began, connected, presence = time.monotonic(), False, Presence(folder, say)
            while program.code is None:
                time.sleep(0.2)
                if not connected and b"SuperNode ID" in _since(program.output, before):
                    say(f"connected to {folder.server} as {folder.name}")
                    connected, refusals = True, Refusals(folder, say)
                presence.look()
            ended = program.code
            program.stop()
            if connected or time.monotonic() - began > 60:
                say(f"the SuperNode ended with exit code {ended}, see {program.output}; starting it again")
            else:
                refusals.one_more()
            time.sleep(AGAIN)
    finally:
        if program is not None:
            program.stop()


class Refusals:
    """Reports that the server does not admit a client, and the likely reason.

    Flower gives none. A client that was killed is admitted again once Flower has noticed that it is gone, so only a
    refusal that lasts longer than that means an unknown key.

    Args:
        folder: the client's.
        say: prints the report.
    """

    def __init__(self, folder: ClientFolder, say: Callable[[str], None]) -> None:
        self._server, self._name, self._say = folder.server, folder.name, say
        self._first: float | None = None
        self._unknown = False

    def one_more(self) -> None:
        """The server closed a connection right after it was opened."""
        now = time.monotonic()
        if self._first is None:
            self._first = now
            self._say(
                f"{self._server} does not let {self._name} in yet, perhaps because it was connected until a moment "
                "ago, which Flower takes up to a minute to notice; trying again"
            )
        elif not self._unknown and now - self._first > MISSED_WITHIN:
            self._unknown = True
            self._say(f"{self._server} does not let {self._name} in: its key is not registered there; trying again")


def find_server(folder: ClientFolder, say: Callable[[str], None]) -> None:
    """Wait until the server answers, and check that it is the right one.

    Raises:
        RunError: it has no certificate of the client's authority for its name.
    """
    waiting = False
    while True:
        try:
            return reach(folder)
        except ssl.SSLCertVerificationError as error:
            raise RunError(
                f"{folder.server} is not the server that {folder.ca} vouches for: {error.verify_message}"
            ) from error
        except OSError as error:
            if not waiting:
                say(f"{folder.server} is not ready yet ({error.strerror or error}): {folder.name} waits for it")
                waiting = True
            time.sleep(AGAIN)


class Presence:
    """Reports when the server goes away while a client is connected to it, and when it is back.

    Flower's SuperNode retries silently.

    Args:
        folder: the client's.
        say: prints the report.
    """

    def __init__(self, folder: ClientFolder, say: Callable[[str], None]) -> None:
        self._folder, self._say = folder, say
        self._missed, self._next = 0, time.monotonic() + LOOK_AROUND

    def look(self) -> None:
        """Check the server, if it is time to."""
        if time.monotonic() < self._next:
            return
        try:
            reach(self._folder)
        except OSError as error:
            self._missed += 1
            if self._missed == MISSED:
                why = error.strerror or error
                self._say(f"{self._folder.server} does not answer any more ({why}): {self._folder.name} waits for it")
        else:
            if self._missed >= MISSED:
                self._say(f"{self._folder.server} answers again")
            self._missed = 0
        self._next = time.monotonic() + (AGAIN if self._missed else LOOK_AROUND)


def reach(folder: ClientFolder) -> None:
    """Connect to the server, and check who it is.

    Raises:
        OSError: see :func:`~fedtl.deploy.server.handshake`.
    """
    host, _, port = folder.server.rpartition(":")
    handshake(host.strip("[]"), int(port), str(folder.ca))


def free_port() -> int:
    """A port of this machine that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def write_programs(folder: ClientFolder) -> Path:
    """The folder with the client's own ``flwr-clientapp``."""
    programs = folder.flower_home / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    program = programs / "flwr-clientapp"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m fedtl.deploy.clientapp "$@"\n')
    program.chmod(0o700)
    return programs


def keep_log(folder: ClientFolder) -> None:
    """Write what the client does to a file."""
    handler = RotatingFileHandler(folder.log / "client.log", maxBytes=10 * 2**20, backupCount=3)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def listen(folder: ClientFolder) -> Listener:
    """The socket at which messages arrive; only this user may connect."""
    address = folder.socket
    address.unlink(missing_ok=True)  # left by a process that was killed
    before = os.umask(0o177)
    try:
        return Listener(str(address), "AF_UNIX", backlog=4)
    finally:
        os.umask(before)


@contextmanager
def answering(folder: ClientFolder, agent: ClientAgent) -> Iterator[None]:
    """Answer messages in a thread of their own."""
    listener, over = listen(folder), threading.Event()
    threading.Thread(target=answer_all, args=(listener, agent, over), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        listener.close()  # which removes the socket


def answer_all(listener: Listener, agent: ClientAgent, over: threading.Event) -> None:
    """Answer whoever connects, until the client stops."""
    while not over.is_set():
        try:
            connection = listener.accept()
        except Exception as error:  # a listener that another thread closes may raise anything
            if not over.wait(PAUSE):
                log.warning("a local connection was not accepted: %s", error)
            continue
        threading.Thread(target=_reply, args=(connection, agent), daemon=True).start()


def _reply(connection: Connection, agent: ClientAgent) -> None:
    """Answer one message; whatever cannot be read or sent is logged."""
    with connection:
        try:
            request = wire.receive(connection)
        except (OSError, EOFError):
            return  # `fedtl deploy status` only checks whether this process runs
        except Exception as error:
            log.warning("a local process sent what is no message: %s", error)
            return
        if request.content is None:
            return
        try:
            try:
                reply = wire.SocketMessage({}, agent.answer(str(request.words.get("kind")), request.content))
            except Declined as error:
                reply = wire.SocketMessage({"error": str(error)})
            wire.send(connection, reply)
        except (OSError, EOFError):
            log.warning("the SuperNode's process ended before it received its answer")


def _since(file: Path, start: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek(start)
        return opened.read(2**20)
