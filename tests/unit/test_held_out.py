"""Clients that are held out: who they are, and what does without them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedtl
from fedtl.choice import ConfigError
from fedtl.clients.contract import ClientUpdate
from fedtl.config.read import build, read_config
from fedtl.data.federate import federate
from fedtl.data.federation import Federation
from fedtl.data.held_out import held_out
from fedtl.engine import Trained
from fedtl.engine.assignment import Assignment
from fedtl.export.of_run import model_of_run
from fedtl.models.composite import Composite
from fedtl.plot.clients import label_of
from fedtl.wire.worker import WorkerPhase
from tests.methods import OPEN_METHODS
from tests.parts import METHODS, quadratic, update_of


def tables(method: str = "fedavg", **data: Any) -> dict[str, Any]:
    return {
        "name": "held-out",
        "seed": 1,
        "rounds": 2,
        "device": "cpu",
        "data": {"name": "digits", "clients": 6, "samples": 180, **data},
        "model": {"name": "mlp", "hidden": [8]},
        "strategy": {**METHODS[method], "name": method, "local_steps": 2},
        "simulation": {"grid": "in-process", "stacked": False, "traced": False},
    }


def divided(**data: Any) -> Federation:
    config = build(tables(**data))
    return federate(config.data, config.seed)


def test_a_share_a_number_or_ids() -> None:
    assert held_out(0, 10, 0).tolist() == held_out(0.0, 10, 0).tolist() == held_out((), 10, 0).tolist() == []
    assert held_out((7, 2), 10, 0).tolist() == [2, 7]
    assert len(held_out(0.25, 10, 0)) == 2
    assert len(held_out(0.01, 10, 0)) == 1
    drawn = held_out(3, 10, 5).tolist()
    assert drawn == sorted({*drawn}) == held_out(3, 10, 5).tolist()
    assert any(held_out(3, 10, seed).tolist() != drawn for seed in range(5))


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (1.0, "a share from 0 to below 1"),
        (-1, "a share from 0 to below 1"),
        ([1, 1], "named twice"),
        ([-1], "begin at 0"),
        ([6], "ids are 0 to 5"),
        (6, "one must remain to train"),
        (0.95, "one must remain to train"),
        (True, "not true or false"),
    ],
)
def test_what_cannot_be_held_out(asked: object, sentence: str) -> None:
    with pytest.raises(ConfigError, match=rf"^data\.held_out_clients = .*{sentence}"):
        read_config(tables(held_out_clients=asked))


def test_more_clients_in_a_round_than_remain() -> None:
    config = tables(held_out_clients=2)
    config["strategy"]["clients_per_round"] = 5
    with pytest.raises(ConfigError, match=r"clients_per_round = 5: .* data\.held_out_clients leaves 4 to train"):
        read_config(config)


def test_what_else_goes_not_together(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,label\n1,0\n,1\n")
    filled = {"name": "files", "path": str(tmp_path), "missing": "mean", "held_out_clients": [0]}
    with pytest.raises(ConfigError, match=r"held_out_clients does not go with data\.missing = 'mean'"):
        build({**tables(), "data": filled})
    with pytest.raises(ConfigError, match=r"stop\.score = 'personal/unseen-clients': clients that never train"):
        build({**tables(held_out_clients=1), "stop": {"patience": 1, "score": "personal/unseen-clients"}})
    with pytest.raises(ConfigError, match=r"data\.target\.held_out_clients = 2: .* in data\.held_out_clients"):
        build(tables(target={"name": "digits", "held_out_clients": 2}))
    _, notes = read_config({**tables(), "evaluate": {"unseen_epochs": 2}})
    assert any(note.startswith("evaluate.unseen_epochs has no effect: all clients train") for note in notes)
    _, notes = read_config({**tables(held_out_clients=1), "evaluate": {"unseen_epochs": 2}})
    assert any(note.startswith("evaluate.unseen_epochs has no effect: fedavg gives") for note in notes)
    assert not read_config({**tables("fedper", held_out_clients=1), "evaluate": {"unseen_epochs": 2}})[1]


@pytest.mark.parametrize(
    ("method", "options"), [("fedrod-hyper", {}), ("fedrep", {"head_epochs": 0}), ("fedpac", {"head_epochs": 0})]
)
def test_passes_that_nobody_makes_are_named(method: str, options: dict[str, Any]) -> None:
    config = {**tables(method, held_out_clients=1), "evaluate": {"unseen_epochs": 2}}
    strategy = {key: value for key, value in config["strategy"].items() if not key.startswith("head_")}
    _, notes = read_config({**config, "strategy": {**strategy, **options}})
    assert any(f"options of {method} a client that never trains is served without training" in note for note in notes)


@pytest.mark.parametrize("kind", ["dataset", "pixel"])
def test_normalisation_is_by_the_others(kind: str) -> None:
    """Mean 0 and deviation 1 of the training samples, or, by pixel, of all samples of the clients that train."""
    unseen = [0, 5]
    whole, part = divided(normalise=kind), divided(normalise=kind, held_out_clients=unseen)
    assert (whole.train.order == part.train.order).all()
    assert part.unseen.tolist() == unseen
    each = [part.train] if kind == "dataset" else [part.train, part.test]
    rows = np.concatenate([shards[client] for shards in each for client in (1, 2, 3, 4)])
    inputs = part.x[rows].astype(np.float64) / 255 if kind == "pixel" else part.x[rows] * part.scale + part.shift
    if kind == "dataset":
        assert inputs.mean() == pytest.approx(0, abs=1e-5)
        assert inputs.std() == pytest.approx(1, abs=1e-5)
    else:
        mean, std = 255 * inputs.mean(0), 255 * inputs.std(0)
        expected = (255 * inputs - mean) / (std + 0.001)
        np.testing.assert_allclose(part.x[rows] * part.scale + part.shift, expected, atol=1e-3)
    assert not np.allclose(whole.shift, part.shift, rtol=1e-4, atol=0)


def test_the_same_split_with_others_held_out_is_another_federation() -> None:
    prints = {divided(held_out_clients=[*ids]).fingerprint() for ids in ((), (1,), (2,))}
    assert len(prints) == 3


def test_in_one_place_are_the_samples_of_those_that_train() -> None:
    federation = divided(held_out_clients=[0, 3])
    pooled = federation.pooled()
    assert pooled.train.sizes.tolist() == [0, federation.train.sizes[[1, 2, 4, 5]].sum(), 0, 0, 0, 0]
    held = np.concatenate([federation.train[client] for client in (0, 3)])
    assert not np.isin(pooled.train.order, held).any()
    assert pooled.test is federation.test


def test_central_training_with_the_first_client_held_out(tmp_path: Path) -> None:
    run = fedtl.run(tables("central", held_out_clients=[0]), out=tmp_path)
    assert [line["clients"] for line in run.rounds] == [[1], [1]]
    assert run.clients[-1]["unseen"]["clients"] == [0]
    assert {"global/clients", "global/unseen-clients"} <= run.last().keys()


def test_they_are_drawn_to_be_scored_apart(tmp_path: Path) -> None:
    config = {**tables("fedavg-finetune", held_out_clients=[0, 2, 4]), "evaluate": {"clients": 2}}
    run = fedtl.run(config, out=tmp_path)
    for line, clients in zip(run.rounds, run.clients, strict=True):
        assert set(clients["clients"]) <= {1, 3, 5}
        assert set(clients["unseen"]["clients"]) <= {0, 2, 4}
        score = line["scores"]["personal/unseen-clients"]
        assert (score["scored"], score["of"], score["drawn_from"]) == (2, 2, 3)
        assert line["scores"]["personal/clients"]["drawn_from"] == 3
    assert str(run.coverage("personal/unseen-clients")) == "2 drawn of 3 clients"
    assert "unseen-clients/samples" in fedtl.load(tmp_path).client_table("numpy").dtype.names


def domain(clients: int | None) -> Mapping[str, Any]:
    alone = {} if clients is None else {"clients": clients}
    return {"name": "digits", "samples": 120, "transform": {"rotate": 40.0}, **alone}


def test_on_a_target_domain_and_in_phases(tmp_path: Path) -> None:
    config = tables("pfedme", held_out_clients=[1, 5], target=domain(None))
    del config["rounds"]
    source, both = [{"term": "cross_entropy"}], [{"term": "cross_entropy"}, {"term": "mmd", "weight": 0.1}]
    run = fedtl.run({**config, "phases": [{"rounds": 1, "objective": o} for o in (source, both)]}, out=tmp_path)
    assert all(line["clients"] == [0, 2, 3, 4] and not line["failures"] for line in run.rounds)
    data = {name.partition("/")[2] for name in run.last()}
    assert {"clients", "target-clients", "unseen-clients", "unseen-target-clients"} <= data
    assert run.clients[-1]["unseen-target"]["clients"] == [1, 5]


def test_clients_of_the_target_alone_can_be_held_out(tmp_path: Path) -> None:
    """They hold no labelled samples: there is nothing that cross-entropy could make a model of their own by."""
    config = tables("fedavg-finetune", held_out_clients=[7], target=domain(2))
    run = fedtl.run(config, out=tmp_path)
    assert run.rounds[-1]["scores"]["personal/unseen-target-clients"]["clients_without"] == 1
    with pytest.raises(ConfigError, match=r"data\.held_out_clients: all clients that hold samples of \[data\]"):
        fedtl.run(tables(held_out_clients=[*range(6)], target=domain(2)), out=tmp_path / "none")


@pytest.mark.parametrize("method", OPEN_METHODS)
def test_servers_of_ones_own_say_what_they_send(method: str, tmp_path: Path) -> None:
    """One that looks up what it knows of a client is refused, the others serve them."""
    config = tables(held_out_clients=[2])
    config["strategy"] = {**OPEN_METHODS[method], "local_steps": 2}
    models = {"scaffold": ["global"], "ifca": ["personal"], "knn-per": ["global", "personal"]}
    if method not in models:
        with pytest.raises(ConfigError, match=r"knows nothing of those that never train .*send_unseen"):
            fedtl.run(config, out=tmp_path)
        return
    scores = fedtl.run(config, out=tmp_path).last()
    assert {name for name in scores if name.endswith("unseen-clients")} == {
        f"{model}/unseen-clients" for model in models[method]
    }


def test_a_terms_own_network_is_trained_alone(tmp_path: Path) -> None:
    """Under mutual learning a joining client's own network learns beside the global one, which stands still."""
    config = tables(held_out_clients=[5])
    objective = [{"term": "cross_entropy"}, {"term": "mutual", "peer": {"name": "mlp", "hidden": [4]}}]
    run = fedtl.run({**config, "objective": objective}, out=tmp_path)
    assert run.rounds[-1]["scores"]["personal/unseen-clients"]["clients_without"] == 0
    assert not isinstance(model_of_run(tmp_path, 5).module, Composite)


