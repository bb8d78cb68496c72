"""Flower's own simulation runs the same client code, and gives the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict

import fedtl
from fedtl import app
from fedtl.choice import ConfigError
from tests.contract.test_grids import assert_same_run, records

pytest.importorskip("ray")

ROOT = Path(__file__).resolve().parents[2]

TABLES: dict[str, Any] = {
    "name": "flower",
    "rounds": 9,
    "stop": {"patience": 1, "min_delta": 1},  # no accuracy is better by more than 1: two rounds
    "device": "cpu",
    "data": {"name": "digits", "clients": 4, "partition": "iid", "validation_share": 0.2},
    "model": {"name": "logistic"},
    "strategy": {
        "name": "pfedme",
        "clients_per_round": 3,
        "local_steps": 2,
        "batch_size": 10,
        "lr": 0.05,
        "lam": 15.0,
        "inner_lr": 0.05,
    },
}

# One process, as Flower's simulation starts and ends a Ray of its own.
RUN = """
import json, os, sys
import fedtl
tables, out = json.loads(sys.argv[1]), sys.argv[2]
fedtl.run(tables, ["simulation.grid=flower"], out=out + "/flower")
tables["objective"] = [{"term": "tests.trouble:Trouble", "what": "raise"}]
try:
    # One actor, which is enough to fail on.
    fedtl.run(tables, ["simulation.grid=flower", f"simulation.num_cpus={os.cpu_count()}"], out=out + "/broken")
except Exception as error:
    print("ended:", type(error).__name__, error)
"""


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_flowers_simulation(tmp_path: Path) -> None:
    fedtl.run(TABLES, ["simulation.grid=in-process"], out=tmp_path / "here")
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(TABLES), str(tmp_path)],
        cwd=ROOT,
        env={**environment, "FLWR_TELEMETRY_ENABLED": "0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=550,  # alone it takes half a minute; beside other tests that start Rays, minutes
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(records(tmp_path / "flower")) == 2
    assert_same_run(tmp_path / "here", tmp_path / "flower")
    assert fedtl.load(tmp_path / "flower").environment["grid"] == "flower"
    # What ends a run comes out as itself, from Flower's thread too.
    assert "ended: RunError round 1: 3 of 3 clients failed" in done.stdout
    assert records(tmp_path / "broken") == []


def context(**run_config: str) -> Context:
    return Context(run_id=7, node_id=1, node_config={}, state=RecordDict(), run_config={**run_config})


def test_run_config() -> None:
    config = app.config_of(context(config="quickstart", overrides="rounds=3 name='my-run'  data.clients=30"))
    assert (config.rounds, config.name, config.data.clients) == (3, "my-run", 30)
    assert app.config_of(context()).name == "quickstart"
    with pytest.raises(ConfigError, match=r"strategy\.lrr is not a key"):
        app.config_of(context(overrides="strategy.lrr=3"))


def test_memories_stay_apart_by_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDTL_HOME", str(tmp_path))
    assert app.memories_of(context()) == tmp_path / "memories/7"


def test_pyproject_names_the_apps() -> None:
    import tomllib
    from importlib import import_module

    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    for key, kind in (("serverapp", ServerApp), ("clientapp", ClientApp)):
        module, name = table["components"][key].split(":")
        assert isinstance(getattr(import_module(module), name), kind)
    assert app.config_of(context(**table["config"])).name == "quickstart"
