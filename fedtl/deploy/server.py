"""``fedtl deploy server``: a SuperLink that the clients' keys are registered with, until it is told to stop."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from fedtl.choice import ConfigError, nearest
from fedtl.deploy import flower, keys
from fedtl.deploy.folders import ServerFolder
from fedtl.deploy.process import Program, run, wait_until
from fedtl.failure import RunError

READY_WITHIN = 60.0
"""Seconds that a SuperLink may take to begin."""

NODES = "nodes.json"

EXPIRES_SOON = timedelta(days=30)

KNOWN_ALREADY = "already"
"""In what Flower says when a key is registered for a second time."""


def serve(folder: ServerFolder, host: str, say: Callable[[str], None]) -> None:
    """Run the server until Ctrl-C or SIGTERM.

    Args:
        folder: its folder.
        host: the address that it listens at for clients; "0.0.0.0" for all of this machine's.
        say: is told what happens.

    Raises:
        RunError: it cannot begin, or ended by itself.
    """
    check_certificate(folder, say)
    for port in (folder.port, folder.control_port):
        if _taken(port):
            raise RunError(
                f"port {port} is in use on this machine: another server runs, or server.toml needs another one"
            )
    flower.configure(folder)
    command = flower.superlink(folder, host)
    say(str(command))
    program = Program(command, folder.log / "superlink.log")
    try:
        wait_until(lambda: connected(folder), program, READY_WITHIN)
        for name in folder.clients:
            (register if name in folder.admitted else shut_out)(folder, name)
        say(
            f"ready: {len(folder.admitted)} clients may connect to {folder.address}; "
            f"start a study with: fedtl deploy run CONFIG {folder.path}"
        )
        while program.code is None:
            time.sleep(0.5)
        raise RunError(f"the SuperLink ended with exit code {program.code}; see {program.output}")
    finally:
        program.stop()


def check_certificate(folder: ServerFolder, say: Callable[[str], None]) -> None:
    """Refuse to serve with a certificate that no client would accept.

    Raises:
        RunError: it has expired.
    """
    end, now = keys.expiry(folder.certificate), datetime.now(UTC)
    if end < now:
        raise RunError(
            f"the server's certificate expired on {end:%Y-%m-%d}: make a new one with fedtl deploy init DIR --renew"
        )
    if end < now + EXPIRES_SOON:
        say(f"the server's certificate expires on {end:%Y-%m-%d}: make a new one with fedtl deploy init DIR --renew")


def register(folder: ServerFolder, name: str) -> None:
    """Let a client's key in; it may have been let in before. Flower's number of it is kept, for the status.

    Raises:
        RunError: Flower refuses it.
    """
    done = run(flower.register(folder, name))
    told = told_as_json(done.stdout)
    said = str(told.get("error-message", "")) or done.stderr
    if told.get("success"):
        numbers = node_numbers(folder) | {name: str(told["node-id"])}
        (folder.flower_home / NODES).write_text(json.dumps(numbers), encoding="utf-8")
    elif KNOWN_ALREADY not in said.lower():
        raise RunError(f"the key of {name} cannot be registered: {' '.join(said.split())[-300:]}")


def told_as_json(text: str) -> dict[str, Any]:
    """What Flower's command line prints, which may have warnings before it."""
    start = text.find("{")
    try:
        found: dict[str, Any] = json.loads(text[start:]) if start >= 0 else {}
    except ValueError:
        return {}
    return found


def revoke(folder: ServerFolder, name: str) -> None:
    """Let a client's key in no longer, at once if the server runs, and whenever it runs again.

    Raises:
        ConfigError: there is no such client.
        RunError: Flower refuses.
    """
    if name not in folder.clients:
        raise ConfigError(f"{name!r} is no client of {folder.path}: {nearest(name, folder.clients)}")
    if name in folder.admitted:
        folder.public_key(name).rename(folder.revoked_key(name))
    if connected(folder):
        shut_out(folder, name)


def shut_out(folder: ServerFolder, name: str) -> None:
    """Tell the server that runs to let a client in no longer.

    Raises:
        RunError: Flower refuses.
    """
    numbers = node_numbers(folder)
    if name not in numbers:
        return  # it was never let in
    done = run(flower.unregister(folder, numbers[name]))
    told = told_as_json(done.stdout)
    if not told.get("success"):
        said = str(told.get("error-message", "")) or done.stderr
        raise RunError(f"{name} cannot be shut out: {' '.join(said.split())[-300:]}")
    del numbers[name]
    (folder.flower_home / NODES).write_text(json.dumps(numbers), encoding="utf-8")


def node_numbers(folder: ServerFolder) -> dict[str, str]:
    """Flower's number of each client, by name."""
    try:
        found: dict[str, str] = json.loads((folder.flower_home / NODES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found


def connected(folder: ServerFolder) -> bool:
    """Whether the server runs: whether both of its ports speak TLS with its certificate."""
    try:
        for port in (folder.port, folder.control_port):
            handshake("127.0.0.1", port, str(folder.ca))
    except OSError:
        return False
    return True


def handshake(host: str, port: int, authority: str, timeout: float = 5.0) -> None:
    """Connect, and check that the server has a certificate of this authority for this host.

    Raises:
        OSError: nobody answers; as ``ssl.SSLCertVerificationError``, not with such a certificate.
    """
    context = ssl.create_default_context(cafile=authority)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with socket.create_connection((host, port), timeout) as plain, context.wrap_socket(plain, server_hostname=host):
        pass


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
