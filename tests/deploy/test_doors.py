"""Who gets in, and what those can do who should not have: at the server, and at clients."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import ssl
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import numpy as np
import pytest
from flwr.app import Error

from fedtl.assemble.driver import Silent
from fedtl.assemble.parts import make_worker
from fedtl.config.read import read_config
from fedtl.data.federate import federate
from fedtl.deploy import flower, folders, keys
from fedtl.deploy.client import free_port
from fedtl.deploy.folders import ServerFolder, read_client
from fedtl.deploy.superlink import LARGEST_MESSAGE
from fedtl.experiment import Place, open_run
from fedtl.grid.in_process import InProcessGrid
from fedtl.grid.simulated import Order
from fedtl.wire.worker import Reply
from tests.deploy import hostile
from tests.deploy.deployment import (
    Deployment,
    Running,
    be_impatient,
    copied,
    export,
    failures,
    global_model,
    rounds,
    until,
    write_config,
)

# Two minutes and more of processes; what is refused is also tested without them, in tests/unit/test_deploy_*.py.
pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(900)]

CONFIG = """
name = "{name}"
seed = 9
rounds = {rounds}
device = "cpu"
max_failures = 1.0

[data]
name = "digits"
clients = 3
samples = 180
server_test_share = 0
partition = { name = "dirichlet", alpha = 1.0, min_size = 20 }

[model]
name = "mlp"
hidden = [8]

[strategy]
name = "fedavg"
local_steps = 2
batch_size = 10
lr = 0.05

[evaluate]
every = 100
"""

NAMES = "abm"
M = 2

# An app of somebody else: its clients' part leaves a file wherever it is imported.
FOREIGN = {
    "pyproject.toml": """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "foreign"
version = "1.0.0"
description = "Foreign"
license = "Apache-2.0"
dependencies = ["flwr"]

[tool.flwr.app]
publisher = "somebody"

[tool.flwr.app.components]
serverapp = "foreign_server:app"
clientapp = "foreign_client:app"

[tool.flwr.app.config]
unused = ""
""",
    "foreign_client.py": """
import os
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp

socket = os.environ.get("FEDTL_AGENT")
(Path({out}) / ("imported-by-" + (Path(socket).parent.name if socket else "flower"))).touch()
app = ClientApp()

@app.query()
def answer(message, context):
    return Message(RecordDict(), reply_to=message)
""",
    "foreign_server.py": """
import json
import time
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    while len(nodes := list(grid.get_node_ids())) < 3:
        time.sleep(0.2)
    replies = grid.send_and_receive([Message(RecordDict(), node, "query") for node in nodes], timeout=200)
    reasons = [reply.error.reason if reply.has_error() else "" for reply in replies]
    unfinished = Path({out}) / "unfinished"
    unfinished.write_text(json.dumps(reasons))
    unfinished.replace(Path({out}) / "replies.json")
