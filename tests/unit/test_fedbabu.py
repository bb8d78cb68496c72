"""FedBABU (Oh et al. 2022): the body alone is trained; clients fine-tune body and head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedtl
from fedtl.choice import ConfigError
from fedtl.clients.fedbabu import FedBABUSettings
from fedtl.config.read import build
from fedtl.export.of_run import model_of_run
from tests.parted import Parted, assert_same, descend, mean
from tests.parts import EACH_ENGINE, EngineKind, federation_of

SIZES = [4, 6, 9]


@EACH_ENGINE
def test_a_round_worked_out_by_hand(kind: EngineKind) -> None:
    """A step of the body, its mean by samples; then two of body and head from the global model."""
    run = Parted({"name": "fedbabu", "finetune_epochs": 2}, federation_of(SIZES), [[0, 2]], kind)
    (sent,) = run.rounds()
    trained = [run.begun(), run.begun()]
    for client, module in zip((0, 2), trained):
        descend(module, [*module.body.parameters()], *run.samples(client), lr=0.2)
    body = mean([module.body for module in trained], [SIZES[0], SIZES[2]])
    assert len(sent) == sum(p.numel() for p in body)  # the head does not travel
    assert_same(run.global_model(sent).body, body)
    assert_same(run.global_model(sent).head, run.begun().head, exactly=True)
    for client in range(3):  # whether it has trained or not
        expected = run.global_model(sent)
        for _ in range(2):
            descend(expected, [*expected.parameters()], *run.samples(client), lr=0.2)
        assert_same(run.served(client), expected)
        assert not run.memory(client)


@EACH_ENGINE
@pytest.mark.parametrize(
    "strong",
    [{"momentum": 0.9, "weight_decay": 0.1}, {"optimizer": {"name": "adam", "lr": 0.05, "weight_decay": 0.1}}],
    ids=["sgd", "adam"],
)
def test_the_head_keeps_its_bits(strong: dict[str, Any], kind: EngineKind) -> None:
    run = Parted({"name": "fedbabu", "local_epochs": 3, **strong}, federation_of(SIZES), [[0]], kind)
    seen: list[torch.Tensor] = []
    train = run.engine.train

    def noted(assignment: Any) -> Any:
        outcomes = train(assignment)
        seen.extend(outcome.uploads["w"].clone() for outcome in outcomes)  # type: ignore[union-attr]
        return outcomes

    run.engine.train = noted  # type: ignore[method-assign]
    run.rounds()
    (uploaded,) = map(run.module, seen)
    assert_same(uploaded.head, run.begun().head, exactly=True)
    assert not torch.equal(uploaded.body.weight, run.begun().body.weight)


def test_with_nothing_fixed_it_is_fedavg_with_fine_tuning() -> None:
    runs = [
        Parted({**table, "finetune_steps": 3, "momentum": 0.5}, federation_of(SIZES), [[0, 1], [1, 2]])
        for table in ({"name": "fedbabu", "fixed": []}, {"name": "fedavg-finetune"})
    ]
    assert all(map(torch.equal, *(run.rounds() for run in runs)))
    for client in range(3):
        assert_same(*(run.served(client) for run in runs), exactly=True)


@pytest.mark.parametrize("method", ["fedbabu", "fedavg-finetune"])
def test_no_schedule_of_training_slows_fine_tuning_down(method: str, tmp_path: Path) -> None:
    """With parts that have learning rates of their own, either."""
    tables: dict[str, Any] = {
        "name": "finetune",
        "rounds": 3,
        "data": {"name": "digits", "clients": 3, "samples": 90},
        "model": {"name": "mlp", "hidden": [5]},
        "strategy": {"name": method, "lr": 0.1, "finetune_lr": 0.1, "schedule": {"name": "exponential", "gamma": 0.1}},
        "simulation": {"grid": "in-process"},
    }
    losses = []
    for i, own in enumerate(({}, {"lr_scale": {"head": 1.0}})):
        run = fedtl.run({**tables, "strategy": {**tables["strategy"], **own}}, out=tmp_path / str(i))
        losses.append([run.last("loss")[f"{whose}/clients"].value for whose in ("global", "personal")])
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert losses[0][1] < 0.99 * losses[0][0]


def test_its_rounds_are_fedreps_whose_head_never_trains() -> None:
    runs = [
        Parted({**table, "local_epochs": 2}, federation_of(SIZES), [[0, 1], [1, 2]])
        for table in ({"name": "fedbabu", "weighting": "uniform"}, {"name": "fedrep", "head_epochs": 0})
    ]
    assert all(map(torch.equal, *(run.rounds() for run in runs)))


def test_the_global_model_is_whole_and_scored(tmp_path: Path) -> None:
    few = ["rounds=2", "data.clients=4", "data.partition.min_size=5", "strategy.clients_per_round=2"]
    few += ["strategy.local_steps=2", "simulation.grid=in-process", "strategy.name=fedbabu"]
    run = fedtl.run("quickstart", few, out=tmp_path / "run")
    assert {"global/server-test", "global/clients", "personal/clients"} <= set(run.last())
    whole, begun = fedtl.load_model(run), fedtl.run("quickstart", [*few, "rounds=1"], out=tmp_path / "one")
    assert torch.equal(whole.head.weight, fedtl.load_model(begun).head.weight)  # type: ignore[union-attr, arg-type]
    assert torch.equal(whole.head.weight, model_of_run(run.path).module.head.weight)  # type: ignore[union-attr, arg-type]
    head = whole.head.weight.numel() + whole.head.bias.numel()  # type: ignore[union-attr, operator]
    assert run.rounds[0]["bytes_up"] == 4 * 2 * (run.environment["parameters"] - head)


def test_fine_tuning_has_five_epochs_if_nothing_is_said() -> None:
    assert FedBABUSettings(name="fedbabu", lr=0.1).finetune_epochs == 5
    settings = FedBABUSettings(name="fedbabu", lr=0.1, finetune_steps=3)
    assert (settings.finetune_epochs, settings.finetune_steps) == (None, 3)


@pytest.mark.parametrize("key", ["private", "frozen"])
def test_what_is_fixed_is_not_private_or_frozen_too(key: str) -> None:
    strategy = {"name": "fedbabu", "lr": 0.1, key: ["head"]}
    tables = {"name": "x", "rounds": 1, "data": {"name": "digits", "clients": 4}, "model": {"name": "mlp"}}
    with pytest.raises(ConfigError, match=rf"{key} = \['head'\]: 'head' is in fixed already"):
        build({**tables, "strategy": strategy})
    assert build({**tables, "strategy": {**strategy, "fixed": ["features"]}})


def test_one_length_is_asked_for() -> None:
    strategy = {"name": "fedavg-finetune", "lr": 0.1, "finetune_steps": 2, "finetune_epochs": 1}
    data = {"name": "digits", "clients": 4}
    with pytest.raises(ConfigError, match="finetune_steps = 2 and finetune_epochs = 1 exclude each other: remove one"):
        build({"name": "x", "rounds": 1, "data": data, "model": {"name": "mlp"}, "strategy": strategy})
