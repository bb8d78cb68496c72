"""``fedtl deploy status``: the state of the server, or of a client, and of their studies."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from fedtl.deploy import keys
from fedtl.deploy.folders import ClientFolder, ServerFolder
from fedtl.deploy.server import node_numbers, registered, runs
from fedtl.deploy.serverapp import RunRequest
from fedtl.disk.tensors import DamagedError
from fedtl.runs.checkpoint import last_round

LONGEST = 120
"""Characters of an error that are shown in a table."""


@dataclass(frozen=True)
class StudyState:
    """A study as a folder shows it.

    Attributes:
        name: at the clients.
        folder: of its run.
        round: the last finished one; 0 if there is none.
        state: "finished", "ended: why", "running", "stopped", "damaged: why"; at a client "keeps memories" or "".
    """

    name: str
    folder: Path
    round: int
    state: str


@dataclass(frozen=True)
class ServerState:
    """Whether the server runs, and who is connected.

    Attributes:
        runs: whether the SuperLink runs.
        expires: when the certificate expires.
        clients: name, state and since when, of each registered client.
        studies: sorted by name.
    """

    runs: bool
    expires: datetime
    clients: list[tuple[str, str, str]]
    studies: list[StudyState]


def of_server(folder: ServerFolder) -> ServerState:
    """The state of the server on this machine."""
    there = runs(folder)
    studies = []
    for file in sorted(folder.studies.glob("*.json")):
        if file.name.endswith(".end.json"):
            continue
        order = RunRequest.read(folder, file.stem)
        end = order.end(folder)
        state = "finished" if end is not None else "running" if order.goes_on(folder) else "stopped"
        if end and "error" in end:
            state = f"ended: {end['error'][:LONGEST]}"
        studies.append(_study(order.study, Path(order.run), state))
    return ServerState(there, keys.expiry(folder.certificate), _clients(folder) if there else [], studies)


def _study(name: str, folder: Path, state: str) -> StudyState:
    """A study's row; a damaged study has one too."""
    try:
        return StudyState(name, folder, last_round(folder), state)
    except DamagedError as error:
        return StudyState(name, folder, 0, f"damaged: {str(error)[:LONGEST]}")


def _clients(folder: ServerFolder) -> list[tuple[str, str, str]]:
    """Name, state and since when, of each registered client."""
    name_of = {number: name for name, number in node_numbers(folder).items()}
    rows = []
    for node in registered(folder):
        number = str(node["node-id"])
        if number not in name_of:
            continue
        since = node["online-at" if node["status"] == "online" else "offline-at"]
        rows.append((name_of[number], node["status"], since))
    rows += [(name, "revoked", "") for name in folder.clients if name not in folder.admitted]
    return sorted(rows)


@dataclass(frozen=True)
class ClientState:
    """Whether a client runs, and the studies that it keeps.

    Attributes:
        runs: whether its process runs.
        studies: sorted by name.
    """

    runs: bool
    studies: list[StudyState]


def of_client(folder: ClientFolder) -> ClientState:
    """The state of a client on this machine."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(folder.socket))
            runs = True
        except OSError:
            runs = False
    studies = [
        _study(each.name, each, "keeps memories" if any(each.glob("memories/*/*")) else "")
        for each in sorted(folder.studies.glob("*/"))
    ]
    return ClientState(runs, studies)
