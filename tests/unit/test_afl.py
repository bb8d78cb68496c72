"""AFL: rounds by hand, equal weights without ascent, and the smallest greatest loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedtl.grid.in_process import InProcessGrid
from fedtl.server.scoring import Evaluation
from fedtl.strategies import read_strategy, strategy_type
from fedtl.strategies.afl import onto_simplex
from fedtl.wire import messages as m
from tests.parts import EACH_ENGINE, EngineKind, engine_of, federation_of, worker_of
from tests.quadratics import A, H, Quadratics, cross_entropies

ETA = 0.1


@EACH_ENGINE
def test_rounds_by_hand(kind: EngineKind, tmp_path: Path) -> None:
    """Of all clients: then some, among whom λ counts."""
    sampled, rate = [[0, 1, 2], [0, 2], [1, 2]], 0.2
    w, mixture, models = np.array([0.5, -0.2]), np.full(3, 1 / 3), []
    for S in sampled:
        own = {i: w.copy() for i in S}
        for i in S:
            for _ in range(2):
                own[i] -= ETA * H[i] * (own[i] - A[i])
        up = np.zeros(3)
        up[S] = cross_entropies(w)[S] * 3 / len(S)
        w = w + sum(mixture[i] / mixture[S].sum() * (own[i] - w) for i in S)
        mixture = onto_simplex(torch.tensor(mixture + rate * up)).numpy()
        models.append(w)
    run = Quadratics(H, A, tmp_path, "afl", [2, 2, 2], kind, lr=ETA, mixture_lr=rate, output="last")
    np.testing.assert_allclose(run.rounds(3, sampled, np.array([0.5, -0.2])), models, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(run.server.state["mixture"], mixture, rtol=1e-5)


def test_the_average_is_scored_and_the_last_model_trained_on(tmp_path: Path) -> None:
    """w^A = (w_1 + … + w_T) / T of the same w_t."""
    last, average = (
        Quadratics(H, A, tmp_path / output, "afl", [2, 2, 2], lr=ETA, mixture_lr=0.2, output=output).rounds(4)
        for output in ("last", "average")
    )
    means = np.cumsum(last, 0) / np.arange(1, 5)[:, None]
    np.testing.assert_allclose(average, means, rtol=1e-5, atol=1e-6)
    assert np.abs(means[-1] - last[-1]).max() > 0.01


@EACH_ENGINE
def test_without_ascent_it_is_fedavg_of_equal_weights(kind: EngineKind, tmp_path: Path) -> None:
    """To rounding: it goes from w towards the mean, and FedAvg takes the mean."""
    ours = Quadratics(H, A, tmp_path / "a", "afl", [3, 1, 2], kind, lr=ETA, mixture_lr=0.0, output="last").rounds(4)
    plain = Quadratics(H, A, tmp_path / "b", "fedavg", [3, 1, 2], kind, lr=ETA, weighting="uniform").rounds(4)
    np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)


def test_the_projection_is_the_nearest_mixture() -> None:
    """v_i - τ where that is positive, and 0 elsewhere, of sum 1: what the nearest point has to be."""
    rng = np.random.default_rng(0)
    for size in (1, 2, 7):
        v = torch.tensor(rng.normal(size=size))
        p = onto_simplex(v)
        assert float(p.sum()) == pytest.approx(1)
        taken = (v - p)[p > 0]
        assert float(taken.max() - taken.min()) == pytest.approx(0, abs=1e-12)
        assert bool((v[p == 0] <= taken[0] + 1e-12).all())
    inside = torch.tensor([0.2, 0.5, 0.3])
    torch.testing.assert_close(onto_simplex(inside), inside)


def test_the_greatest_loss_is_smaller_than_fedavgs(tmp_path: Path) -> None:
    federation, worst = federation_of([6, 6], shape=(3,), seed=3), []
    for options in ({"name": "fedavg", "weighting": "uniform"}, {"name": "afl", "mixture_lr": 0.3, "output": "last"}):
        engine = engine_of(federation, nn.Linear(3, 3))
        settings = read_strategy({"lr": 1.0, "batch_size": 0, "local_steps": 1, **options})
        server = strategy_type(options["name"])(settings, seed=0, clients=2, evaluation=Evaluation(clients=0))
        update, seen = server.client_update(settings, engine.task.layout), list[Any]()
        grid = InProcessGrid(worker_of(engine, update, tmp_path / str(options["name"])), 2)
        server.start(grid, m.pack(np.zeros(12, np.float32)), 30, on_round=lambda _, w, seen=seen: seen.append(w))
        scores = [engine.score(torch.from_numpy(seen[-1]), federation.train[client]) for client in range(2)]
        worst.append(max(score.loss_sum / score.samples for score in scores))
    assert worst[1] < worst[0] - 0.01
