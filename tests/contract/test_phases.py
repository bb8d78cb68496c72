"""Rounds with objectives of their own, clients that hold different domains, and what travels between them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import fedtl
from fedtl.assemble.driver import Silent
from fedtl.assemble.parts import make_tasks
from fedtl.choice import ConfigError
from fedtl.config.read import build
from fedtl.data.federate import federate
from fedtl.losses import coral_to_moments, mean_and_covariance
from fedtl.models.head import features_and_logits
from fedtl.runs.checkpoint import read_checkpoint
from tests.contract.test_grids import assert_same_run

ADDA = [
    {"rounds": 3, "objective": [{"term": "cross_entropy"}]},
    {"rounds": 3, "strategy": {"lr": 0.02, "local_steps": 2}, "objective": [{"term": "adda", "shared": False}]},
]

APART = {"target": {"name": "digits", "samples": 200, "clients": 3, "transform": {"invert": True}}}
TOGETHER = {"target": {"name": "digits", "samples": 200, "transform": {"invert": True}}}


def tables(**more: Any) -> dict[str, Any]:
    data = {"name": "digits", "samples": 300, "clients": 5, **more.pop("data", TOGETHER)}
    return {
        "name": "phases",
        "seed": 2,
        "data": data,
        "model": {"name": "mlp", "hidden": [16]},
        "strategy": {"name": "fedavg", "lr": 0.1, "local_steps": 3, "batch_size": 8, "clients_per_round": 3},
        "simulation": {"grid": "in-process"},
        **more,
    }


def remote(**more: Any) -> dict[str, Any]:
    objective = [{"term": "cross_entropy"}, {"term": "remote_coral", "weight": 0.5}, {"term": "remote_cmd"}]
    return tables(data=APART, rounds=4, objective=objective, **more)


def rounds_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def test_each_phase_has_its_terms_and_its_options(tmp_path: Path) -> None:
    fedtl.run(tables(phases=ADDA), out=tmp_path / "run")
    lines = rounds_of(tmp_path / "run")
    assert [set(line["train"]) for line in lines] == [{"cross_entropy"}] * 3 + [{"adda"}] * 3
    assert [line["steps"] for line in lines] == [9] * 3 + [6] * 3
    assert all(not line["failures"] for line in lines)


def test_the_second_phase_of_adda_moves_the_mapping_and_not_the_head(tmp_path: Path) -> None:
    models = []
    for rounds in (1, 3):
        phases = [ADDA[0], {**ADDA[1], "rounds": rounds}]
        fedtl.run(tables(phases=phases), out=tmp_path / f"{rounds}")
        models.append(load_file(tmp_path / f"{rounds}" / "model.safetensors"))
    moved = {name: not torch.equal(models[0][name], models[1][name]) for name in models[0]}
    assert moved
    assert all(moves != name.startswith("head") for name, moves in moved.items())


@pytest.mark.parametrize("stop", [2, 3])
@pytest.mark.parametrize("config", [tables(phases=ADDA), remote()], ids=["adda", "remote"])
def test_a_run_that_is_gone_on_with_ends_with_the_same_bits(config: dict[str, Any], stop: int, tmp_path: Path) -> None:
    fedtl.run(config, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fedtl.run(config, out=tmp_path / "resumed", listener=StopsAfter(stop))
    assert len(rounds_of(tmp_path / "resumed")) == stop
    fedtl.run(config, out=tmp_path / "resumed", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "resumed")
    a, b = (read_checkpoint(tmp_path / name) for name in ("whole", "resumed"))
    assert a is not None
    assert b is not None
    assert a.state.keys() == b.state.keys() != set()
    assert all(np.array_equal(a.state[name], b.state[name]) for name in a.state)


class StopsAfter(Silent):
    """Somebody who presses Ctrl-C."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds

    def round(self, report: Any) -> None:
        if report.round == self.rounds:
            raise KeyboardInterrupt


