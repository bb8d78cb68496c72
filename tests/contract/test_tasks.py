"""Every task under every engine, on actors, after an end in the middle, and beside private parts and other terms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedtl
from fedtl.choice import ConfigError
from fedtl.config.read import read_config
from fedtl.engine import Engine
from fedtl.runs.checkpoint import read_checkpoint
from fedtl.strategies import STRATEGIES, read_strategy, strategy_type
from fedtl.tasks import TASKS
from fedtl.tasks.tokens import IGNORED
from tests.interrupted import contents, stopped_and_resumed
from tests.parts import METHODS

OTHERS = [task for task in TASKS if task != "classification"]


def tables(task: str, method: str = "fedavg", **simulation: Any) -> dict[str, Any]:
    """Clients of several sizes, so that stacks are padded."""
    data = {"name": "made", "clients": 5, "sizes": 17, "dimension": 6, "task": task, "server_test_share": 0.2}
    model: dict[str, Any] = {"name": "mlp", "hidden": [8]}
    if task == "next_token":
        data["normalise"], model = "none", {"name": "tests.trial_models:Tokens", "tokens": 10}
    strategy = {"name": method, **METHODS[method], "batch_size": 5, "lr": 0.05}
    simulation = {"grid": "in-process", "stacked": False, "traced": False, **simulation}
    parts = {"data": data, "model": model, "strategy": strategy, "simulation": simulation}
    own = {"evaluate": {"metrics": ["perplexity", "tests.unit.test_tasks:token_loss"]}} if task == "next_token" else {}
    return {"name": "tasks", "rounds": 2, "device": "cpu", **parts, **own}


@pytest.mark.parametrize("task", OTHERS)
def test_engines_agree(task: str, tmp_path: Path) -> None:
    runs = [
        fedtl.run(tables(task, stacked=stacked, traced=traced), out=tmp_path / f"{stacked}{traced}")
        for stacked in (False, True)
        for traced in (False, True)
    ]
    first = runs[0]
    metrics = [name for name in first.rounds[-1]["scores"]["global/server-test"] if name != "drawn_from"]
    assert {*read_config(tables(task))[0].scored} <= {*metrics}
    assert ("accuracy" in metrics) == (task in ("binary", "next_token"))
    for other in runs[1:]:
        for name, tensor in first.state_dict().items():
            torch.testing.assert_close(tensor, other.state_dict()[name], rtol=1e-4, atol=2e-6)
        for metric in metrics:
            for score, point in first.last(metric).items():
                assert other.last(metric)[score].value == pytest.approx(point.value, rel=1e-4, abs=1e-6, nan_ok=True)


def defined(method: str, task: str) -> bool:
    """Whether a method and the terms that it brings are defined for a task."""
    kind = strategy_type(method)
    settings = read_strategy({"name": method, **METHODS[method]})
    terms = kind.client_update.objective(settings, ())
    each = [kind.tasks, kind.client_update.tasks, *(term.defined_for() for term in terms)]
    return all(tasks is None or task in tasks for tasks in each)


@pytest.mark.parametrize("method", STRATEGIES)
def test_methods_train_or_say_that_they_are_not_defined(method: str, tmp_path: Path) -> None:
    """By turns of the tasks, so that each is met by several kinds of method."""
    task = OTHERS[sorted(STRATEGIES).index(method) % len(OTHERS)]
    asked = tables(task, method)
    if not defined(method, task):
        with pytest.raises(ConfigError, match=rf"is defined for .*, and data\.task is '{task}'"):
            read_config(asked)
        return
    config, _ = read_config(asked)
    if method == "fedbn":  # this model has no batch-norm
        with pytest.raises(ConfigError, match="no batch-norm"):
            fedtl.run(config, out=tmp_path / "run")
        return
    run = fedtl.run(config, out=tmp_path / "run")
    for point in run.last().values():
        assert np.isfinite(point.value)
    assert not run.rounds[-1]["failures"]


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("task", [task for task in OTHERS if task != "survival"])
def test_a_pass_by_mini_batches_adds_up_to_the_gradient(task: str, stacked: bool, traced: bool, tmp_path: Path) -> None:
    """SCAFFOLD's option I, where a sample may have several numbers to predict; of "survival" none has a loss."""

    def vector(folder: str, **options: Any) -> torch.Tensor:
        asked = tables(task, stacked=stacked, traced=traced) | {"rounds": 1, "evaluate": {"every": 2}}
        fedtl.run({**asked, "strategy": options}, out=tmp_path / folder)
        checkpoint = read_checkpoint(tmp_path / folder)
        assert checkpoint is not None
        return torch.as_tensor(checkpoint.state["c"] if options["name"] == "scaffold" else checkpoint.w)

    c = vector("c", name="scaffold", lr=0.1, batch_size=5, option="I", local_steps=1)
    one, half = (vector(f"{lr}", name="fedavg", lr=lr, batch_size=0, weighting="uniform") for lr in (1.0, 0.5))
    torch.testing.assert_close(c, 2 * (half - one), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("task", ["regression", "next_token"])
def test_ended_and_resumed(task: str, tmp_path: Path) -> None:
    asked = tables(task, "ditto")
    fedtl.run(asked, out=tmp_path / "whole")
    stopped_and_resumed(asked, tmp_path / "ended", 2, Engine, "train", after=False)
    assert contents(tmp_path / "ended") == contents(tmp_path / "whole")


@pytest.mark.ray
@pytest.mark.usefixtures("warm_actors")
@pytest.mark.parametrize("task", ["regression", "next_token"])
def test_same_bits_on_actors(task: str, tmp_path: Path) -> None:
    fedtl.run(tables(task), out=tmp_path / "here")
    fedtl.run(tables(task, grid="ray", actors=2), out=tmp_path / "ray")
    assert contents(tmp_path / "here") == contents(tmp_path / "ray")


def test_beside_other_terms_and_private_parts(tmp_path: Path) -> None:
    asked = tables("regression")
    asked["objective"] = [
        {"term": "squared_error"},
        {"term": "mmd", "weight": 0.1},
        {"term": "proximal", "weight": 0.1},
    ]
    asked["data"]["target"] = {"name": "made", "sizes": 17, "clients": 5, "dimension": 6, "seed": 1}
    with pytest.raises(ConfigError, match=r"needs target data"):
        read_config(asked)
    asked["objective"][1] = {"term": "remote_coral", "weight": 0.1}
    asked["strategy"]["private"] = ["head"]
    run = fedtl.run(asked, out=tmp_path / "run")
    assert {"global/clients", "personal/clients"} & run.last("rmse").keys()
    assert "personal/target-clients" in run.last("rmse")


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("stacked", [False, True])
def test_what_has_no_token_to_predict_is_no_part_of_a_mean(stacked: bool, traced: bool, tmp_path: Path) -> None:
    """Neither a mini-batch of a client, nor a client: what they add has no gradient, so that the rest is the same."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(10, size=(2, 4, 2, 5))
    y[:3, 1], y[3] = IGNORED, IGNORED  # of three clients the second sequence, of the last one both
    means = []
    for name, sequences, clients in (("with", 2, 4), ("without", 1, 3)):
        (tmp_path / name).mkdir()
        for client in range(clients):
            own = {"x": x[client, :sequences], "y": y[client, :sequences]}
            np.savez(tmp_path / name / f"client-{client}.npz", **own, x_test=x[0, :1], y_test=y[0, :1])
        asked = tables("next_token", stacked=stacked, traced=traced)
        asked["data"] = {"name": "npz", "path": str(tmp_path / name), "task": "next_token", "normalise": "none"}
        asked["strategy"]["batch_size"] = 1
        means.append(fedtl.run({**asked, "rounds": 1}, out=tmp_path / f"{name}-run").rounds[0]["train"])
    assert means[0].keys() == {"token_cross_entropy"}
    assert means[0] == pytest.approx(means[1], rel=1e-5)
