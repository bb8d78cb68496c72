"""What every method owes: its degenerate setting, its server's step, and numbers that depend on the seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import RecordDict
from safetensors.torch import load_file

import fedtl
from fedtl.grid.in_process import InProcessGrid
from fedtl.server.scoring import Evaluation
from fedtl.strategies import STRATEGIES, read_strategy, strategy_type
from fedtl.wire import messages as m
from tests.parts import (
    METHODS,
    engine_of,
    federation_of,
    overrides_of,
    quadratic,
    small_module,
    train_cohort,
    worker_of,
)

pytestmark = pytest.mark.usefixtures("engines_chosen_once")

TINY = [
    "rounds=2",
    "data.clients=6",
    "data.partition.min_size=5",
    "strategy.clients_per_round=4",
    "strategy.local_steps=3",
    "evaluate.every=5",
    "simulation.grid=in-process",
]


def final(tmp: Path, *overrides: str) -> tuple[fedtl.Run, dict[str, torch.Tensor]]:
    run = fedtl.run("quickstart", [*TINY, *overrides], out=tmp)
    return run, load_file(run.path / "model.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("method", STRATEGIES)
def test_another_seed_gives_other_numbers(method: str, tmp_path: Path) -> None:
    """The same one the same bits: test_resume.py and test_grids.py see to that."""
    quick = "simulation.traced=false", "simulation.stacked=false", *overrides_of(method)
    first, a = final(tmp_path / "a", *quick)
    _, b = final(tmp_path / "b", *quick, "seed=1")
    assert any(not torch.allclose(a[name], b[name], rtol=0.1, atol=0.01) for name in a)
    assert first.rounds[-1]["scores"]  # the last round is scored though it is no multiple of every


def test_fedprox_without_mu_is_fedavg(tmp_path: Path) -> None:
    _, a = final(tmp_path / "a", "strategy.name=fedavg")
    _, b = final(tmp_path / "b", "strategy.name=fedprox", "strategy.mu=0")
    assert equal(a, b)


def test_finetuning_leaves_the_global_model_alone(tmp_path: Path) -> None:
    _, a = final(tmp_path / "a", "strategy.name=fedavg")
    _, b = final(tmp_path / "b", "strategy.name=fedavg-finetune")
    assert equal(a, b)


def test_momentum_of_zero_is_plain_averaging(tmp_path: Path) -> None:
    _, a = final(tmp_path / "a", "strategy.name=fedavg")
    _, b = final(tmp_path / "b", "strategy.name=fedavg", "strategy.server.name=momentum", "strategy.server.momentum=0")
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-6)


def rounds_by_hand(method: str, targets: np.ndarray[Any, Any], options: dict[str, Any], n: int) -> np.ndarray[Any, Any]:
    """The global vector after n rounds of a method on quadratics, through grid and messages."""
    kind = strategy_type(method)
    settings = read_strategy({"name": method, **options})
    engine = quadratic(targets)
    grid = InProcessGrid(worker_of(engine, kind.client_update(settings, engine.task.layout)), len(targets))
    strategy = kind(settings, seed=0, clients=len(targets))
    models: list[np.ndarray[Any, Any]] = []
    strategy.start(grid, m.pack(np.zeros(targets.shape[1], np.float32)), n, on_round=lambda _, w: models.append(w))
    return models[-1]


def test_fedavg_of_one_full_batch_step_is_gradient_descent() -> None:
    targets = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    model = rounds_by_hand("fedavg", targets, {"lr": 0.3, "local_steps": 1, "batch_size": 0}, 4)
    w = np.zeros(6)
    for _ in range(4):
        w = w - 0.3 * (w - targets.mean(0))  # the gradient of mean_i ½‖w - a_i‖²
    np.testing.assert_allclose(model, w, atol=1e-6)


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_pfedme_server_step_on_quadratics(beta: float) -> None:
    """With the exact prox, w_i = w - ηλ/(1 + λ) (w - a_i), and w ← (1 - β) w + β mean_i w_i."""
    targets = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    lam, eta = 2.0, 0.1
    options = {"lr": eta, "lam": lam, "inner_lr": 0.1, "inner_steps": 300, "local_steps": 1, "beta": beta}
    model = rounds_by_hand("pfedme", targets, options, 3)
    w = np.zeros(6)
    for _ in range(3):
        mean = (w - eta * lam / (1 + lam) * (w - targets)).mean(0)
        w = (1 - beta) * w + beta * mean
    np.testing.assert_allclose(model, w, atol=1e-6)


def test_means_are_weighted_by_samples_or_not() -> None:
    federation = federation_of([5, 20, 40])
    for weighting, weights in {"samples": [5, 20, 40], "uniform": [1, 1, 1]}.items():
        engine = engine_of(federation, small_module())
        w = engine.task.layout.flatten(engine.task.module)
        kind = strategy_type("fedavg")
        settings = read_strategy({"name": "fedavg", "lr": 0.1, "weighting": weighting})
        worker = worker_of(engine, kind.client_update(settings, engine.task.layout))
        outcomes = train_cohort(engine, worker.update, w, [0, 1, 2], [{}] * 3, 1)
        expected = np.average([o.uploads.get("w").numpy() for o in outcomes], axis=0, weights=weights)  # type: ignore[union-attr]
        models: list[Any] = []
        strategy = kind(settings, seed=0, clients=3)
        strategy.start(InProcessGrid(worker, 3), m.pack(w.numpy()), 1, on_round=lambda _, v, f=models: f.append(v))
        np.testing.assert_allclose(models[0], expected, rtol=1e-6, atol=1e-7)


def test_server_steps_leave_batch_norm_statistics_to_the_mean() -> None:
    """β = 2 would otherwise make a variance negative."""
    settings = read_strategy({"name": "pfedme", **METHODS["pfedme"], "beta": 2.0})
    strategy = strategy_type("pfedme")(settings, seed=0, clients=2, parameters=3, evaluation=Evaluation(clients=0))
    federation = federation_of([6, 6])

    class Fixed(InProcessGrid):
        def carry_out(self, order, timeout):  # type: ignore[no-untyped-def]
            # The workers' model is whole; that of the strategy has three parameters and two statistics.
            content = RecordDict({**order.content, m.ARRAYS: m.pack(worker.initial.numpy())})
            for reply in super().carry_out(replace(order, content=content), timeout):
                if order.kind == "train":
                    reply.content[m.ARRAYS] = m.pack(np.array([2.0, 2, 2, 0.4, 0.4]) * 2)
                yield reply

    engine = engine_of(federation, small_module())
    worker = worker_of(engine, strategy.client_update(settings, engine.task.layout))
    worker.initial = engine.task.layout.flatten(engine.task.module)
    models: list[Any] = []
    arrays = m.pack(np.ones(5, np.float32))
    strategy.start(Fixed(worker, 2), arrays, 1, on_round=lambda _, w: models.append(w))
    np.testing.assert_allclose(models[0], [3.0, 3, 3, 0.4, 0.4], rtol=1e-6)


def test_last_personal_models_are_counted_where_there_are_none(tmp_path: Path) -> None:
    run, _ = final(tmp_path, "evaluate.personal=stored", "strategy.clients_per_round=2", "rounds=1")
    score = run.rounds[-1]["scores"]["personal/clients"]
    assert score["model"] == "stored"
    assert score["clients_without"] == 4


def test_fresh_personal_models_are_those_of_the_next_round(tmp_path: Path) -> None:
    """With all clients in each round, what is kept in round 2 is what was scored as fresh after round 1."""
    every = ["strategy.clients_per_round=6", "evaluate.every=1"]
    fresh, _ = final(tmp_path / "a", *every, "rounds=1")
    last, _ = final(tmp_path / "b", *every, "rounds=2", "evaluate.personal=stored")
    key = ("scores", "personal/clients", "accuracy")
    assert fresh.clients[0][key[0]][key[1]] == last.clients[1][key[0]][key[1]]


def test_scores_are_over_the_clients_own_test_samples(tmp_path: Path) -> None:
    run, _ = final(tmp_path)
    row = run.clients[-1]
    values, samples = np.array(row["scores"]["global/clients"]["accuracy"]), np.array(row["samples"])
    score = run.rounds[-1]["scores"]["global/clients"]["accuracy"]
    assert score["weighted_mean"] == pytest.approx((values * samples).sum() / samples.sum())
    assert score["mean"] == pytest.approx(values.mean())
    assert score["std"] == pytest.approx(values.std())
    assert score["worst_decile"] == pytest.approx(values.min())
    assert score["best_decile"] == pytest.approx(values.max())
