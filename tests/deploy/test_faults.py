"""What goes wrong among real clients: processes are killed, hang and are stopped, and studies go on."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, MessageType, RecordDict
from numpy.typing import NDArray
from safetensors.numpy import load_file

from fedtl.assemble.parts import make_worker
from fedtl.config.read import read_config
from fedtl.data.own.part import FRAME
from fedtl.data.own.read import read_own
from fedtl.data.schema import DataSchema
from fedtl.engine.task import PRIVATE
from fedtl.wire import messages as m
from tests.deploy.deployment import (
    Deployment,
    Running,
    export,
    failures,
    global_model,
    memory,
    model,
    rounds,
    simulated,
    studied,
    until,
    write_config,
)
from tests.deploy.held import hold, release, waits

# Five minutes, most of them waiting for Flower to notice: run by hand.
pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(900)]

CONFIG = """
name = "faults"
seed = 5
rounds = 6
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
name = "pfedme"
local_steps = 3
batch_size = 10
lr = 0.05
lam = 15.0
inner_steps = 2
inner_lr = 0.05
private = ["head"]

[[objective]]
term = "tests.deploy.held:Held"
folder = "{gates}"

[simulation]
recorded = false  # a recorded step does not come by the term any more

[evaluate]
every = 100
"""

A, B, C = range(3)
NAMES = "abc"
CALM = "rounds=4"
LATE = 30.0


@dataclass
class Results:
    """What the tests look at, as it was when it happened."""

    deployment: Deployment
    calm: Path
    rough: Path
    simulated: Path
    outputs: dict[str, str] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)
    left: dict[str, object] = field(default_factory=dict)
    again: int = 0
    """The first round that the killed clients were in again."""
    w: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    """The global model that it began with."""
    before: dict[int, dict[str, NDArray[np.float32]]] = field(default_factory=dict)
    after: dict[int, dict[str, NDArray[np.float32]]] = field(default_factory=dict)
    """What they remembered when it began, and what of it; by client."""


class Story:
    """All that happens, on one server, as each of its starts takes longer than any of the tests."""

    def __init__(self, folder: Path) -> None:
        self.gates = folder / "gates"
        self.gates.mkdir()
        self.config = write_config(folder / "faults.toml", CONFIG, gates=self.gates)
        data = export(self.config, folder / "data")
        self.deployment = Deployment(folder / "study", NAMES, data)
        self.results = Results(self.deployment, folder / "calm", folder / "rough", folder / "simulated")
        self.server: Running
        self.clients: dict[str, Running] = {}

    def tell(self) -> Results:
        self.before_the_server()
        self.interrupted_and_gone_on_with()
        self.killed_clients()
        self.too_few_clients()
        self.hanging_client()
        self.stopped()
        simulated(self.config, self.results.simulated, CALM)
        return self.results

    def run(self, name: str, *words: object) -> Running:
        data = ["--data", self.deployment.data / "server"]  # it says how samples are normalised
        return self.deployment.run(self.config, getattr(self.results, name), *data, *words)

    def wait_for_training(self, *names: str) -> None:
        """Wait until clients are in the middle of their training."""
        for name in names:
            pid = self.clients[name].pid
            until(lambda pid=pid: waits(self.gates, pid), f"{name} in training")

    def hold(self, *names: str) -> None:
        for name in names:
            hold(self.gates, self.clients[name].pid)

    def release(self, *names: str) -> None:
        for name in names:
            release(self.gates, self.clients[name].pid)

    def remembers(self, name: str, round: int) -> bool:
        """Whether a client has trained in a round of the second study."""
        return round in self.versions(name)

    def before_the_server(self) -> None:
        """Clients that come first wait, also while their keys are being registered."""
        self.clients = {name: self.deployment.client(name, "--config", self.config) for name in NAMES}
        for client in self.clients.values():
            client.wait_for("is not ready yet")
        self.server = self.deployment.server()
        for name, client in self.clients.items():
            client.wait_for("connected to")
            self.results.outputs[f"early {name}"] = client.text

    # One study that is interrupted twice while nothing else is wrong.

    def interrupted_and_gone_on_with(self) -> None:
        results, deployment = self.results, self.deployment
        first = self.run("calm", CALM)
        until(lambda: rounds(results.calm), "a first round")
        self.hold("c")
        self.wait_for_training("c")
        first.signal(signal.SIGINT)
        results.codes["SIGINT"], results.outputs["SIGINT"] = first.end(), first.text

        self.release("c")  # it is still in the round that was stopped, and its reply is nobody's
        second = self.run("calm", CALM, "--resume")
        until(lambda: len(rounds(results.calm)) >= 2, "a second round")
        self.hold("c")
        self.wait_for_training("c")
        of_server = {*deployment.children(self.server.pid)}
        self.server.kill()  # alone
        until(lambda: not of_server & deployment.processes().keys(), "the end of what the server had started")
        results.codes["killed"], results.outputs["killed"] = second.end(), second.text
        results.left["rounds of the killed server"] = len(rounds(results.calm))
        self.release("c")
        self.server, restarted = deployment.server(), time.time()
        # A SuperNode tries less and less often, and one that was not heard of for too long begins anew.
        until(lambda: deployment.heard_from_all(restarted), "a sign of life of all clients")
        third = self.run("calm", CALM, "--resume")
        results.codes["calm"], results.outputs["calm"] = third.end(), third.text

    # One study in which much is.

    def killed_clients(self) -> None:
        results, deployment = self.results, self.deployment
        assert self.run("rough", "rounds=1").end() == 0
        self.hold(*NAMES)
        run = self.run("rough", "--resume", "rounds=4")
        self.wait_for_training(*NAMES)
        (node,) = deployment.children(self.clients["a"].pid, "flower-supernode")
        of_b = {*deployment.children(self.clients["b"].pid)}
        os.kill(node, signal.SIGKILL)
        self.clients["b"].kill()
        self.release("a", "c")
        until(lambda: not of_b & deployment.processes().keys(), "the end of b's SuperNode")
        until(lambda: self.remembers("c", 2), "c's second round")
        self.hold("c")  # so that round 3 does not end before the others are back
        self.clients["b"] = deployment.client("b", "--config", self.config)
        self.hold("a", "b")
        for name in "ab":
            self.clients[name].wait_for("connected to")
            results.outputs[name] = self.clients[name].text
        self.wait_for_training("c")
        self.release("c")
        self.wait_for_training("a", "b")
        results.w, results.again = global_model(results.rough), len(rounds(results.rough)) + 1
        for client, name in enumerate("ab"):
            results.before[client] = self.kept(name)
        self.release("a", "b")
        assert run.end() == 0, run.text
        for client, name in enumerate("ab"):
            results.after[client] = self.kept(name, results.again)

    def kept(self, name: str, round: int | None = None) -> dict[str, NDArray[np.float32]]:
        """What a client remembers of a round of the second study, or of its last one."""
        versions = self.versions(name)
        return load_file(versions[round or max(versions)])

    def versions(self, name: str) -> dict[int, Path]:
        """What a client remembers of the second study, by round."""
        files = studied(self.deployment.folder / name, self.results.rough).glob("memories/*/*.safetensors")
        return {int(file.stem.partition("-")[2]): file for file in files}

    def too_few_clients(self) -> None:
        results = self.results
        self.clients["c"].signal(signal.SIGTERM)
        assert self.clients["c"].end() == 0
        run = self.run("rough", "--resume", "rounds=5", "deploy.min_clients=3", "deploy.wait=3")
        results.codes["too few"], results.outputs["too few"] = run.end(), run.text
        self.clients["c"] = self.deployment.client("c", "--config", self.config)
        self.clients["c"].wait_for("connected to")

    def hanging_client(self) -> None:
        results = self.results
        self.hold("c")
        run = self.run("rough", "--resume", "rounds=6", f"deploy.round_timeout={LATE}")
        self.wait_for_training("c")
        os.kill(self.clients["c"].pid, signal.SIGSTOP)
        try:
            until(lambda: len(rounds(results.rough)) >= 5, "a fifth round")
        finally:
            os.kill(self.clients["c"].pid, signal.SIGCONT)
        self.release("c")
        assert run.end() == 0, run.text
        results.outputs["hanging"] = run.text

    def stopped(self) -> None:
        results, deployment = self.results, self.deployment
        for name, each in [("server", self.server), *self.clients.items()]:
            each.signal(signal.SIGTERM)
            results.codes[f"SIGTERM to {name}"], results.outputs[f"SIGTERM to {name}"] = each.end(), each.text
        results.left["processes"] = deployment.processes()
        folder = deployment.server_folder
        results.left["ports"] = [port for port in (folder.port, folder.control_port) if not is_free(port)]


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    story = Story(tmp_path_factory.mktemp("faults"))
    try:
        yield story.tell()
    finally:
        story.deployment.close()


# Clients that come first.


def test_a_client_that_comes_before_its_server_waits(results: Results) -> None:
    for name in NAMES:
        assert f"is not ready yet (Connection refused): {name} waits for it" in results.outputs[f"early {name}"]
        assert "does not let" not in results.outputs[f"early {name}"]


# Interrupted studies.


def test_ctrl_c_stops_the_study_and_says_how_to_go_on(results: Results) -> None:
    assert results.codes["SIGINT"] == 130
    assert results.outputs["SIGINT"].rstrip().endswith(f"; to go on: add --resume --out {results.calm}")
    assert "Traceback" not in results.outputs["SIGINT"]


def test_a_killed_server_is_told_of_in_a_sentence(results: Results) -> None:
    assert results.codes["killed"] == 1
    assert "output ended before the run did" in results.outputs["killed"]
    assert "--resume continues it" in results.outputs["killed"]
    assert "Traceback" not in results.outputs["killed"]


def test_it_goes_on_from_the_last_checkpoint(results: Results) -> None:
    last = results.left["rounds of the killed server"]
    assert isinstance(last, int)
    assert 2 <= last < 4
    assert results.codes["calm"] == 0
    assert f"resumed at round {last + 1}" in results.outputs["calm"]
    assert [line["round"] for line in rounds(results.calm)] == [1, 2, 3, 4]


def test_stops_leave_no_trace_in_the_model(results: Results) -> None:
    assert not any(map(failures, rounds(results.calm)))
    np.testing.assert_allclose(model(results.calm), model(results.simulated), rtol=1e-6, atol=1e-7)
    for client, name in enumerate(NAMES):
        kept = studied(results.deployment.folder / name, results.calm)
        here, there = memory(kept, client, 4), memory(results.simulated, client, 4)
        assert here.keys() == there.keys() == {"theta", PRIVATE}
        for key, vector in here.items():
            np.testing.assert_allclose(vector, there[key], rtol=1e-6, atol=1e-7)


# Killed clients.


def test_a_round_goes_on_without_killed_clients(results: Results) -> None:
    first, second = rounds(results.rough)[:2]
    assert not failures(first)
    messages = failures(second)
    assert messages.keys() == {A, B}
    # Who notices first: Flower's server, the study's, or the client that is back already.
    reasons = ("Error: Node Unavailable", "its connection was lost", "it was restarted meanwhile")
    assert all(reason.startswith(reasons) for reason in messages.values())
    assert second["steps"] * 3 == first["steps"]
    assert np.isfinite(global_model(results.rough)).all()


def test_a_killed_supernode_is_started_again(results: Results) -> None:
    assert results.outputs["a"].count("the SuperNode ended with exit code -9") == 1
    assert results.outputs["a"].count("connected to") == 2
    again = rounds(results.rough)[results.again - 1]
    assert not failures(again)  # whether the server noticed that it was gone depends on who looks first


def test_killed_clients_go_on_with_their_own_memory(results: Results) -> None:
    """Their next round is the one of a simulated client that has what they kept."""
    config, _ = read_config(results.rough)
    content = RecordDict(
        {
            m.ARRAYS: m.pack(results.w),
            m.CONFIG: ConfigRecord({m.ROUND: results.again, m.PHASE: 0, m.PROGRESS: 0.0, m.SUM_UPLOADS: m.UNWEIGHTED}),
        }
    )
    data, frame = results.deployment.data, DataSchema.read(results.deployment.data / "server" / FRAME)
    for client in (A, B):
        federation = read_own(str(data / str(client))).as_federation(frame, client, 3)
        here = results.after[client]
        assert results.before[client].keys() == {"theta", PRIVATE}
        for remembers in (True, False):
            there = trained(results, config.tables(), federation, content, client, remembers)
            equal = all(np.allclose(vector, there[key], rtol=1e-5, atol=1e-6) for key, vector in here.items())
            assert equal is remembers


def trained(
    results: Results, tables: dict[str, Any], federation: Any, content: RecordDict, client: int, remembers: bool
) -> dict[str, NDArray[np.float32]]:
    """What a client in this process keeps of the round."""
    folder = results.rough.with_name(f"again-{client}-{remembers}") / "memories"
    folder.parent.mkdir()
    worker = make_worker(tables, federation, str(folder), "cpu")
    if remembers:
        import torch

        worker.store.save(client, 0, {key: torch.tensor(vector) for key, vector in results.before[client].items()})
    worker.handle(MessageType.TRAIN, content, (client,))
    kept = memory(folder.parent, client, results.again)
    shutil.rmtree(folder.parent)
    return kept


# Clients that are not there.


def test_a_study_with_too_few_clients_waits_and_then_says_so(results: Results) -> None:
    assert results.codes["too few"] == 1
    assert (
        "2 of 3 clients are connected after deploy.wait = 3 s, and 3 must be; not there: c"
        in results.outputs["too few"]
    )
    assert "Traceback" not in results.outputs["too few"]


def test_a_hanging_client_is_left_behind_after_the_timeout(results: Results) -> None:
    fifth, sixth = rounds(results.rough)[4:]
    assert failures(fifth) == {C: f"it did not answer within {LATE:g} s"}
    assert fifth["steps"] * 3 == sixth["steps"] * 2


def test_one_that_hung_is_back_and_its_late_reply_does_no_harm(results: Results) -> None:
    *_, sixth = rounds(results.rough)
    assert (sixth["round"], failures(sixth)) == (6, {})
    assert np.isfinite(model(results.rough)).all()
    assert "Traceback" not in results.outputs["hanging"]


# The end.


def test_sigterm_ends_server_and_clients_well(results: Results) -> None:
    codes = {what: code for what, code in results.codes.items() if what.startswith("SIGTERM")}
    assert codes == {f"SIGTERM to {name}": 0 for name in ("server", *NAMES)}
    for what in codes:
        assert results.outputs[what].endswith("stopped\n")
        assert "Traceback" not in results.outputs[what]


def test_nothing_of_them_is_left(results: Results) -> None:
    assert results.left["processes"] == {}
    assert results.left["ports"] == []
