"""q-FedAvg: Algorithm 2 by hand, FedAvg at q = 0, and losses that are closer to each other the larger q is."""

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
from fedtl.wire import messages as m
from tests.parts import EACH_ENGINE, EngineKind, engine_of, federation_of, worker_of
from tests.quadratics import A, H, Quadratics, cross_entropies

ETA = 0.1


ROUNDS: list[dict[str, Any]] = [
    {"q": 0.0},
    {"q": 0.5},
    {"q": 2.0},
    {"q": 1.0, "lipschitz": 3.0},
    {"q": 1.0, "lr": 7.0, "optimizer": {"name": "sgd", "lr": ETA}},
]


@EACH_ENGINE
@pytest.mark.parametrize("options", ROUNDS, ids=str)
def test_a_round_by_hand(options: dict[str, Any], kind: EngineKind, tmp_path: Path) -> None:
    """L is 1/η of the steps that are taken, whichever option says how long they are."""
    w, S, steps = np.array([0.3, -0.2]), [0, 2], 3
    q, L = options["q"], options.get("lipschitz", 1 / ETA)
    deltas, h = [], []
    for i in S:
        own, F = w.copy(), cross_entropies(w)[i]
        for _ in range(steps):
            own -= ETA * H[i] * (own - A[i])
        moved = L * (w - own)
        deltas.append(F**q * moved)
        h.append(q * F ** (q - 1) * (moved**2).sum() + L * F**q)
    run = Quadratics(H, A, tmp_path, "qfedavg", [3, 1, 3], kind, **{"lr": ETA, **options})
    expected = w - np.sum(deltas, 0) / np.sum(h)
    np.testing.assert_allclose(run.rounds(1, [S], w)[0], expected, rtol=1e-5, atol=1e-6)


@EACH_ENGINE
@pytest.mark.parametrize("q", [0.0, 1.5])
def test_clients_may_count_by_their_samples(q: float, kind: EngineKind, tmp_path: Path) -> None:
    """As in f_q with p_i = n_i / n: each counts as often in both sums as it has samples."""
    w, sizes, L = np.array([0.3, -0.2]), [3, 1, 2], 1 / ETA
    top, bottom = np.zeros(2), 0.0
    for i, n in enumerate(sizes):
        own, F = w.copy(), cross_entropies(w)[i]
        for _ in range(n):
            own -= ETA * H[i] * (own - A[i])
        moved = L * (w - own)
        top += n * F**q * moved
        bottom += n * (q * F ** (q - 1) * (moved**2).sum() + L * F**q)
    run = Quadratics(H, A, tmp_path, "qfedavg", sizes, kind, lr=ETA, q=q, objective_weighting="samples")
    np.testing.assert_allclose(run.rounds(1, (), w)[0], w - top / bottom, rtol=1e-5, atol=1e-6)


@EACH_ENGINE
def test_q_of_0_is_fedavg_of_equal_weights(kind: EngineKind, tmp_path: Path) -> None:
    """To rounding: it goes from w towards the mean, and FedAvg takes the mean."""
    ours = Quadratics(H, A, tmp_path / "a", "qfedavg", [3, 1, 2], kind, lr=ETA, q=0.0).rounds(4)
    plain = Quadratics(H, A, tmp_path / "b", "fedavg", [3, 1, 2], kind, lr=ETA, weighting="uniform").rounds(4)
    np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)


def test_the_losses_of_two_clients_are_closer_the_larger_q_is(tmp_path: Path) -> None:
    """At the minimum of Σ F_i^(q+1) the harder client has a lower loss, and the easier one a higher, the larger q."""
    federation = federation_of([6, 6], shape=(3,), seed=3)
    apart = []
    for q in (0.0, 1.0, 5.0):
        engine = engine_of(federation, nn.Linear(3, 3))
        engine.task.layout.load(engine.task.module, torch.zeros(12))
        settings = read_strategy({"name": "qfedavg", "lr": 1.0, "q": q, "batch_size": 0, "local_steps": 1})
        server = strategy_type("qfedavg")(settings, seed=0, clients=2, evaluation=Evaluation(clients=0))
        update, seen = server.client_update(settings, engine.task.layout), list[Any]()
        grid = InProcessGrid(worker_of(engine, update, tmp_path / f"{q}"), 2)
        server.start(grid, m.pack(np.zeros(12, np.float32)), 60, on_round=lambda _, w, seen=seen: seen.append(w))
        scores = [engine.score(torch.from_numpy(seen[-1]), federation.train[client]) for client in range(2)]
        losses = [score.loss_sum / score.samples for score in scores]
        apart.append(abs(losses[0] - losses[1]))
    assert apart[0] > apart[1] > apart[2]
