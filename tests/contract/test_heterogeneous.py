"""Clients of unlike models: each trains as among its own kind, and what they agree on is the mean of all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedtl
from fedtl.assemble.parts import make_tasks
from fedtl.choice import ConfigError
from fedtl.config.read import build
from fedtl.data.federate import federate
from fedtl.disk.memories import MemoryStore
from fedtl.runs.checkpoint import read_checkpoint

MODELS: list[dict[str, Any]] = [{"name": "mlp", "hidden": [16]}, {"name": "cnn"}, {"name": "logistic"}]
CLIENTS, ROUNDS, PUBLIC = 5, 3, 20


def tables(**more: Any) -> dict[str, Any]:
    return {
        "name": "unlike",
        "rounds": ROUNDS,
        "data": {"name": "digits", "clients": CLIENTS, "samples": 200, "public": {"name": "digits", "samples": PUBLIC}},
        "models": MODELS,
        "strategy": {"name": "local", "lr": 0.05, "local_steps": 3, "batch_size": 8},
        "objective": [{"term": "cross_entropy"}, {"term": "consensus"}],
        "simulation": {"grid": "in-process"},
        **more,
    }


def models_in(run: fedtl.Run, after: int = ROUNDS) -> list[torch.Tensor]:
    store = MemoryStore(run.path / "memories")
    return [store.load(client, after + 1)["w"] for client in range(CLIENTS)]


@pytest.mark.parametrize("phases", [False, True])
def test_each_trains_as_among_its_own_kind(phases: bool, tmp_path: Path) -> None:
    rows = [{"rounds": 2}, {"rounds": 1, "strategy": {"lr": 0.01}}]
    parts: dict[str, Any] = {"objective": [], **({"phases": rows} if phases else {})}
    config = tables(**parts)
    mixed = fedtl.run(config, out=tmp_path / "mixed")
    score = mixed.clients[-1]["scores"]["personal/clients"]["accuracy"]
    del config["models"]
    for kind, model in enumerate(MODELS):
        alone = fedtl.run({**config, "model": model}, out=tmp_path / str(kind))
        expected = alone.clients[-1]["scores"]["personal/clients"]["accuracy"]
        for client in range(kind, CLIENTS, len(MODELS)):
            assert torch.equal(models_in(mixed)[client], models_in(alone)[client])
            assert score[client] == expected[client]


def test_the_consensus_is_the_mean_over_all_kinds(tmp_path: Path) -> None:
    run = fedtl.run(tables(), out=tmp_path)
    config = build(tables())
    federation = federate(config.data, 0)
    x = torch.from_numpy(federation.x[federation.public] * federation.scale + federation.shift)
    logits = []
    kinds = [make_tasks(own, federation)[0] for own in config.architectures()]
    for client, vector in enumerate(models_in(run)):
        task = kinds[client % len(MODELS)]
        task.layout.load(task.module, vector)
        logits.append(task.module.eval()(x).detach().double().numpy())
    checkpoint = read_checkpoint(run.path)
    assert checkpoint is not None
    consensus = checkpoint.state["statistic:consensus"].reshape(PUBLIC, 10)
    np.testing.assert_allclose(consensus, np.mean(logits, 0), rtol=1e-4, atol=1e-5)
    assert set(run.last()) == {"personal/clients"}
    assert run.rounds[-1]["bytes_up"] == CLIENTS * (1 + PUBLIC * 10) * 4


RAY = ["simulation.grid=ray", "simulation.actors=2"]


@pytest.mark.parametrize("change", [[], pytest.param(RAY, marks=pytest.mark.ray), ["simulation.traced=false"]])
def test_the_same_on_any_grid_and_after_an_interruption(
    change: list[str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if change is RAY:
        request.getfixturevalue("warm_actors")
    some = {"strategy": {**tables()["strategy"], "clients_per_round": 3}, "evaluate": {"personal": "stored"}}
    whole = fedtl.run(tables(**some), out=tmp_path / "a")
    fedtl.run(tables(**some), ["rounds=2", *change], out=tmp_path / "b")
    again = fedtl.run(tables(**some), change, out=tmp_path / "b", resume=True)
    exact = "simulation.traced=false" not in change
    assert whole.rounds[0]["scores"]["personal/clients"]["clients_without"] == 2  # scored with what they begin with
    for a, b in zip(whole.clients, again.clients):
        if exact:
            assert a["scores"] == b["scores"]
    for client in range(CLIENTS):
        kept, expected = (MemoryStore(run.path / "memories").load(client, ROUNDS + 1) for run in (again, whole))
        assert kept.keys() == expected.keys()
        for name in expected:
            assert torch.equal(kept[name], expected[name]) or not exact
            torch.testing.assert_close(kept[name], expected[name], rtol=1e-4, atol=1e-5)


def test_stacks(tmp_path: Path) -> None:
    one, stacked = (fedtl.run(tables(), [f"simulation.stacked={how}"], out=tmp_path / how) for how in ("false", "true"))
    for a, b in zip(models_in(one), models_in(stacked)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_it_can_be_profiled(tmp_path: Path) -> None:
    run = fedtl.run(tables(), out=tmp_path, profile=True)
    profile = run.rounds[-1]["profile"]
    assert profile


def test_a_resolved_config_reads_as_an_equal_one() -> None:
    config = build(tables())
    assert build(config.tables()) == config
    assert config.model == config.models[0]
    assert [own.model for own in config.architectures()] == list(config.models)
    assert all(build({**tables(), "model": MODELS[0]}).models == own for own in [config.models])


REMOTE = {
    "objective": [{"term": "cross_entropy"}, {"term": "remote_coral"}],
    "data": {"name": "digits", "clients": 2, "samples": 100, "target": {"name": "digits", "clients": 2, "samples": 50}},
}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"strategy": {"name": "fedavg", "lr": 0.1}}, "models: clients have unlike models, and 'fedavg' sends all"),
        ({"model": {"name": "cnn"}}, "model: with models each client has one of those; leave model out"),
        ({"models": 3}, "models: give a list of tables"),
        ({"models": [{"name": "mpl"}]}, "model.name = 'mpl'"),
    ],
)
def test_errors(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build({**tables(), **change})


def test_statistics_must_have_one_width(tmp_path: Path) -> None:
    models = [{"name": "mlp", "hidden": [16]}, {"name": "mlp", "hidden": [12]}]
    with pytest.raises(ConfigError, match=r"models\[1\]: the term 'remote_coral' adds up 'features' .*12"):
        fedtl.run(tables(**REMOTE, models=models), out=tmp_path / "a")
    same = [{"name": "mlp", "hidden": [16]}, {"name": "mlp", "hidden": [20, 16]}]
    run = fedtl.run(tables(**REMOTE, models=same), out=tmp_path / "b")
    assert "remote_coral" in run.rounds[-1]["train"]
