"""A Ray of our own: who can reach it, what is said where it cannot start, and what a notebook defines itself."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import fedtl
from fedtl.choice import ConfigError, load_object
from fedtl.config.read import read_config
from fedtl.failure import RunError
from tests.contract.test_grids import assert_same_run

ROOT = Path(__file__).parents[2]
ray = pytest.importorskip("ray")
pytestmark = pytest.mark.ray


# What a notebook defines.

NOTEBOOK = """
import threading
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F
from fedtl.data.sets.digits import Digits
from fedtl.losses.term import Term
from fedtl.models.settings import ModelChoice
from fedtl.strategies.fedavg import FedAvg

WIDTH, LOCK = 5, threading.Lock()

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = nn.Linear(64, width)

    def forward(self, x):
        return torch.tanh(self.first(x.flatten(1)))

class Net(nn.Module):
    def __init__(self, classes, width: int = WIDTH):
        super().__init__()
        self.block, self.head = Block(width), nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.block(x))

class Outer:
    class Inner(Net):
        pass

def locked(classes):
    with LOCK:
        return Net(classes)

class Choice(ModelChoice):
    width: int = Field(4, gt=0)

    def build(self, shape, classes):
        return Net(classes, self.width)

class Scaled(Term):
    scale: float = 1.0

    def value(self, context):
        return self.scale * F.cross_entropy(context.logits, context.labels)

class Mine(FedAvg):
    pass

class Again(Digits):
    pass

def share(labels, probabilities):
    return (probabilities.argmax(1) == labels).mean()
"""

PARTS: dict[str, dict[str, Any]] = {
    "inner class": {"model": {"name": "__main__:Outer.Inner", "width": 6}},
    "all": {
        "model": {"name": "__main__:Choice", "width": 3},
        "objective": [{"term": "__main__:Scaled", "scale": 2.0, "name": "__main__:label"}],
        "strategy": {"name": "__main__:Mine", "lr": 0.1, "clients_per_round": 3},
        "data": {"name": "__main__:Again", "clients": 5},
        "evaluate": {"metrics": ["__main__:share"]},
    },
}


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this process were the notebook's."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(NOTEBOOK, space)
    for name, value in space.items():
        if isinstance(value, (type, FunctionType)) and value.__module__ == "__main__":
            monkeypatch.setattr(sys.modules["__main__"], name, value, raising=False)


def tables(grid: str, **parts: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "name": "notebook",
        "rounds": 2,
        "device": "cpu",
        "data": {"name": "digits", "clients": 5},
        "model": {"name": "logistic"},
        "strategy": {"name": "fedavg", "lr": 0.1, "clients_per_round": 3},
        "simulation": {"grid": grid, **({"actors": 2} if grid == "ray" else {})},
    }
    return defaults | parts


@pytest.mark.usefixtures("ray_session", "notebook")
@pytest.mark.parametrize("name", PARTS)
def test_what_a_notebook_defines_gives_the_same_bits_on_ray(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    actors = 1  # a process of its own, that knows nothing yet
    if name != "all":
        request.getfixturevalue("warm_actors")
        actors = 2
    for grid in ("in-process", "ray"):
        fedtl.run(tables(grid, **PARTS[name]), [f"simulation.actors={actors}"], out=tmp_path / grid)
    assert_same_run(tmp_path / "in-process", tmp_path / "ray")


@pytest.mark.usefixtures("ray_session", "notebook")
def test_what_cannot_be_sent_by_value_is_a_sentence(tmp_path: Path) -> None:
    config = tables("ray", model={"name": "__main__:locked"})
    with pytest.raises(
        ConfigError, match=r"^model.name = '__main__:locked': it cannot be sent to actors \(.*\.py file$"
    ):
        fedtl.run(config, out=tmp_path / "ray")
    fedtl.run(tables("in-process", model={"name": "__main__:locked"}), out=tmp_path / "here")


def test_another_process_than_the_notebooks_is_told_so() -> None:
    message = r"^model.name = '__main__:NetOfANotebook': the notebook or script that defined it is not this process"
    with pytest.raises(ConfigError, match=message + r".*put it in a \.py file"):
        load_object("__main__:NetOfANotebook", "model.name")


def test_a_config_without_such_names_carries_nothing() -> None:
    from fedtl.grid.notebook import definitions, with_definitions

    assert definitions(read_config("quickstart")[0].tables()) is None
    assert with_definitions(dict, None) is dict


# Where it cannot start.


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("a\nb"), Exception("port taken")])
def test_a_ray_that_cannot_start_is_a_sentence(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import parameter, services

    from fedtl.grid import cluster

    usual, helpers = (parameter.RayParams, services.start_api_server), list[object]()

    def init(**options: Any) -> None:
        params = parameter.RayParams(num_cpus=1)
        helpers.append((params.no_monitor, params.include_log_monitor, services.start_api_server()))
        raise error

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(RunError, match=r"^Ray cannot start on this machine: .*'in-process' needs none$") as caught:
        cluster.connect(None, 1)
    assert "\n" not in str(caught.value)
    assert helpers == [(True, False, (None, None))]  # none of them starts
    assert usual == (parameter.RayParams, services.start_api_server)  # in what is started later they may


@pytest.mark.parametrize("cpus", [(5 * 0.5, 3), (3 * (1 / 3), 1), (3 * 0.01, 1), (2.0, 2)])
def test_every_actor_that_is_asked_for_fits(cpus: tuple[float, int], monkeypatch: pytest.MonkeyPatch) -> None:
    from fedtl.grid import cluster

    asked: dict[str, Any] = {}
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: asked.update(options))
    cluster.connect(None, cpus[0])
    assert asked["num_cpus"] == cpus[1]


def test_the_command_line_says_it_too(tmp_path: Path) -> None:
    """A folder that cannot be made, in a process of its own: here another Ray may run."""
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    environment |= {"PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(tmp_path / ("x" * 120))}
    (tmp_path / ("x" * 120)).mkdir()
    command = [sys.executable, "-c", "from fedtl.cli import main; main()", "run", "quickstart", "rounds=1", "-q"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert ended.stderr.startswith("fedtl: Ray cannot start on this machine: ")


def test_a_port_where_something_else_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedtl.grid import cluster

    monkeypatch.setattr(cluster, "REACHABLE_WITHIN", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"^simulation.address = '{address}': what answers there is no Ray"):
            cluster.check_reachable(address)


# Who can reach it.

LISTENING = """
import os
from fedtl.grid import cluster
os.environ.pop("RAY_ADDRESS", None)
cluster.connect(None, 1)
import psutil, ray  # which Ray brings
@ray.remote
def work():
    pass
ray.get(work.remote())
me = psutil.Process()
programs = {word for process in me.children(recursive=True) for word in process.cmdline() if word.endswith(".py")}
assert not {"monitor.py", "log_monitor.py", "dashboard.py"} & {os.path.basename(program) for program in programs}
for process in [me, *me.children(recursive=True)]:
    for connection in process.net_connections():
        if connection.status == "LISTEN":
            print(connection.laddr.ip)
ray.shutdown()
from ray._private import ray_constants
assert ray_constants.ENABLE_RAY_CLUSTER and cluster.OPEN_TO_NETWORK not in os.environ  # as before
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Ray listens on the loopback by default")
def test_it_listens_on_the_loopback_alone(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", LISTENING], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    addresses = {line for line in ended.stdout.splitlines() if line}
    assert addresses
    assert addresses <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
