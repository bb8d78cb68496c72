"""MOON by name: the term with the method's options, from a client's first round on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import fedtl
from fedtl import losses
from fedtl.assemble.parts import assemble
from fedtl.choice import ConfigError
from fedtl.config.read import build
from fedtl.data.federate import federate
from fedtl.engine import Trained
from fedtl.models.head import layer_outputs
from tests.parts import EACH_ENGINE, EngineKind, train_cohort


def tables(strategy: dict[str, Any], *terms: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "moon",
        "rounds": 3,
        "device": "cpu",
        "data": {"name": "digits", "clients": 4, "samples": 200, "partition": {"name": "dirichlet", "alpha": 0.5}},
        "model": {"name": "mlp", "hidden": [12, 6]},
        "strategy": {"lr": 0.1, "local_epochs": 1, "batch_size": 16, "clients_per_round": 2, **strategy},
        "objective": list(terms),
        "simulation": {"grid": "in-process"},
    }


def model(folder: Path, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    return load_file(fedtl.run(config, out=folder).path / "model.safetensors")


def test_without_mu_it_is_fedavg_and_else_its_term_bit_for_bit(tmp_path: Path) -> None:
    with_l2 = {"term": "cross_entropy"}, {"term": "l2", "weight": 0.1}
    ours = model(tmp_path / "a", tables({"name": "moon", "mu": 2.0, "tau": 0.3, "projector": 5}, *with_l2))
    term = {"term": "moon", "weight": 2.0, "tau": 0.3, "projector": 5, "previous": "initial"}
    theirs = model(tmp_path / "b", tables({"name": "fedavg"}, *with_l2, term))
    without = model(tmp_path / "c", tables({"name": "moon", "mu": 0.0}))
    fedavg = model(tmp_path / "d", tables({"name": "fedavg"}))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert all(torch.equal(without[name], fedavg[name]) for name in fedavg)
    assert not all(torch.equal(ours[name], fedavg[name]) for name in fedavg)


@EACH_ENGINE
def test_who_joins_late_is_contrasted_with_the_initial_model(kind: EngineKind) -> None:
    config = build(tables({"name": "moon", "mu": 1.0, "batch_size": 0}))
    assembly = assemble(config, federate(config.data, 0))
    (task,), (update,) = assembly.tasks, assembly.updates
    initial = task.layout.flatten(task.module)
    received = initial + 0.1 * torch.randn(len(initial), generator=torch.Generator().manual_seed(0))
    last = initial + 0.1 * torch.randn(len(initial), generator=torch.Generator().manual_seed(1))
    memories: list[dict[str, torch.Tensor]] = [{}, {"previous model": last}]
    engine = kind(task.on(task.samples))
    outcomes = train_cohort(engine, update, received, [0, 1], memories, 2)
    for client, before, outcome in zip((0, 1), (initial, last), outcomes):
        assert isinstance(outcome, Trained)
        x, _ = task.samples.batch(task.samples.federation.train[client])
        with torch.no_grad():
            z = []
            for vector in (received, before):
                task.layout.load(task.module, vector)
                z.append(layer_outputs(task.module, x, ["features"])["features"])
        assert outcome.losses[1] == pytest.approx(float(losses.moon(z[0], z[0], z[1])), rel=1e-4)
        assert torch.equal(outcome.memory["previous model"], outcome.uploads["w"])


def test_its_term_stands_in_no_objective_beside_it() -> None:
    with pytest.raises(ConfigError, match="'moon' has the term 'moon' by itself; leave it out"):
        build(tables({"name": "moon"}, {"term": "cross_entropy"}, {"term": "moon"}))
    named = {"term": "moon", "name": "another"}
    stages = build(tables({"name": "moon"}, {"term": "cross_entropy"}, named)).stages()
    assert [term.key for term in stages[0].objective] == ["cross_entropy", "another", "moon"]


def test_a_phase_has_its_own_mu() -> None:
    config = tables({"name": "moon", "mu": 1.0})
    del config["objective"], config["rounds"]
    config["phases"] = [{"rounds": 1}, {"rounds": 1, "strategy": {"mu": 0.0}}]
    assert [stage.objective[1].weight for stage in build(config).stages()] == [1.0, 0.0]
