"""What a run reads and builds, it reads and builds once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from flwr.app import Context
from torch import Tensor, nn
from typer.testing import CliRunner

import fedtl
from fedtl import app, experiment
from fedtl.assemble import flower, parts
from fedtl.assemble.driver import Silent
from fedtl.assemble.parts import assemble, make_worker
from fedtl.cli.commands import app as commands
from fedtl.config.overrides import override
from fedtl.config.read import build
from fedtl.data.federate import federate
from fedtl.experiment import Place, open_run
from fedtl.export.of_run import model_of_run
from fedtl.strategies.fedavg import FedAvg

made: Counter[str] = Counter()
"""How often each thing was made or read."""

TOML = f"""
name = "once"
rounds = 2
device = "cpu"
data = {{ name = "digits", samples = 120, clients = 3, partition = "iid" }}
model = {{ name = "{__name__}:Counted" }}
strategy = {{ name = "{__name__}:CountedServer", lr = 0.1, local_steps = 1 }}
simulation = {{ grid = "in-process" }}
"""


class Counted(nn.Sequential):
    """A model that counts how often it is made; batch-norm counts what it is tried out on."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        made["model"] += 1
        super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, classes))


class CountedServer(FedAvg):
    """A method that counts how often its server is made."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        made["server"] += 1
        super().__init__(*arguments, **options)


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(module: Any, name: str) -> None:
        function = getattr(module, name)

        def counting(*arguments: Any, **options: Any) -> Any:
            made[name] += 1
            return function(*arguments, **options)

        monkeypatch.setattr(module, name, counting)

    count(parts, "make_tasks")
    count(experiment, "federate")
    count(flower, "federate")
    made.clear()


def config(*overrides: str, **more: Any) -> Any:
    import tomllib

    tables = {**tomllib.loads(TOML), **more}
    override(tables, overrides)
    return build(tables)


ONCE = {"model": 1, "server": 1, "make_tasks": 1, "federate": 1}


@pytest.mark.parametrize("resumed", [False, True])
def test_a_run(resumed: bool, tmp_path: Path) -> None:
    if resumed:
        fedtl.run(config("rounds=1"), out=tmp_path / "run")
        made.clear()
    fedtl.run(config(), out=tmp_path / "run", resume=resumed)
    assert made == ONCE


def test_what_needs_more_of_them(tmp_path: Path) -> None:
    """A model for each that clients have, and new numbers for each phase that begins with some; never a server."""
    phases = [{"rounds": 1}, {"rounds": 1, "restart": True}]
    fedtl.run(config("rounds=none", phases=phases), out=tmp_path / "phases")
    assert made == ONCE | {"model": 2}
    made.clear()
    unlike = [{"name": f"{__name__}:Counted"}, {"name": "logistic"}]
    fedtl.run(config("strategy.name=local", "model=none", models=unlike), out=tmp_path / "models")
    assert made == Counter(ONCE) - Counter(["server"])


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_server(elsewhere: bool, tmp_path: Path) -> None:
    read = config()
    open_run(read, federate(read.data, 0), Place(tmp_path / "run"), Silent(), elsewhere=elsewhere)
    assert made == Counter(ONCE) - Counter(["federate"])


def test_a_worker(tmp_path: Path) -> None:
    """One that is told its engines tries nothing out, and needs no server to know what is received first."""
    read = config()
    federation = federate(read.data, 0)
    make_worker(read, federation, str(tmp_path), "cpu")
    assert made == Counter(ONCE) - Counter(["federate"])
    choices = assemble(read, federation).choose_engines("cpu")
    made.clear()
    make_worker(read.tables(), federation, str(tmp_path), "cpu", choices)
    assert made == {"model": 1, "make_tasks": 1}


def test_trying_out_leaves_no_traces() -> None:
    read = config("simulation.stacked=true")
    assembly = assemble(read, federate(read.data, 0))
    module = assembly.tasks[0].module
    before, mode = deepcopy(module.state_dict()), module.training
    assembly.choose_engines("cpu")
    assert module.training is mode
    assert same(module.state_dict(), before)
    assert assembly.strategy.state == {}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_an_export(tmp_path: Path) -> None:
    """The exported model itself is one more, as it is of whatever file it is read from."""
    fedtl.run(config("strategy.private=['3']"), out=tmp_path / "run")
    made.clear()
    model_of_run(tmp_path / "run", client=1)
    assert made == {"model": 2, "server": 1, "make_tasks": 1}


def test_the_command_line_reads_the_config_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "once.toml").write_text(TOML)
    from fedtl.config import read

    built = read._built

    def counting(tables: Any) -> Any:
        made["build"] += 1
        return built(tables)

    monkeypatch.setattr(read, "_built", counting)
    result = CliRunner().invoke(commands, ["run", str(tmp_path / "once.toml"), "--out", str(tmp_path / "run"), "-q"])
    assert result.exit_code == 0, result.output
    assert made == ONCE | {"build": 1}


def test_flowers_client_app_reads_the_config_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "once.toml").write_text(TOML)
    monkeypatch.setenv("FEDTL_HOME", str(tmp_path))
    read_config = app.read_config

    def counting(*arguments: Any) -> Any:
        made["read_config"] += 1
        return read_config(*arguments)

    monkeypatch.setattr(app, "read_config", counting)
    about = SimpleNamespace(run_config={"config": str(tmp_path / "once.toml"), "overrides": "seed=3"}, run_id=7)
    workers = {id(app._worker_for(cast("Context", about))) for _ in range(3)}
    assert len(workers) == 1
    assert made == ONCE | {"read_config": 1}
