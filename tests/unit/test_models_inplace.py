"""A model that changes its input in place: each of its passes sees its own batch all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedtl
from fedtl.engine import Failed, OneByOne, Trained
from fedtl.models import build_model, read_model
from tests import odd_models
from tests.parts import METHODS, engine_of, federation_of, train_cohort, update_of

PAIRS = [
    ("InPlace", "Plain"),
    ("OnAView", "Plain"),
    ("ByData", "Plain"),
    ("InTraining", "Plain"),
    ("InEvaluation", "Plain"),
    ("Where", "Plain"),
    ("ReLUFirst", "PlainReLUFirst"),
]
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "several gradients": ("pfedme", {"traced": False}),
    "recorded": ("pfedme", {"traced": "auto", "stacked": False}),
    "stacked": ("pfedme", {"traced": False, "stacked": True}),
    "a teacher": ("fedavg", {"traced": False}),
}
UNLIKE = {("Where", "stacked"), ("Where", "recorded"), ("ByData", "stacked")}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 5)).astype(np.float32)
    file = tmp_path_factory.mktemp("data") / "own.npz"
    np.savez(file, x=x, y=(x[:, 0] > 0).astype(np.int64), user=np.arange(120) % 3)
    return str(file)


def result(data: str, folder: Path, model: str, kind: str) -> tuple[list[np.ndarray[Any, Any]], dict[str, float]]:
    method, simulation = KINDS[kind]
    objective = [{"term": "cross_entropy"}, *([{"term": "distillation", "teacher": "global"}] * (kind == "a teacher"))]
    config = {
        "name": "in-place",
        "rounds": 2,
        "data": {"name": "npz", "path": data},
        "model": {"name": f"tests.odd_models:{model}"},
        "strategy": {"name": method, "local_steps": 2, "batch_size": 10, **METHODS[method]},
        "objective": objective,
        "evaluate": {"every": 2},
        "simulation": {"grid": "in-process", **simulation},
    }
    run = fedtl.run(config, out=folder)
    state = run.state_dict()
    return [np.asarray(state[name]) for name in sorted(state)], {n: point.value for n, point in run.last().items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("model", "like"), PAIRS)
def test_it_trains_as_one_that_does_not(model: str, like: str, kind: str, data: str, tmp_path: Path) -> None:
    if (model, kind) in UNLIKE:
        pytest.skip("a branch on values is neither mapped nor recorded, and .data is not mapped")
    actual, expected = result(data, tmp_path / "a", model, kind), result(data, tmp_path / "b", like, kind)
    for one, other in zip(actual[0], expected[0]):
        np.testing.assert_array_equal(one, other)
    assert actual[1] == expected[1]


def test_a_model_that_leaves_its_input_alone_is_not_given_copies() -> None:
    for name, hooks in (("Plain", 0), ("InPlace", 1), ("Where", 1)):
        module = build_model(read_model({"name": f"tests.odd_models:{name}"}), (5,), 2, 0)
        assert len(module._forward_pre_hooks) == hooks
        x = torch.randn(3, 5)
        before = x.clone()
        module(x)
        assert torch.equal(x, before)


def test_one_that_no_trial_finds_is_refused_where_the_same_samples_are_looked_at_again() -> None:
    federation = federation_of([30] * 4, shape=(5,), classes=2)
    engine = engine_of(federation, odd_models.Rarely((5,), 2), OneByOne)
    w = engine.task.layout.flatten(engine.task.module)
    several = train_cohort(
        engine, update_of("pfedme", **METHODS["pfedme"], batch_size=10), w, [0, 1, 2, 3], [{}] * 4, 1
    )
    wrong = [outcome for outcome in several if isinstance(outcome, Failed)]
    assert wrong
    assert all("x = x.clone()" in outcome.message for outcome in wrong)
    once = train_cohort(engine, update_of("fedavg", lr=0.1, batch_size=10), w, [0, 1, 2, 3], [{}] * 4, 1)
    assert all(isinstance(outcome, Trained) for outcome in once)
