"""``strategy.optimizer`` and its companions in clients' training: methods, engines, rounds, resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fedtl
from fedtl.choice import ConfigError
from fedtl.clients.contract import ClientUpdate, Gradient, State
from fedtl.clients.sgd import SGDSettings
from fedtl.config.read import read_config
from fedtl.engine.assignment import Assignment, Received
from fedtl.engine.first_memory import check_first_memory
from fedtl.engine.task import RoundContext, Trained
from fedtl.losses.batch import Batch
from fedtl.models.vector import Layout
from fedtl.optimizers import OPTIMIZERS
from fedtl.optimizers.stepper import decayed_numbers
from tests.contract.test_grids import assert_same_run
from tests.parts import EACH_ENGINE, ENGINES, METHODS, EngineKind, engine_of, federation_of, small_module, update_of

TORCHS = {"adagrad": torch.optim.Adagrad, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "adam": {"weight_decay": 0.1},
    "adamw": {"weight_decay": 0.1},
    "adagrad": {},
}


def rounds(
    kind: EngineKind, name: str, rounds: int = 1, factors: tuple[float, ...] = (), **options: Any
) -> list[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    """Client 1's upload and memory of some rounds, each from the model before."""
    engine = engine_of(federation_of([12, 12, 12]), small_module(), kind)
    update = update_of(name, engine.task.layout, **options)
    w, memories, seen = engine.task.layout.flatten(engine.task.module), [{}, {}, {}], []
    for round in range(1, rounds + 1):
        context = RoundContext(lr_factor=factors[round - 1] if factors else 1.0)
        assignment = Assignment(update, Received({"w": w}), [0, 1, 2], memories, round, context)
        outcomes = engine.train(assignment)
        assert all(isinstance(outcome, Trained) for outcome in outcomes), outcomes
        memories = [outcome.memory for outcome in outcomes]  # type: ignore[union-attr]
        w = outcomes[1].uploads["w"]  # type: ignore[union-attr]
        seen.append((w, memories[1]))
    return seen


def by_torch(
    name: str,
    steps: int,
    rounds: int = 1,
    keep: bool = False,
    factors: tuple[float, ...] = (),
    spares_biases: bool = False,
    **options: Any,
) -> torch.Tensor:
    """The same steps on all of client 1's samples, by torch's own optimiser; biases may be spared its weight decay."""
    federation = federation_of([12, 12, 12])
    index = federation.train[1]
    x, y = torch.from_numpy(federation.x[index]), torch.from_numpy(federation.y[index])
    module = small_module()
    lr = options.pop("lr")

    def fresh() -> torch.optim.Optimizer:
        groups: dict[bool, list[nn.Parameter]] = {False: [], True: []}
        for key, parameter in module.named_parameters():
            groups[spares_biases and key.endswith("bias")].append(parameter)
        spared = [{"params": groups[True], "weight_decay": 0.0}] if spares_biases else []
        return TORCHS[name]([{"params": groups[False]}, *spared], lr=lr, **options)

    optimizer = fresh()
    for round in range(rounds):
        if not keep:
            optimizer = fresh()
        for group in optimizer.param_groups:
            group["lr"] = lr * (factors[round] if factors else 1.0)
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x), y).backward()
            optimizer.step()
    return Layout.of(module).flatten(module)


@EACH_ENGINE
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("keep", [False, True])
def test_three_rounds_are_torchs(name: str, keep: bool, kind: EngineKind) -> None:
    table = {"name": name, "keep": keep, **OPTIONS[name]}
    options = {"lr": 0.05, "batch_size": 0, "local_epochs": 3, "optimizer": table}
    (*_, (w, memory)) = rounds(kind, "fedavg", 3, **options)
    expected = by_torch(name, 3, 3, keep, lr=0.05, **OPTIONS[name])
    torch.testing.assert_close(w, expected, rtol=1e-4, atol=1e-5)
    assert bool(memory) == keep
    assert all(key.startswith("optimizer_w_") for key in memory)


@EACH_ENGINE
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_decay_spares_what_a_group_of_torchs_spares(name: str, kind: EngineKind) -> None:
    table = {"name": name, "weight_decay": 0.3, "decayed": "weights"}
    (*_, (w, _)) = rounds(kind, "fedavg", 2, lr=0.05, batch_size=0, local_epochs=3, optimizer=table)
    expected = by_torch(name, 3, 2, spares_biases=True, lr=0.05, weight_decay=0.3)
    torch.testing.assert_close(w, expected, rtol=1e-4, atol=1e-5)