""",
}


@dataclass
class Results:
    """What the tests look at."""

    folder: Path
    deployment: Deployment
    disguised: Path
    hostile: Path
    wanted: Path
    """A simulation in which the hostile client fails in every round."""
    outputs: dict[str, str] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)
    replies: list[str] = field(default_factory=list)
    imported: set[str] = field(default_factory=set)
    refused: dict[str, object] = field(default_factory=dict)

    @property
    def trap(self) -> Path:
        return self.folder / "trap"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    """All attempts, on one server with two honest clients."""
    folder = tmp_path_factory.mktemp("doors")
    configs = {
        name: write_config(folder / f"{name}.toml", CONFIG, name=name, rounds=n)
        for name, n in (("disguised", 1), ("hostile", 1 + len(hostile.UPDATES)))
    }
    data = export(configs["hostile"], folder / "data")
    deployment = Deployment(folder / "study", NAMES, data)
    results = Results(folder, deployment, folder / "disguised-run", folder / "hostile-run", folder / "wanted")
    try:
        expired = with_expired_certificate(deployment)
        server = deployment.server()
        for name in "ab":
            deployment.client(name).wait_for("connected to")
        intruder = unregistered(deployment)
        results.refused |= knocks(deployment.server_folder)
        disguised_client(results, configs["disguised"])
        intruder.wait_for("does not let a in:")
        intruder.signal(signal.SIGTERM)
        results.codes["intruder"], results.outputs["intruder"] = intruder.end(), intruder.text
        strangers_at_clients(results, expired)
        foreign_code(results)
        hostile_client(results, configs["hostile"])
        results.refused["server"] = server.process.poll()
        yield results
    finally:
        deployment.close()


# What happens.


def with_expired_certificate(deployment: Deployment) -> Running:
    """A SuperLink whose certificate expired a minute ago; ``fedtl deploy server`` would not have started it."""
    folder = deployment.folder.with_name("expired")
    shutil.copytree(deployment.folder, folder)
    authority = keys.read_pair(folder / "authority" / "ca.pem", folder / "authority" / "ca.key")
    now = datetime.now(UTC)
    pair = keys.server_certificate(
        authority, "localhost", not_before=now - timedelta(hours=1), not_after=now - timedelta(minutes=1)
    )
    pair.write(folder / "server" / "server.pem", folder / "server" / "server.key")
    move(folder, free_port())
    command = flower.superlink(folders.read_server(folder), "127.0.0.1")
    return deployment.start_program(*command.words, environment=command.environment)


def move(folder: Path, port: int) -> None:
    """Let a copy of a deployment be at other ports."""
    server = folders.read_server(folder)
    for file, changes in (
        (folder / "server" / "server.toml", {server.port: port, server.control_port: free_port()}),
        *((folder / name / "client.toml", {server.port: port}) for name in server.clients),
    ):
        text = file.read_text()
        for old, new in changes.items():
            text = text.replace(str(old), str(new))
        file.write_text(text)


def unregistered(deployment: Deployment) -> Running:
    """Somebody with the certificate of the authority, and a key of their own."""
    folder = copied(deployment.folder / "a", deployment.folder.with_name("intruder"))
    keys.write_client_key(folder / "client.key", folder / "client.pub", "a")
    return deployment.client("a", folder=folder)


def disguised_client(results: Results, config: Path) -> None:
    """Somebody who is let in by the key of m, with the folder of a."""
    deployment = results.deployment
    folder = copied(deployment.folder / "a", results.folder / "disguised")
    shutil.copy(deployment.folder / "m" / "client.key", folder)
    be_impatient(folder)
    client = deployment.client("m", folder=folder)
    client.wait_for("connected to")
    run = deployment.run(config, results.disguised, "--data", deployment.data / "server")
    results.codes["disguised"], results.outputs["disguised"] = run.end(), run.text
    client.signal(signal.SIGTERM)
    assert client.end() == 0, client.text


def strangers_at_clients(results: Results, expired: Running) -> None:
    """Servers that clients should not talk to; and one that should not begin."""
    deployment = results.deployment
    outdated = results.folder / "expired"
    refusing = deployment.start("deploy", "server", outdated / "server")
    results.codes["expired server"], results.outputs["expired server"] = refusing.end(), refusing.text
    server = folders.read_server(outdated)
    until(lambda: expired.process.poll() is not None or answers(server), "the SuperLink")
    folders.create(results.folder / "other", "a", "localhost")
    untrusting = copied(deployment.folder / "a", results.folder / "untrusting")
    shutil.copy(results.folder / "other" / "a" / "ca.pem", untrusting)
    for what, folder in (("expired", outdated / "a"), ("wrong authority", untrusting)):
        client = deployment.client("a", folder=folder)
        results.codes[what], results.outputs[what] = client.end(), client.text
    expired.kill()


def answers(server: ServerFolder) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", server.port)) == 0


def foreign_code(results: Results) -> None:
    """Whoever rules the server sends an app to all: to fedtl's clients, and to Flower's own SuperNode."""
    deployment, out = results.deployment, results.folder / "out"
    out.mkdir()
    app = results.folder / "app"
    app.mkdir()
    for name, text in FOREIGN.items():
        (app / name).write_text(text.replace("{out}", repr(str(out))))
    command = flower.supernode(read_client(deployment.folder / "m"), free_port(), results.folder)
    environment = {key: value for key, value in command.environment.items() if key != "FEDTL_AGENT"}
    plain = deployment.start_program(*command.words, environment=environment)
    plain.wait_for("SuperNode ID")
    server = deployment.server_folder
    words, environment = ["flwr", "run", app, flower.SUPERLINK], flower.run(server, app, "").environment
    started = deployment.start_program(*words, environment=environment)
    assert started.end() == 0, started.text
    until((out / "replies.json").exists, "the replies to a foreign app")
    results.replies = json.loads((out / "replies.json").read_text())
    results.imported = {file.name for file in out.glob("imported-*")}
    plain.signal(signal.SIGTERM)
    plain.end()


def hostile_client(results: Results, config: Path) -> None:
    """Somebody who is let in by the key of m, and sends what they like."""
    deployment, folder = results.deployment, read_client(results.deployment.folder / "m")
    programs = results.folder / "programs"
    programs.mkdir()
    program = programs / "flwr-clientapp"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m tests.deploy.hostile "$@"\n')
    program.chmod(0o700)
    shutil.copy(folder.path / "flower" / "bin" / "flower-supernode", programs)
    command = flower.supernode(folder, free_port(), programs)
    environment = {
        **command.environment,
        hostile.DATA: str(deployment.data / str(M)),
        hostile.MEMORY: str(results.folder / "asked"),
        hostile.TRAP: str(results.trap),
    }
    node = deployment.start_program(programs / command.words[0], *command.words[1:], environment=environment)
    node.wait_for("SuperNode ID")
    run = deployment.run(config, results.hostile, "--data", deployment.data / "server")
    results.codes["hostile"], results.outputs["hostile"] = run.end(), run.text

    read, _ = read_config(config, ["simulation.grid=in-process"])
    federation = federate(read.data, read.seed)
    worker = make_worker(read.tables(), federation, str(results.wanted / "memories"), "cpu")
    open_run(read, federation, Place(results.wanted), Silent()).rounds(WithoutM(worker, len(NAMES)))


class WithoutM(InProcessGrid):
    """A simulation in which one client always fails."""

    def carry_out(self, order: Order, timeout: float | None) -> Iterable[Reply]:
        others = tuple(client for client in order.clients if client != M)
        return [*self._worker.handle(order.kind, order.content, others), Reply((M,), Error(0, "it always fails"))]


def knocks(server: ServerFolder) -> dict[str, object]:
    """What comes of messages that no client would send."""
    address = ("127.0.0.1", server.port)
    with socket.create_connection(address) as plain:
        plain.sendall(os.urandom(4096))
    with socket.create_connection(address) as plain:
        hello = ssl.MemoryBIO()
        with_hello = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            with_hello.do_handshake()
        plain.sendall(hello.read()[:100])
    context = ssl.create_default_context(cafile=str(server.ca))
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(address) as plain, context.wrap_socket(plain, server_hostname="localhost") as tls:
        tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
        tls.sendall((1000).to_bytes(3) + b"\0\0\0\0\0\1" + bytes(10))  # ten of a thousand bytes of a DATA frame
    credentials = grpc.ssl_channel_credentials(server.ca.read_bytes())
    replies: dict[str, object] = {}
    options = [("grpc.max_send_message_length", -1)]
    with grpc.secure_channel(f"localhost:{server.port}", credentials, options) as channel:
        call = channel.unary_unary("/flwr.proto.Fleet/PullMessages")
        for name, message in (("oversized", bytes(LARGEST_MESSAGE + 1)), ("unauthenticated", b"")):
            with pytest.raises(grpc.RpcError) as caught:
                call(message, timeout=100)
            replies[name] = caught.value.code()  # type: ignore[attr-defined]
    with socket.create_connection(address) as plain, context.wrap_socket(plain, server_hostname="localhost") as tls:
        replies["still"] = tls.selected_alpn_protocol()
    return replies


# Who is let in.


def test_an_unregistered_key_does_not_get_in(results: Results) -> None:
    assert "does not let a in: its key is not registered there" in results.outputs["intruder"]
    assert "connected to" not in results.outputs["intruder"]
    assert results.codes["intruder"] == 0
    # It used a's name all along, and a took part in everything.
    for line in [*rounds(results.disguised), *rounds(results.hostile)]:
        assert 0 not in failures(line)


def test_the_key_says_who_somebody_is(results: Results) -> None:
    assert results.codes["disguised"] == 0
    (line,) = rounds(results.disguised)
    assert line["clients"] == [0, 1, 2]
    assert {*failures(line)} == {M}
    assert "it is client 0 by its folder, not client 2" in failures(line)[M]


def test_a_server_with_an_expired_certificate_does_not_begin(results: Results) -> None:
    assert results.codes["expired server"] == 1
    (line,) = results.outputs["expired server"].splitlines()
    assert "the server's certificate expired on" in line
    assert "fedtl deploy init DIR --renew" in line


def test_a_client_does_not_talk_to_a_server_with_an_expired_certificate(results: Results) -> None:
    assert results.codes["expired"] == 1
    assert results.outputs["expired"].splitlines()[-1].endswith("vouches for: certificate has expired")
    assert "Traceback" not in results.outputs["expired"]


def test_a_client_does_not_talk_to_a_server_of_another_authority(results: Results) -> None:
    assert results.codes["wrong authority"] == 1
    last = results.outputs["wrong authority"].splitlines()[-1]
    assert f"is not the server that {results.folder / 'untrusting' / 'ca.pem'} vouches for" in last
    assert "Traceback" not in results.outputs["wrong authority"]


# What they send.

REASONS = {
    "NaN": "its arrays are not finite: they hold NaN or infinity",
    "a million times": "its update has norm",
    "another shape": "an array of it has shape",
    "another client": "it answers for [0], and is client 2",
    "pickled": "an array of it ",
    "a pickle alone": "an array of it is garbled",
    "cut off": "an array of it ends after",
}


def test_somebody_who_claims_anothers_name_is_refused(results: Results) -> None:
    assert failures(rounds(results.hostile)[0]) == {M: "it has the key of m, and says that it is a"}


@pytest.mark.parametrize("update", hostile.UPDATES)
def test_an_update_that_is_none_is_refused_with_its_reason(results: Results, update: str) -> None:
    line = rounds(results.hostile)[1 + [*hostile.UPDATES].index(update)]
    (reason,) = {each["message"] for each in line["failures"] if not each["message"].startswith("scoring: ")}
    assert reason.startswith(REASONS[update])
    assert {*failures(line)} == {M}


def test_scores_of_samples_that_nobody_has_are_refused(results: Results) -> None:
    last = rounds(results.hostile)[-1]
    (scoring,) = [each for each in last["failures"] if each["message"].startswith("scoring: ")]
    assert scoring["client"] == M
    assert "'num-examples' is 1000000, and may be a whole number from " in scoring["message"]
    (scored,) = rounds(results.hostile, "clients.jsonl")
    assert scored["clients"] == [0, 1]


def test_the_model_is_what_it_would_be_without_them(results: Results) -> None:
    assert results.codes["hostile"] == 0
    np.testing.assert_allclose(global_model(results.hostile), global_model(results.wanted), rtol=1e-6, atol=1e-7)


def test_nothing_is_unpickled(results: Results) -> None:
    assert not results.trap.exists()


def test_clients_do_not_run_code_that_the_server_sends(results: Results) -> None:
    # Flower's own SuperNode does: the app would have run.
    assert results.imported == {"imported-by-flower"}
    assert sorted(results.replies) == ["", *["ConfigError at the client; its log says more"] * 2]


def test_the_server_bears_what_is_no_message(results: Results) -> None:
    assert results.refused == {
        "oversized": grpc.StatusCode.RESOURCE_EXHAUSTED,
        "unauthenticated": grpc.StatusCode.UNAUTHENTICATED,
        "still": "h2",
        "server": None,
    }