@pytest.mark.ray
@pytest.mark.usefixtures("warm_actors")
@pytest.mark.parametrize("config", [tables(phases=ADDA), remote()], ids=["adda", "remote"])
def test_ray_actors_give_the_same_bits(config: dict[str, Any], tmp_path: Path) -> None:
    fedtl.run(config, out=tmp_path / "here")
    fedtl.run({**config, "simulation": {"grid": "ray", "actors": 2}}, out=tmp_path / "ray")
    assert_same_run(tmp_path / "here", tmp_path / "ray")


def test_only_moments_travel_from_source_to_target_clients(tmp_path: Path) -> None:
    config = remote(strategy={"name": "fedavg", "lr": 0.1, "local_steps": 3, "batch_size": 8})
    run = fedtl.run(config, out=tmp_path / "run")
    lines = rounds_of(tmp_path / "run")
    # In the first round nothing is known yet; then those who hold a target align with the sources' moments.
    assert set(lines[0]["train"]) == {"cross_entropy"}
    assert set(lines[1]["train"]) == {"cross_entropy", "remote_coral", "remote_cmd"}
    d, model = 16, 64 * 16 + 16 + 16 * 10 + 10
    moments = (1 + d + d * d) + (1 + 5 * d)
    assert lines[0]["bytes_up"] == 8 * (model + moments) * 4
    assert lines[1]["bytes_down"] == 8 * (model + moments) * 4
    assert set(run.last()) == {
        f"global/{data}" for data in ("clients", "server-test", "target-clients", "target-server-test")
    }
    assert not any(line["failures"] for line in lines)