def test_which_parameters_decay() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.LSTM(4, 3), nn.Linear(3, 2))
    layout = Layout.of(module)
    names = {slot.name for slot in layout.trained}
    biases = {"0.bias", "1.bias", "3.bias_ih_l0", "3.bias_hh_l0", "4.bias"}

    def decayed(which: str) -> set[str]:
        numbers = decayed_numbers(layout, which)
        assert len(numbers) == layout.parameters
        of_each = {slot.name: numbers[slot.start : slot.stop] for slot in layout.trained}
        assert all(len(each.unique()) == 1 for each in of_each.values())
        return {name for name, each in of_each.items() if each.all()}

    assert decayed("weights") == names - biases
    assert decayed("matrices") == names - biases - {"1.weight"}


def test_nothing_decays_without_a_decay() -> None:
    with pytest.raises(ConfigError, match=r"decayed.*no effect, as there is no weight decay"):
        read_config("quickstart", ["strategy.name=fedavg", 'strategy.optimizer={name="adam",decayed="weights"}'])


@EACH_ENGINE
def test_a_schedules_factor_is_of_its_round(kind: EngineKind) -> None:
    factors = (1.0, 0.5, 0.1)
    options = {"lr": 0.05, "batch_size": 0, "local_epochs": 2, "optimizer": "adam", "schedule": "cosine"}
    (*_, (w, _)) = rounds(kind, "fedavg", 3, factors, **options)
    torch.testing.assert_close(w, by_torch("adam", 2, 3, False, factors, lr=0.05), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [kind for name, kind in ENGINES.items() if "traced" in name])
def test_another_factor_needs_no_new_recording(kind: EngineKind) -> None:
    engine = engine_of(federation_of([12, 12]), small_module(), kind)
    assert engine.tracer is not None
    update = update_of(
        "fedavg", engine.task.layout, lr=0.05, batch_size=4, schedule={"name": "exponential", "gamma": 0.5}
    )
    w, seen = engine.task.layout.flatten(engine.task.module), []
    for factor in (1.0, 0.5):
        engine.train(Assignment(update, Received({"w": w}), [0, 1], [{}, {}], 1, RoundContext(lr_factor=factor)))
        seen.append({key: id(program) for key, program in engine.tracer.programs.items()})
    assert seen[0] == seen[1]
    assert None not in engine.tracer.programs.values()


