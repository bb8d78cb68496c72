"""A Ray cluster of several nodes on loopback: nodes come and go, and the run's bits are those of one process."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from flwr.app import ConfigRecord, Error, MessageType, RecordDict

import fedtl
from fedtl.assemble.parts import make_worker
from fedtl.choice import ConfigError
from fedtl.data.federation import Federation, Shards
from fedtl.grid.simulated import Order
from fedtl.wire import messages as m
from fedtl.wire.worker import Reply
from tests.contract.test_grids import CLIENTS, all_begun, assert_same_run

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
PATIENCE = 240
"""Seconds after which a test fails that waits for something: far more than it takes, as others may be at work here."""


def tables(gate: Path, rounds: int, **simulation: Any) -> dict[str, Any]:
    gate.mkdir(exist_ok=True)
    return {
        "name": "cluster",
        "rounds": rounds,
        "device": "cpu",
        "data": {"name": "digits", "clients": 10},
        "model": {"name": "logistic"},
        "strategy": {
            "name": "pfedme",
            "clients_per_round": 5,
            "batch_size": 16,
            "lr": 0.05,
            "lam": 15.0,
            "inner_steps": 1,
            "inner_lr": 0.05,
            "local_steps": 3,
        },
        "objective": [{"term": "tests.gate:Gate", "folder": str(gate)}],
        "evaluate": {"every": rounds},
        # Neither of the two would see who trains, and stacks of other clients round otherwise.
        "simulation": {"grid": "in-process", "stacked": False, "traced": False, **simulation},
    }


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that trains nothing itself; nodes are the tests'."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    from fedtl.grid.cluster import without_helpers

    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets' paths must be short
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # runs after Ray's own, which write there once more
    with pytest.MonkeyPatch.context() as patch, without_helpers():
        # Ray writes down where the last cluster was started; other Rays of this machine need not find it.
        patch.setenv("RAY_TMPDIR", folder)
        quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": quick, **SMALL})
        yield made
        made.shutdown()


SMALL = {"include_dashboard": False, "object_store_memory": 80 * 2**20}


class Driver:
    """``fedtl run`` on a cluster, in a process of its own: this one may be connected to another Ray."""

    def __init__(self, config: dict[str, Any], folder: Path, address: str) -> None:
        self.folder = folder
        file = folder.with_suffix(".toml")
        simulation = {**config["simulation"], "grid": "ray", "address": address}
        file.write_text(tomli_w.dumps({**config, "simulation": simulation}))
        self._output_file = folder.with_suffix(".txt")
        with self._output_file.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from fedtl.cli import main; main()", "run", str(file), "--out", str(folder)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def output(self) -> str:
        """All that it has printed, in one line."""
        return " ".join(self._output_file.read_text().split())

    def until(self, what: Callable[[], Any]) -> None:
        """Wait for something that happens while it runs."""
        until = time.monotonic() + PATIENCE
        while not what():
            assert self.process.poll() is None, f"the run ended early: {self.output()}"
            assert time.monotonic() < until, f"waited in vain: {self.output()}"
            time.sleep(0.05)

    def ends(self) -> int:
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.process.kill()


@pytest.fixture
def drive(cluster: Any, tmp_path: Path) -> Iterator[Callable[[dict[str, Any]], Driver]]:
    drivers: list[Driver] = []

    def start(config: dict[str, Any]) -> Driver:
        drivers.append(Driver(config, tmp_path / "cluster", cluster.address))
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.process.kill()
        driver.process.wait()
    for node in list(cluster.worker_nodes):
        cluster.remove_node(node, allow_graceful=False)


def holds(node: Any, gate: Path) -> bool:
    """Hold the training while an actor on this node is in the middle of it; it may have nothing to do just now."""
    (gate / "hold").touch()
    until = time.monotonic() + 1
    while time.monotonic() < until:
        if on(node, gate, "-waits"):
            return True
        time.sleep(0.02)
    (gate / "hold").unlink()
    time.sleep(0.2)
    for file in gate.glob("*-waits"):
        file.unlink()
    return False


def on(node: Any, gate: Path, suffix: str = "") -> bool:
    """Whether an actor on this node has trained (or, with ``-waits``, does so at the moment)."""
    (raylet,) = node.all_processes["raylet"]
    for file in gate.glob(f"*{suffix}"):
        pid = file.name.removesuffix(suffix)
        if pid.isdigit() and parent_of(pid) == raylet.process.pid:
            return True
    return False


def parent_of(pid: str) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_nodes_that_come_and_go_change_no_bit(
    cluster: Any, drive: Callable[[dict[str, Any]], Driver], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    config = tables(gate, rounds=120)
    fedtl.run(config, out=tmp_path / "here")
    shutil.rmtree(gate)
    gate.mkdir()

    first = cluster.add_node(num_cpus=1, **SMALL)
    (gate / "slow").touch()
    run = drive(config)
    run.until(lambda: on(first, gate))
    added = cluster.add_node(num_cpus=1, **SMALL)
    run.until(lambda: on(added, gate))  # a node that is added is used

    run.until(lambda: holds(first, gate))
    cluster.remove_node(first, allow_graceful=False)  # in the middle of a round
    (gate / "hold").unlink()
    before = rounds(run.folder)
    run.until(lambda: rounds(run.folder) > before + 1)  # a node that is lost is survived

    cluster.remove_node(added, allow_graceful=False)
    run.until(lambda: "waiting for a Ray actor to begin: each asks for 1 CPU" in run.output())
    cluster.add_node(num_cpus=1, **SMALL)
    (gate / "slow").unlink()
    assert run.ends() == 0, run.output()
    assert_same_run(tmp_path / "here", run.folder)


def rounds(folder: Path) -> int:
    return len((folder / "rounds.jsonl").read_text().splitlines())


def test_more_actors_than_fit_are_no_hang(
    cluster: Any, drive: Callable[[dict[str, Any]], Driver], tmp_path: Path
) -> None:
    config = tables(tmp_path / "gate", rounds=2, actors=3)
    fedtl.run(config, out=tmp_path / "here")
    cluster.add_node(num_cpus=1, **SMALL)
    run = drive(config)
    assert run.ends() == 0, run.output()
    assert "going on with 1 of 3 Ray actors; the others begin when there is room: each asks for 1 CPU" in run.output()
    assert_same_run(tmp_path / "here", run.folder)


@pytest.mark.usefixtures("ray_session")
def test_no_room_for_any_is_an_error_that_a_note_foretells(caplog: pytest.LogCaptureFixture) -> None:
    from fedtl.grid.ray import NoRoomError, RayGrid

    grid = RayGrid(dict, (), CLIENTS, actors=1, num_cpus=64, patience=6)  # type: ignore[arg-type]
    asked = "each asks for 64 CPU, there are 1 node with 4 CPUs and 0 GPUs in all"
    try:
        with pytest.raises(NoRoomError, match=f"^no Ray actor has begun within 6 s: {asked}$"):
            grid.processes()
    finally:
        grid.close()
    assert caplog.messages == [f"waiting for a Ray actor to begin: {asked}"]


def test_an_address_where_no_ray_answers(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    # In this process another Ray may run; a given address would not be looked at.
    from fedtl.grid.cluster import check_reachable

    for address, why in ((f"127.0.0.1:{port}", "no Ray answers there"), ("ray://head:10001", "host:port")):
        with pytest.raises(ConfigError, match=why):
            check_reachable(address)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.usefixtures("warm_actors")
def test_an_actor_that_does_not_see_the_folder_is_an_error(tmp_path: Path) -> None:
    from fedtl.grid.ray import RayGrid, WorkerStartError

    # A path that each process resolves for itself stands for a folder that machines do not share.
    descriptor = os.open(tmp_path, os.O_RDONLY)
    grid = RayGrid(dict, (), CLIENTS, actors=1, shared=Path(f"/proc/self/fd/{descriptor}"))  # type: ignore[arg-type]
    try:
        with pytest.raises(WorkerStartError, match=r"does not see /proc/self/fd/.*where clients' memories are kept"):
            grid.processes()
    finally:
        grid.close()
        os.close(descriptor)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("warm_actors")
def test_actors_that_see_the_folder_leave_it_as_it_was(tmp_path: Path) -> None:
    from fedtl.grid.ray import RayGrid

    grid = RayGrid(dict, (), CLIENTS, actors=2, shared=tmp_path / "memories")  # type: ignore[arg-type]
    try:
        assert len(set(all_begun(grid, 2))) == 2
    finally:
        grid.close()
    assert not list((tmp_path / "memories").iterdir())


class Refuses:
    """Answers for a cohort, unless one client is in it."""

    def __init__(self, client: int) -> None:
        self.client = client

    def handle(self, kind: str, content: RecordDict, clients: tuple[int, ...], first: int) -> list[Reply]:
        if self.client in clients:
            raise ValueError(f"client {self.client} is not for me\nat all")
        return [Reply(clients, RecordDict())]


@pytest.mark.usefixtures("warm_actors")
def test_of_a_cohort_that_raises_the_clients_are_asked_one_by_one() -> None:
    from fedtl.grid.ray import RayGrid

    grid = RayGrid(Refuses, (3,), CLIENTS, actors=1, large_cohorts=True)  # type: ignore[arg-type]
    try:
        replies = list(grid.carry_out(everybody(), None))
    finally:
        grid.close()
    assert sorted(reply.clients for reply in replies) == [(client,) for client in range(CLIENTS)]
    failed = {reply.clients: reply.content.reason for reply in replies if isinstance(reply.content, Error)}
    assert failed == {(3,): "ValueError: client 3 is not for me"}


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.usefixtures("warm_actors")
def test_actors_share_one_copy_of_the_data(tmp_path: Path) -> None:
    """What an actor has for itself does not grow with the data, though it has trained with all of them."""
    own: list[int] = []
    for megabytes in (1, 300):
        grid = grid_over(megabytes, tmp_path)
        try:
            processes = grid.processes()
            assert len(list(grid.carry_out(everybody(), None))) >= len(processes)
            own.append(max(private_megabytes(process) for process in processes))
        finally:
            grid.close()
    assert own[1] < own[0] + 150


def grid_over(megabytes: int, folder: Path) -> Any:
    """Two actors over a federation whose samples take so much memory."""
    from fedtl.grid.ray import RayGrid

    n = megabytes * 2**20 // 1024 // CLIENTS * CLIENTS
    index, one = np.arange(n), np.ones((), np.float32)
    each = Shards.from_sizes(index, np.full(CLIENTS, n // CLIENTS))
    none = Shards.from_sizes(index[:0], np.zeros(CLIENTS, np.int64))
    x = np.ones((n, 1024), np.uint8)
    federation = Federation(x, index % 2, 2, one, 0 * one, each, none, index[:0])
    config = {
        "name": "memory",
        "rounds": 1,
        "data": {"name": "digits", "clients": CLIENTS},
        "model": {"name": "logistic"},
        "strategy": {"name": "fedavg", "lr": 0.1, "batch_size": 200},
        "simulation": {"stacked": False},
    }
    return RayGrid(make_worker, (config, federation, str(folder), "cpu"), CLIENTS, actors=2)


def everybody() -> Order:
    content = RecordDict({m.CONFIG: ConfigRecord({m.ROUND: 1, m.SUM_UPLOADS: m.WEIGHTED})})
    return Order(MessageType.TRAIN, content, tuple(range(CLIENTS)))


def private_megabytes(process: int) -> int:
    """What a process shares with no other."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    return sum(int(kilobytes) for kilobytes in re.findall(r"^Private_\w+:\s+(\d+)", text, re.MULTILINE)) // 1024
