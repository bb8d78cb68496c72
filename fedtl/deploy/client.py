"""``fedtl deploy client``: one client's process with its data, and a SuperNode that connects it to the server."""

from __future__ import annotations

import logging
import os
import shlex
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from multiprocessing.connection import Connection, Listener
from pathlib import Path

from fedtl.deploy import flower, wire
from fedtl.deploy.desk import Declined, Desk
from fedtl.deploy.folders import ClientFolder
from fedtl.deploy.process import Program, alone
from fedtl.deploy.server import handshake
from fedtl.failure import RunError

AGAIN = 5.0
"""Seconds between attempts to connect."""

log = logging.getLogger("fedtl.client")


def take_part(folder: ClientFolder, desk: Desk, say: Callable[[str], None]) -> None:
    """Take part in the server's studies until Ctrl-C or SIGTERM.

    Args:
        folder: the client's.
        desk: answers for it.
        say: is told what happens.

    Raises:
        RunError: another process takes part with this folder already, or the server is not the one that it should be.
    """
    folder.log.mkdir(exist_ok=True)
    taken = f"{folder.name} takes part already, in another process with the folder {folder.path}"
    with alone(folder.log / "lock", taken):
        keep_log(folder)
        _connect(folder, desk, say)


def _connect(folder: ClientFolder, desk: Desk, say: Callable[[str], None]) -> None:
    """Answer messages, and keep a SuperNode running that brings them."""
    programs = write_programs(folder)
    listener = _listen(folder)
    threading.Thread(target=_answer, args=(listener, desk), daemon=True).start()
    program: Program | None = None
    refused = 0
    try:
        find_server(folder, say)
        while True:
            command = flower.supernode(folder, free_port(), programs)
            if program is None:
                say(command.short)
            program = Program(command, folder.log / "supernode.log")
            before = program.output.stat().st_size
            began, told = time.monotonic(), False
            while program.code is None:
                time.sleep(0.2)
                if not told and b"SuperNode ID" in _since(program.output, before):
                    say(f"connected to {folder.server} as {folder.name}")
                    refused, told = 0, True
            ended = program.code
            program.stop()
            if told or time.monotonic() - began > 60:
                say(f"the SuperNode ended with exit code {ended}, see {program.output}; starting it again")
            else:
                refused += 1
                if refused == 1:
                    say(
                        f"{folder.server} does not let {folder.name} in: its key is not registered there, or it was "
                        "connected until a moment ago, which Flower takes up to a minute to notice; trying again"
                    )
            time.sleep(AGAIN)
    finally:
        if program is not None:
            program.stop()
        listener.close()  # which removes the socket


def find_server(folder: ClientFolder, say: Callable[[str], None]) -> None:
    """Wait until the server answers, and check that it is the right one.

    Raises:
        RunError: it has no certificate of the client's authority for its name.
    """
    host, _, port = folder.server.rpartition(":")
    told = False
    while True:
        try:
            handshake(host.strip("[]"), int(port), str(folder.ca))
            return
        except ssl.SSLCertVerificationError as error:
            raise RunError(
                f"{folder.server} is not the server that {folder.ca} vouches for: {error.verify_message}"
            ) from error
        except OSError as error:
            if not told:
                say(f"{folder.server} does not answer yet ({error.strerror or error}); trying again")
                told = True
            time.sleep(AGAIN)


def free_port() -> int:
    """A port of this machine that nobody uses at the moment."""
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


def _listen(folder: ClientFolder) -> Listener:
    """The socket at which messages arrive, for this user alone."""
    address = folder.socket
    address.unlink(missing_ok=True)  # of a process that was killed
    before = os.umask(0o177)
    try:
        return Listener(str(address), "AF_UNIX", backlog=4)
    finally:
        os.umask(before)


def _answer(listener: Listener, desk: Desk) -> None:
    """Answer whoever connects, as long as this process runs."""
    while True:
        try:
            connection = listener.accept()
        except OSError as error:
            if not os.path.exists(str(listener.address)):
                return  # it was closed
            log.warning("a connection of this machine was not accepted: %s", error)
            time.sleep(1)
            continue
        threading.Thread(target=_reply, args=(connection, desk), daemon=True).start()


def _reply(connection: Connection, desk: Desk) -> None:
    with connection:
        try:
            asked = wire.receive(connection)
        except (OSError, EOFError):
            return  # somebody looked whether this process runs
        if asked.content is None:
            return
        try:
            try:
                reply = wire.Part({}, desk.answer(str(asked.words["kind"]), asked.content))
            except Declined as error:
                reply = wire.Part({"error": str(error)})
            wire.send(connection, reply)
        except (OSError, EOFError):
            log.warning("the SuperNode's process ended before it had its answer")


def _since(file: Path, start: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek(start)
        return opened.read(2**20)