def test_methods_are_compared_by_the_model_that_serves_them(tmp_path: Path) -> None:
    for method in ("fedavg", "fedper"):
        fedtl.run(tables(method, held_out_clients=[1, 4]), out=tmp_path / method)
    comparison = fedtl.compare([tmp_path / "fedavg", tmp_path / "fedper"], score="unseen-clients")
    assert [group.score for group in comparison.groups] == ["global/unseen-clients", "personal/unseen-clients"]


def test_pictures_name_them() -> None:
    assert label_of("personal/unseen-clients") == "personalised model, unseen clients"
    assert label_of("global/unseen-target-clients") == "global model, unseen clients, target data"


def joined(update: ClientUpdate[Any], targets: np.ndarray[Any, Any], w: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """What client 1 of those with f_i = ½‖θ - targets[i]‖² makes of the global model: its own, and what it keeps."""
    engine = quadratic(targets.astype(np.float32))
    making = WorkerPhase(engine, update.with_layout(engine.task.layout)).unseen
    (outcome,) = engine.train(Assignment.of_model(making, w, [1], [{}], 3))
    assert isinstance(outcome, Trained)
    return engine.personal_vector(making, outcome.memory, {"w": w}, outcome.client), outcome


TARGETS, GLOBAL = np.random.default_rng(0).normal(size=(3, 4)), torch.tensor([1.0, -2.0, 0.5, 3.0])


def test_ditto_solves_the_joining_clients_own_problem() -> None:
    """min_v ½‖v - a‖² + λ/2 ‖v - w*‖² is solved by (a + λ w*) / (1 + λ); nothing would be sent."""
    own, outcome = joined(update_of("ditto", lr=0.1, lam=2.0, local_steps=200), TARGETS, GLOBAL)
    np.testing.assert_allclose(own, (TARGETS[1] + 2.0 * GLOBAL.numpy()) / 3.0, rtol=1e-5)
    assert not outcome.uploads


def test_apfl_mixes_the_global_model_with_one_that_began_there() -> None:
    """Two steps by hand, of w_i and of v at the mixture's gradient."""
    own, _ = joined(update_of("apfl", lr=0.1, alpha=0.25, local_steps=2), TARGETS, GLOBAL)
    w = v = GLOBAL.double().numpy()
    for _ in range(2):
        w, v = w - 0.1 * (w - TARGETS[1]), v - 0.1 * 0.25 * (0.25 * v + 0.75 * w - TARGETS[1])
    np.testing.assert_allclose(own, 0.25 * v + 0.75 * GLOBAL.numpy(), rtol=1e-5)


def test_pfedme_takes_its_proximal_steps_from_the_global_model() -> None:
    """With the exact prox, θ̃ = (a + λ w) / (1 + λ) of the local w, which moves by ηλ (w - θ̃)."""
    options = {"lr": 0.1, "lam": 2.0, "inner_lr": 0.1, "inner_steps": 200, "local_steps": 2}
    own, _ = joined(update_of("pfedme", **options), TARGETS, GLOBAL)
    w = GLOBAL.double().numpy()
    for _ in range(2):
        theta = (TARGETS[1] + 2.0 * w) / 3.0
        w = w - 0.1 * 2.0 * (w - theta)
    np.testing.assert_allclose(own, theta, rtol=1e-5)


def test_a_part_moves_as_in_the_whole_and_the_rest_keeps_its_bits() -> None:
    """Under momentum and weight decay too; of a quadratic no coordinate depends on another."""
    engine = quadratic(TARGETS.astype(np.float32))
    whole = update_of("fedavg", engine.task.layout, lr=0.1, momentum=0.9, weight_decay=0.1, local_steps=5)
    part = torch.tensor([0.0, 1.0, 1.0, 0.0])
    models = []
    for update in (whole, whole.of_part(part)):
        (outcome,) = engine.train(Assignment.of_model(update, GLOBAL, [1], [{}], 1))
        assert isinstance(outcome, Trained)
        models.append(outcome.uploads["w"])
    assert torch.equal(models[1], torch.where(part.bool(), models[0], GLOBAL))
    assert not torch.isclose(models[0], GLOBAL).any()


def test_so_many_drawn_that_all_are_scored() -> None:
    for drawn, says in ((4, True), (3, False)):
        _, notes = read_config({**tables(held_out_clients=2), "evaluate": {"clients": drawn}})
        assert any(note.startswith(f"evaluate.clients = {drawn} has no effect") for note in notes) is says
