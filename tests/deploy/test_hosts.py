"""A deployment on four hosts whose cables are cut; see results/deploy/README.md for what a run looked like.

pytest -s tests/deploy/test_hosts.py
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.hosts import Hosts, Program, wait_until, why_not

pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(1200)]

CLIENTS = ("north", "south", "west")
PORT, CONTROL = 9092, 9093
SHORT, LONG = 20, 100
"""Seconds of the two cuts: within Flower's patience with a silent SuperNode, which is 60 s, and beyond it."""
ROUND_TIMEOUT = 240
INTERRUPTED = 130
NOT_SCORED = "scoring: it is not connected"

STUDY = ["quickstart", "data.clients=3", "strategy.clients_per_round=3", "evaluate.every=5"]
FEDTL = [str(Path(sys.executable).parent / "fedtl")]

SCAN = """
import socket, sys
host, found = sys.argv[1], []
for port in range(1, 65536):
    with socket.socket() as probe:
        probe.settimeout(2)
        if probe.connect_ex((host, port)) == 0:
            found.append(port)
print(*found)
"""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with Hosts(["server", *CLIENTS], tmp_path_factory.mktemp("hosts")) as made:
        yield made


@pytest.fixture(scope="module")
def connected(hosts: Hosts) -> dict[str, Program]:
    """The server and three clients, on a host each."""
    made = hosts.folder / "made"
    parts = hosts.folder / "parts"
    hosts.run("server", *FEDTL, "partition", *STUDY, "--export", parts, "-o", hosts.folder / "parts.png")
    names = ",".join(CLIENTS)
    hosts.run("server", *FEDTL, "deploy", "init", made, "--clients", names, "--server", hosts.address("server"))
    programs = {"server": hosts.start("server", *FEDTL, "deploy", "server", made / "server")}
    wait_until(lambda: programs["server"].lines("ready:"), 120, "the server is ready", [*programs.values()])
    for i, name in enumerate(CLIENTS):
        programs[name] = hosts.start(name, *FEDTL, "deploy", "client", made / name, "--data", parts / str(i))
    for name in CLIENTS:
        wait_until(partial(programs[name].lines, "connected to"), 120, f"{name} connects", [*programs.values()])
    return programs


def test_of_the_server_its_port_alone_can_be_reached_and_of_a_client_nothing(
    hosts: Hosts, connected: dict[str, Program]
) -> None:
    assert hosts.run("north", sys.executable, "-c", SCAN, hosts.address("server")).split() == [str(PORT)]
    assert hosts.run("server", sys.executable, "-c", SCAN, hosts.address("north")).split() == []
    assert hosts.run("south", sys.executable, "-c", SCAN, hosts.address("north")).split() == []
    # The control port is there, on the server's own machine.
    assert str(CONTROL) in hosts.run("server", sys.executable, "-c", SCAN, "127.0.0.1").split()


def test_cut_for_a_while_and_cut_for_long(hosts: Hosts, connected: dict[str, Program]) -> None:
    folder, made = hosts.folder / "run", hosts.folder / "made"
    changes = [*STUDY[1:], "rounds=100", f"deploy.round_timeout={ROUND_TIMEOUT}"]
    running = hosts.start("server", *FEDTL, "deploy", "run", STUDY[0], made / "server", *changes, "--out", folder)
    began, everybody = time.monotonic(), [*connected.values(), running]

    def rounds() -> list[dict[str, Any]]:
        file = folder / "rounds.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def note(what: str) -> None:
        print(f"{time.monotonic() - began:.0f} s, after round {len(rounds())}: {what}")

    def cut(name: str, seconds: float) -> tuple[int, int]:
        """Cut a client's cable for a while; how many rounds there were before and after."""
        before = len(rounds())
        hosts.cut(name)
        note(f"{name} is cut off")
        time.sleep(seconds)
        hosts.heal(name)
        note(f"{name}'s cable is whole again")
        return before, len(rounds())

    wait_until(lambda: len(rounds()) >= 2, 180, "two rounds", everybody)
    short = cut("south", SHORT)
    wait_until(lambda: len(rounds()) >= short[1] + 2, 120, "rounds after the short cut", everybody)
    long = cut("west", LONG)
    wait_until(lambda: len(took_part(rounds()[long[1] :], 2)) >= 2, 300, "west takes part again", everybody)
    note("west has taken part twice again")
    assert running.stop() == INTERRUPTED
    done = rounds()
    print_rounds(done)

    # The server waits for who may be slow, and nothing is lost; in that while another round may have ended before.
    assert took_part(done[: long[0]], 0, 1, 2) == list(range(1, long[0] + 1))
    assert max(each["seconds"] for each in done[short[0] : short[1] + 1]) > SHORT
    # It does not wait for who is gone: the others go on, and say why.
    away = done[long[0] + 1 : long[1]]
    assert len(away) >= 2
    assert took_part(away, 2) == []
    assert {text for each in away for text in failures(each)[2]} <= {"it is not connected", NOT_SCORED}
    assert took_part(done, 0, 1) == list(range(1, len(done) + 1))
    # And it came back by itself, in the process that it had.
    assert running.lines("west is connected again")
    for name in CLIENTS:
        assert connected[name].process.poll() is None
        assert len(connected[name].lines("connected to")) == 1
        assert not connected[name].lines("starting it again")


def failures(line: dict[str, Any]) -> dict[int, list[str]]:
    """What is recorded of a round's failures, by client."""
    messages: dict[int, list[str]] = {}
    for each in line["failures"]:
        messages.setdefault(each["client"], []).append(each["message"])
    return messages


def took_part(rounds: list[dict[str, Any]], *clients: int) -> list[int]:
    """In which rounds all of these clients did, without a failure."""
    return [each["round"] for each in rounds if not failures(each).keys() & set(clients)]


def print_rounds(rounds: list[dict[str, Any]]) -> None:
    print("| round | seconds | who failed, and why |", "| ---: | ---: | --- |", sep="\n")
    for each in rounds:
        why = "; ".join(f"{CLIENTS[client]}: {', '.join(texts)}" for client, texts in failures(each).items())
        print(f"| {each['round']} | {each['seconds']:.1f} | {why} |")