def test_the_servers_moments_are_those_of_all_source_samples(tmp_path: Path) -> None:
    """With nothing learnt, every client's features are the initial model's: the moments have a closed form."""
    config = remote(strategy={"name": "fedavg", "lr": 1e-12, "local_steps": 1, "batch_size": 8})
    fedtl.run({**config, "rounds": 1}, out=tmp_path / "run")
    checkpoint = read_checkpoint(tmp_path / "run")
    assert checkpoint is not None
    federation = federate(build(config).data, 2)
    task = make_tasks(build(config), federation)[0]
    x, _ = task.samples.batch(federation.train.order)
    features = features_and_logits(task.module, x)[0].detach()
    mean, covariance = mean_and_covariance(features)
    vector = torch.tensor(checkpoint.state["statistic:remote_coral"])
    assert vector[0] == len(x)
    torch.testing.assert_close(vector[1:17], mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(vector[17:].view(16, 16), covariance, rtol=1e-3, atol=1e-4)
    assert float(coral_to_moments(features, vector[1:17], vector[17:].view(16, 16))) < 1e-9
    squashed = features.sigmoid().double()
    central = [squashed.mean(0), *(((squashed - squashed.mean(0)) ** k).mean(0) for k in range(2, 6))]
    cmd = torch.tensor(checkpoint.state["statistic:remote_cmd"])[1:].view(5, 16)
    torch.testing.assert_close(cmd, torch.stack(central).float(), rtol=1e-3, atol=1e-6)


def test_only_those_who_can_train_are_sampled(tmp_path: Path) -> None:
    phases = [
        {"rounds": 3, "objective": [{"term": "cross_entropy"}]},
        {"rounds": 3, "objective": [{"term": "entropy"}]},
    ]
    fedtl.run(tables(data=APART, phases=phases), out=tmp_path / "run")
    lines = rounds_of(tmp_path / "run")
    assert all(set(line["clients"]) <= set(range(5)) for line in lines[:3])
    assert all(set(line["clients"]) == {5, 6, 7} for line in lines[3:])
    assert not any(line["failures"] for line in lines)


def test_a_new_generation_begins_with_numbers_of_its_own(tmp_path: Path) -> None:
    first = {"rounds": 2, "objective": [{"term": "cross_entropy"}]}
    for restart in (False, True):
        again = {**first, "rounds": 1, "restart": restart, "strategy": {"lr": 1e-12}}
        fedtl.run(tables(phases=[first, again]), out=tmp_path / f"{restart}")
    before, fresh = (load_file(tmp_path / f"{restart}" / "model.safetensors") for restart in (False, True))
    assert all(not torch.allclose(before[name], fresh[name]) for name in before)
    assert rounds_of(tmp_path / "True")[2]["train"]["cross_entropy"] > 2


def test_progress_runs_from_zero_to_one_in_each_phase(tmp_path: Path) -> None:
    """A term with a ramp trains nothing in the first round, and at full weight in the last."""
    losses = []
    for ramp in ({"ramp": "linear"}, {"weight": 0.0}):
        objective = [{"term": "cross_entropy"}, {"term": "coral", "weight": 1e4, **ramp}]
        fedtl.run(tables(phases=[{"rounds": 2, "objective": objective}]), out=tmp_path / f"{len(losses)}")
        losses.append([line["train"]["cross_entropy"] for line in rounds_of(tmp_path / f"{len(losses)}")])
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-5)
    assert losses[0][1] != pytest.approx(losses[1][1], rel=1e-2)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"phases": ADDA, "rounds": 5}, "rounds = 5: the phases have 6 together; leave rounds out"),
        (
            {"phases": ADDA, "objective": [{"term": "l2"}]},
            "objective: with phases each has its own; give [[phases.objective]]",
        ),
        ({"phases": [{"rounds": 0}]}, "phases[0].rounds = 0: should be greater than 0"),
        ({"phases": [{"rounds": 1, "strategy": {"lr": -1}}]}, "phases[0].strategy.lr = -1: should be greater than 0"),
        (
            {"phases": [{"rounds": 1, "strategy": {"name": "local"}}]},
            "phases[0].strategy.name: it is the same in all phases; give it in [strategy]",
        ),
        (
            {"phases": [{"rounds": 1, "objective": [{"term": "bnn"}]}]},
            "phases[0].objective[0].term = 'bnn' is unknown: did you mean 'bnm'?",
        ),
        (
            {"rounds": 1, "objective": [{"term": "cross_entropy", "weight": 0}]},
            "objective: no term has a weight above 0, so nothing would be trained",
        ),
        (
            {
                "phases": [
                    {"rounds": 1, "objective": [{"term": "dann", "hidden": [4]}]},
                    {"rounds": 1, "objective": [{"term": "dann", "hidden": [50]}]},
                ]
            },
            "phases[1].objective[0]: the term 'dann' stands in phases[0].objective[0] with other options; give one of "
            "them a name",
        ),
        (
            {"phases": ADDA, "strategy": {"name": "local", "lr": 0.1}},
            "phases[1].objective[0]: the term 'adda' needs the global model when the phase began; under local clients "
            "receive none",
        ),
        (
            {"phases": ADDA, "strategy": {"name": "fedavg", "lr": 0.1, "private": ["head"]}},
            "phases[1].objective[0]: the term 'adda' needs the global model when the phase began, and of that "
            "strategy.private leaves a part at clients, where it goes on changing: leave one of them out",
        ),
        (
            {"rounds": 1, "objective": [{"term": "mmd"}], "data": APART},
            "objective[0]: the term 'mmd' needs target data; and clients with a source hold none, as "
            "data.target.clients gives it to others: leave that out, or use a term that needs only one of them "
            "(remote_coral, remote_cmd)",
        ),
    ],
)
def test_wrong_phases_are_one_sentence(more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(tables(**more))
    assert str(caught.value) == sentence


def test_a_new_generation_does_not_move_by_the_momentum_of_the_one_before(tmp_path: Path) -> None:
    models = []
    for lr in (0.1, 0.3):
        first = {"rounds": 2, "objective": [{"term": "cross_entropy"}], "strategy": {"lr": lr}}
        again = {"rounds": 1, "objective": [{"term": "cross_entropy"}], "restart": True}
        strategy = {"name": "fedavg", "lr": 0.1, "local_steps": 2, "server": {"name": "momentum"}}
        fedtl.run(tables(phases=[first, again], strategy=strategy), out=tmp_path / f"{lr}")
        models.append(load_file(tmp_path / f"{lr}" / "model.safetensors"))
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
