"""``fedtl deploy server``: a SuperLink with the clients' keys registered, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from fedtl.choice import ConfigError, nearest
from fedtl.deploy import flower, keys
from fedtl.deploy.folders import ServerFolder
from fedtl.deploy.process import ChildProcess, alone, run, wait_until
from fedtl.deploy.superlink import OPEN
from fedtl.failure import RunError

READY_WITHIN = 60.0
"""Seconds that a SuperLink may take to start."""

FREE_WITHIN = 5.0
"""Seconds that an earlier server may take to release its ports."""

NODES = "nodes.json"
"""File with Flower's number of each registered client, by name."""

EXPIRES_SOON = timedelta(days=30)

KNOWN_ALREADY = "already"
"""A word in Flower's error when a key is registered a second time."""


def serve(folder: ServerFolder, host: str, say: Callable[[str], None]) -> None:
    """Run the server until Ctrl-C or SIGTERM.

    Args:
        folder: its folder.
        host: the address at which it listens for clients; "0.0.0.0" for all addresses of this machine.
        say: prints what happens.

    Raises:
        RunError: it already runs, cannot start, or ended by itself.
    """
    check_certificate(folder, say)
    folder.log.mkdir(exist_ok=True)
    with alone(folder.log / "lock", f"the server of {folder.path} already runs, in another process"):
        _wait_for_ports(folder)
        flower.configure(folder)
        run_superlink(folder, host, say)


def run_superlink(folder: ServerFolder, host: str, say: Callable[[str], None]) -> None:
    """Keep Flower's SuperLink running until it ends or is stopped; its ports must be free.

    Raises:
        RunError: it ended by itself.
    """
    command = flower.superlink(folder, host)
    say(command.short)
    program = ChildProcess(command, folder.log / "superlink.log", leash=True)
    try:
        wait_until(lambda: runs(folder), program, READY_WITHIN)
        admit(folder)
        program.tell(OPEN)  # only now: a client that comes before its key is registered is refused as unknown
        local = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        wait_until(lambda: serves(local, folder), program, READY_WITHIN)
        say(
            f"ready: {len(folder.admitted)} clients may connect to {folder.address}; "
            f"start a study with: fedtl deploy run CONFIG {folder.path}"
        )
        while program.code is None:
            time.sleep(0.5)
        raise RunError(f"the SuperLink ended with exit code {program.code}; see {program.output}")
    finally:
        program.stop()


def _wait_for_ports(folder: ServerFolder) -> None:
    """Wait until an earlier server, which may just have been killed, has released the ports.

    Raises:
        RunError: another program uses them.
    """
    deadline = time.monotonic() + FREE_WITHIN
    for port in (folder.port, folder.control_port):
        while _taken(port):
            if time.monotonic() > deadline:
                raise RunError(
                    f"port {port} is in use on this machine: another server runs, or server.toml needs another port"
                )
            time.sleep(0.1)


def admit(folder: ServerFolder) -> None:
    """Register the clients' keys that Flower does not know yet, and remove those that were revoked.

    Raises:
        RunError: Flower refuses a key.
    """
    numbers = node_numbers(folder)
    known = {str(node["node-id"]) for node in registered(folder)} if numbers else set()
    for name in folder.clients:
        if name not in folder.admitted:
            shut_out(folder, name)
        elif numbers.get(name) not in known:
            register(folder, name)


def registered(folder: ServerFolder) -> list[dict[str, Any]]:
    """What Flower knows of each SuperNode whose key is registered."""
    nodes: list[dict[str, Any]] = told_as_json(run(flower.nodes(folder)).stdout).get("nodes", [])
    return nodes


def check_certificate(folder: ServerFolder, say: Callable[[str], None]) -> None:
    """Refuse an expired certificate, which no client would accept, and warn of one that expires soon.

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
    """Register a client's key, unless it is registered already, and keep Flower's number of it for the status.

    Raises:
        RunError: Flower refuses the key.
    """
    done = run(flower.register(folder, name))
    result = told_as_json(done.stdout)
    error = str(result.get("error-message", "")) or done.stderr
    if result.get("success"):
        keep_numbers(folder, node_numbers(folder) | {name: str(result["node-id"])})
    elif KNOWN_ALREADY not in error.lower():
        raise RunError(f"the key of {name} cannot be registered: {' '.join(error.split())[-300:]}")


def told_as_json(text: str) -> dict[str, Any]:
    """The JSON that Flower's command line prints, perhaps after warnings; empty if there is none."""
    start = text.find("{")
    try:
        result: dict[str, Any] = json.loads(text[start:]) if start >= 0 else {}
    except ValueError:
        return {}
    return result


def revoke(folder: ServerFolder, name: str) -> None:
    """Revoke a client's key: no study asks the client for anything any more, and Flower refuses the key.

    Raises:
        ConfigError: there is no such client.
        RunError: Flower does not remove the key.
    """
    if name not in folder.clients:
        raise ConfigError(f"{name!r} is no client of {folder.path}: {nearest(name, folder.clients)}")
    if name in folder.admitted:
        folder.public_key(name).rename(folder.revoked_key(name))
    if runs(folder):
        shut_out(folder, name)


def shut_out(folder: ServerFolder, name: str) -> None:
    """Remove a client's key from the running server, if it is registered.

    Raises:
        RunError: Flower does not remove the key.
    """
    numbers = node_numbers(folder)
    if name not in numbers:
        return
    done = run(flower.unregister(folder, numbers[name]))
    result = told_as_json(done.stdout)
    if not result.get("success"):
        error = str(result.get("error-message", "")) or done.stderr
        raise RunError(f"{name} cannot be shut out: {' '.join(error.split())[-300:]}")
    del numbers[name]
    keep_numbers(folder, numbers)


def node_numbers(folder: ServerFolder) -> dict[str, str]:
    """Flower's number of each registered client, by name."""
    try:
        numbers: dict[str, str] = json.loads((folder.flower_home / NODES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return numbers


def keep_numbers(folder: ServerFolder, numbers: Mapping[str, str]) -> None:
    """Write down Flower's number of each client's node, by the client's name; see :func:`node_numbers`."""
    (folder.flower_home / NODES).write_text(json.dumps(numbers), encoding="utf-8")


def runs(folder: ServerFolder) -> bool:
    """Whether the server runs on this machine, that is, answers at the port by which runs are started."""
    return _speaks_tls("127.0.0.1", folder.control_port, "127.0.0.1", folder)


def serves(host: str, folder: ServerFolder) -> bool:
    """Whether clients can connect."""
    return _speaks_tls(host, folder.port, folder.host, folder)


def _speaks_tls(host: str, port: int, name: str, folder: ServerFolder) -> bool:
    try:
        handshake(host, port, str(folder.ca), name)
    except OSError:
        return False
    return True


def handshake(host: str, port: int, authority: str, name: str | None = None) -> None:
    """Connect, and check that the server has a certificate of this authority for its name.

    Args:
        host: where to connect.
        port: where to connect.
        authority: the file with the authority's certificate.
        name: the server's; ``host`` if None.

    Raises:
        OSError: nobody answers, or, as ``ssl.SSLCertVerificationError``, the certificate is another one.
    """
    context = ssl.create_default_context(cafile=authority)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with socket.create_connection((host, port), 5.0) as plain, context.wrap_socket(plain, server_hostname=name or host):
        pass


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