@EACH_ENGINE
@pytest.mark.parametrize("method", ["fedprox", "pfedme", "local", "fedavg-finetune"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_method_steps_by_it(method: str, name: str, kind: EngineKind) -> None:
    """It moves otherwise than without, and alike under every engine."""
    plain = {**METHODS[method], "batch_size": 6, "local_epochs": 1}
    table = {"name": name, **({"momentum": 0.5} if name == "sgd" else {})}
    own = {**plain, "optimizer": table, "clip_norm": 1.0, "lr_scale": {"head": 2.0}}
    if method == "local":  # it uploads nothing

        def last(kind: EngineKind, **options: Any) -> torch.Tensor:
            engine = engine_of(federation_of([12, 12, 12]), small_module(), kind)
            w, update = engine.task.layout.flatten(engine.task.module), update_of(method, engine.task.layout, **options)
            (outcome,) = engine.train(Assignment(update, Received({"w": w}), [1], [{}], 1))
            return outcome.memory["w"]  # type: ignore[union-attr]
    else:

        def last(kind: EngineKind, **options: Any) -> torch.Tensor:
            return rounds(kind, method, **options)[-1][0]

    moved, expected = last(kind, **own), last(ENGINES["one by one"], **own)
    assert not torch.allclose(moved, last(kind, **plain), atol=1e-4)
    torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-5)


def test_parts_have_rates_of_their_own() -> None:
    options = {"lr": 0.1, "batch_size": 0, "local_epochs": 1}
    engine = engine_of(federation_of([12, 12, 12]), small_module())
    first, head = engine.task.layout.flatten(engine.task.module), engine.task.layout.mask("head")
    ((plain, _),) = rounds(ENGINES["one by one"], "fedavg", **options)
    ((scaled, _),) = rounds(ENGINES["one by one"], "fedavg", lr_scale={"head": 10.0}, **options)
    torch.testing.assert_close(scaled - first, (plain - first) * (1 + 9 * head), rtol=1e-4, atol=1e-6)


def config(**strategy: Any) -> dict[str, Any]:
    return {
        "name": "optimizers",
        "rounds": 4,
        "device": "cpu",
        "data": {"name": "digits", "clients": 6, "samples": 240},
        "model": {"name": "mlp", "hidden": [8]},
        "strategy": {"name": "fedavg", "lr": 0.05, "clients_per_round": 3, "local_steps": 2, **strategy},
        "simulation": {"grid": "in-process"},
    }


KEPT = {"optimizer": {"name": "adam", "keep": True}, "schedule": {"name": "step", "every": 2}, "clip_norm": 1.0}


def test_what_optimisers_keep_survives_a_resume(tmp_path: Path) -> None:
    fedtl.run(config(**KEPT), out=tmp_path / "whole")
    fedtl.run(config(**KEPT), ["rounds=2"], out=tmp_path / "parts")
    fedtl.run(config(**KEPT), out=tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert (tmp_path / "parts/memories").exists()


def test_a_schedule_over_all_rounds_is_another_one_with_more_rounds(tmp_path: Path) -> None:
    fedtl.run(config(schedule="cosine"), ["rounds=2"], out=tmp_path)
    with pytest.raises(ConfigError, match="rounds"):
        fedtl.run(config(schedule="cosine"), out=tmp_path, resume=True)


def test_a_schedules_last_round_is_the_runs(tmp_path: Path) -> None:
    """Half a cosine over four rounds: (1 + cos(π t / 4)) / 2 times the rate of the first."""
    moved = []
    for rounds_ in (1, 4):
        run = fedtl.run(
            config(schedule={"name": "cosine", "rounds": 4}, clients_per_round=6),
            [f"rounds={rounds_}"],
            out=tmp_path / str(rounds_),
        )
        moved.append(run.rounds[-1]["train"]["cross_entropy"])
    plain = fedtl.run(config(clients_per_round=6), ["rounds=1"], out=tmp_path / "plain").rounds[-1]["train"]
    assert moved[0] == pytest.approx(plain["cross_entropy"], rel=1e-6)
    assert moved[1] < moved[0]
    assert np.isfinite(moved).all()


class OwnSteps(ClientUpdate[SGDSettings]):
    settings_type = SGDSettings

    def start(self, received: Any, memory: Any, probe: Any) -> State:
        return {"w": received["w"]}

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        return {"w": state["w"] - 0.1 * grad(state["w"], batch)}


@pytest.mark.parametrize("option", [{"optimizer": "adam"}, {"clip_norm": 1.0}, {"schedule": "cosine"}])
def test_a_method_that_does_not_step_by_it_says_so(option: dict[str, Any]) -> None:
    task = engine_of(federation_of([8, 8]), small_module()).task
    settings = SGDSettings(name="own", lr=0.1, **option)
    with pytest.raises(ConfigError, match="OwnSteps takes steps of its own"):
        check_first_memory(task, OwnSteps(settings, task.layout))
    check_first_memory(task, OwnSteps(SGDSettings(name="own", lr=0.1), task.layout))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["strategy.optimizer=adamm"], "strategy.optimizer.name = 'adamm'"),
        (["strategy.optimizer.name=adam", "strategy.optimizer.beta=1"], "strategy.optimizer"),
        (["strategy.optimizer=adam", "strategy.momentum=0.9"], "momentum = 0.9 is of the plain SGD"),
        (["strategy.schedule.name=step"], "every"),
        (["strategy.clip_norm=0"], "clip_norm"),
        (["strategy.lr_scale.head=0"], "strategy.frozen"),
    ],
)
def test_wrong_options_are_one_sentence(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_config(config(), overrides)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_another_name_drops_the_old_ones_options() -> None:
    read, notes = read_config(config(optimizer={"name": "adam", "betas": [0.8, 0.9]}), ["strategy.optimizer.name=sgd"])
    assert read.strategy.optimizer.name == "sgd"  # type: ignore[attr-defined]
    assert any("dropped betas" in note for note in notes)


def test_a_part_that_does_not_exist_is_named_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"strategy\.lr_scale\.tail = 2: the model has no part 'tail'"):
        fedtl.run(config(lr_scale={"tail": 2.0}), out=tmp_path)
