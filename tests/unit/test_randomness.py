"""Random numbers from anywhere depend on (seed, round, client) alone."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedtl
from fedtl.choice import ConfigError
from fedtl.engine import OneByOne, Trained, refusal
from fedtl.engine.step_tracer import why_not_traced
from fedtl.models import build_model, read_model
from fedtl.models.generators import seeded, state
from tests import odd_models
from tests.parts import engine_of, federation_of, train_cohort, update_of

DRAWING = ["NumPyNoise", "PythonBranch", "OwnGenerators", "NoisyScores"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 5)).astype(np.float32)
    file = tmp_path_factory.mktemp("data") / "own.npz"
    np.savez(file, x=x, y=(x[:, 0] > 0).astype(np.int64), user=np.arange(120) % 3)
    return str(file)


def config_of(data: str, model: str, method: str, rounds: int = 3) -> dict[str, Any]:
    return {
        "name": "random",
        "rounds": rounds,
        "data": {"name": "npz", "path": data},
        "model": {"name": f"tests.odd_models:{model}"},
        "strategy": {"name": method, "local_steps": 3, "batch_size": 10, "lr": 0.1},
        "evaluate": {"every": 1},
        "simulation": {"grid": "in-process"},
    }


def numbers(folder: Path) -> list[Any]:
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    state = fedtl.load(folder).state_dict()
    return [[line["scores"] for line in lines], {name: np.asarray(state[name]).tolist() for name in state}]


@pytest.mark.parametrize(
    ("model", "method"), [*((model, "fedavg") for model in DRAWING), ("NumPyNoise", "local"), ("NoisyScores", "local")]
)
def test_a_run_has_the_same_bits_again_and_after_a_resume(model: str, method: str, data: str, tmp_path: Path) -> None:
    before = state()
    fedtl.run(config_of(data, model, method), out=tmp_path / "a")
    assert state() == before, "the caller's generators moved"
    random.random()
    np.random.rand()  # noqa: NPY002
    torch.rand(1)
    fedtl.run(config_of(data, model, method, rounds=1), out=tmp_path / "b")
    fedtl.run(config_of(data, model, method), out=tmp_path / "b", resume=True)
    assert numbers(tmp_path / "a") == numbers(tmp_path / "b")


@pytest.mark.parametrize("model", DRAWING)
def test_a_client_s_numbers_do_not_depend_on_who_trained_before(model: str) -> None:
    federation = federation_of([30] * 3, shape=(5,), classes=2)
    engine = engine_of(federation, getattr(odd_models, model)((5,), 2), OneByOne)
    w, update = engine.task.layout.flatten(engine.task.module), update_of("fedavg", lr=0.1, batch_size=10)
    together = train_cohort(engine, update, w, [0, 1, 2], [{}] * 3, 1)
    (alone,) = train_cohort(engine, update, w, [2], [{}], 1)
    assert isinstance(alone, Trained)
    assert isinstance(together[2], Trained)
    assert torch.equal(alone.uploads.get("w"), together[2].uploads.get("w"))  # type: ignore[arg-type]
    (other,) = train_cohort(engine, update, w, [2], [{}], 2)
    assert isinstance(other, Trained)


@pytest.mark.parametrize("model", DRAWING)
def test_such_a_model_is_not_recorded_with_frozen_numbers(model: str) -> None:
    """Though Python's branch is the same in nearly all recordings, and they in themselves alike."""
    federation = federation_of([30] * 3, shape=(5,), classes=2)
    task = engine_of(federation, getattr(odd_models, model)((5,), 2)).task
    reason = why_not_traced(task, update_of("fedavg", lr=0.1, batch_size=10), stacked=False)
    assert "draws random numbers from NumPy" in (reason or "")
    recorded = engine_of(federation, getattr(odd_models, model)((5,), 2), lambda task: OneByOne(task, traced=True))
    w, update = recorded.task.layout.flatten(recorded.task.module), update_of("fedavg", lr=0.1, batch_size=10)
    train_cohort(recorded, update, w, [0], [{}], 1)
    assert recorded.tracer is not None
    assert not recorded.tracer.replays_all


@pytest.mark.parametrize("model", ["NumPyNoise", "PythonBranch"])
def test_such_a_model_does_not_train_stacked(model: str) -> None:
    assert "draws random numbers" in (refusal(getattr(odd_models, model)((5,), 2), (5,)) or "")


def test_the_first_numbers_come_from_the_seed_alone() -> None:
    choice = read_model({"name": "tests.odd_models:NumPyNoise"})
    one, same, other = (build_model(choice, (5,), 2, seed).state_dict()["head.weight"] for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_numbers_that_nobody_can_seed_are_refused() -> None:
    with pytest.raises(ConfigError, match="it makes something else each time"):
        build_model(read_model({"name": "tests.odd_models:Unseeded"}), (5,), 2, 0)


def test_seeded_restores_all_generators_even_after_an_error() -> None:
    before = state()

    def draw() -> list[float]:
        with seeded(3):
            return [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002

    assert draw() == draw()
    with pytest.raises(ZeroDivisionError), seeded(1):
        random.random()
        _ = 1 / 0
    assert state() == before
