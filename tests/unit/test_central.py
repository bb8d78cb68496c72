"""Central training: on all samples, scored as FedAvg is, and refused where samples are not in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import fedtl
from fedtl.choice import ConfigError
from fedtl.config.read import build, read_config
from fedtl.data.federate import federate
from fedtl.data.samples import Samples
from fedtl.deploy.run import order_for


def tables(method: str = "central", clients: int = 4, **strategy: Any) -> dict[str, Any]:
    return {
        "name": "central",
        "rounds": 2,
        "device": "cpu",
        "data": {
            "name": "digits",
            "clients": clients,
            "samples": 200,
            "partition": {"name": "dirichlet", "alpha": 0.5},
        },
        "model": {"name": "logistic"},
        "strategy": {"name": method, "lr": 0.2, "batch_size": 16, **strategy},
        "simulation": {"grid": "in-process"},
    }


def trained(folder: Path, config: dict[str, Any]) -> tuple[fedtl.Run, dict[str, torch.Tensor]]:
    run = fedtl.run(config, out=folder)
    return run, load_file(run.path / "model.safetensors")


@pytest.mark.parametrize("stacked", [False, True])
def test_it_trains_on_all_samples_and_is_scored_at_each_client(stacked: bool, tmp_path: Path) -> None:
    config = {**tables(), "simulation": {"grid": "in-process", "stacked": stacked}}
    run, _ = trained(tmp_path, config)
    federation = federate(build(config).data, 0)
    for line in run.rounds:
        assert line["clients"] == [0]
        assert line["steps"] == -(-int(federation.train.sizes.sum()) // 16)
    assert set(run.last()) == {"global/server-test", "global/clients"}
    row, model = run.clients[-1], fedtl.load_model(run)
    assert row["clients"] == [0, 1, 2, 3]
    assert row["samples"] == federation.test.sizes.tolist()
    for client, accuracy in enumerate(row["scores"]["global/clients"]["accuracy"]):
        x, y = Samples(federation, torch.device("cpu")).batch(federation.test[client])
        with torch.no_grad():
            assert accuracy == pytest.approx(float((model(x).argmax(1) == y).double().mean()))


def test_of_one_client_it_is_fedavg_bit_for_bit(tmp_path: Path) -> None:
    _, ours = trained(tmp_path / "a", tables(clients=1))
    _, fedavg = trained(tmp_path / "b", tables("fedavg", clients=1))
    assert all(torch.equal(ours[name], fedavg[name]) for name in ours)


def test_a_full_batch_step_is_fedavgs_and_of_all_samples(tmp_path: Path) -> None:
    """Both descend along Σ_i (n_i / n) ∇f_i, up to the order of the sum."""
    one = {"batch_size": 0, "local_steps": 1}
    _, ours = trained(tmp_path / "a", tables(**one))
    _, fedavg = trained(tmp_path / "b", tables("fedavg", **one))
    for name in ours:
        torch.testing.assert_close(ours[name], fedavg[name], rtol=1e-4, atol=1e-6)


def test_unlabelled_samples_are_in_one_place_too(tmp_path: Path) -> None:
    config = tables()
    config["model"] = {"name": "mlp", "hidden": [8]}
    config["data"] |= {"target": {"name": "digits", "samples": 80, "clients": 2, "transform": {"invert": True}}}
    config["objective"] = [{"term": "cross_entropy"}, {"term": "entropy", "weight": 0.1}]
    federation = federate(build(config).data, 0)
    pooled = federation.pooled()
    assert pooled.target is not None
    assert federation.target is not None
    for shards, before in ((pooled.train, federation.train), (pooled.target.train, federation.target.train)):
        assert np.array_equal(np.sort(shards[0]), np.sort(before.order))
        assert not shards.sizes[1:].any()
    assert pooled.pooled().train.sizes.tolist() == pooled.train.sizes.tolist()
    assert pooled.test is federation.test
    run, _ = trained(tmp_path, config)
    assert {line["clients"][0] for line in run.rounds} == {0}
    assert "global/target-clients" in run.last()


def test_it_resumes_to_the_same_bits(tmp_path: Path) -> None:
    _, whole = trained(tmp_path / "a", tables())
    fedtl.run({**tables(), "rounds": 1}, out=tmp_path / "b")
    fedtl.run(tables(), out=tmp_path / "b", resume=True)
    assert all(torch.equal(whole[name], tensor) for name, tensor in load_file(tmp_path / "b/model.safetensors").items())


def test_it_says_what_it_cannot_do_and_what_has_no_effect() -> None:
    with pytest.raises(ConfigError, match=r"strategy\.private = \['head'\]: under central all training samples are"):
        build(tables(private=["head"]))
    with pytest.raises(ConfigError, match="'mutual' gives clients a model of their own; under central"):
        build({**tables(), "objective": [{"term": "cross_entropy"}, {"term": "mutual"}]})
    nobody: Any = None
    with pytest.raises(ConfigError, match="'central': it trains on all clients' samples in one place"):
        order_for(nobody, build(tables()), Path("run"), None, resume=False)
    _, notes = read_config(tables(clients_per_round=2, weighting="uniform"))
    assert {note.partition(" has no effect")[0] for note in notes} == {
        "strategy.weighting",
        "strategy.clients_per_round",
    }
