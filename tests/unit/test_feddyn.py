"""FedDyn: Algorithm 1 by hand, FedAvg's local training as α → 0, and where it leads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedtl
from fedtl.choice import ConfigError
from tests.parts import EACH_ENGINE, EngineKind
from tests.quadratics import A, H, Quadratics

ETA = 0.1


@EACH_ENGINE
@pytest.mark.parametrize("options", [{}, {"mean_samples": 2.0}], ids=["one alpha", "one each"])
def test_three_rounds_by_hand(options: dict[str, Any], kind: EngineKind, tmp_path: Path) -> None:
    """Some sit out: h is divided by N, the models by |S|."""
    sizes, sampled, alpha = [2, 3, 1], [[0, 2], [0, 1], [1, 2]], 0.4
    own = [alpha * 2.0 / n if options else alpha for n in sizes]
    theta, h, gradients, models = np.zeros(2), np.zeros(2), np.zeros_like(A), []
    for S in sampled:
        local = {}
        for i in S:
            local[i] = theta.copy()
            for _ in range(sizes[i]):
                local[i] -= ETA * (H[i] * (local[i] - A[i]) - gradients[i] + own[i] * (local[i] - theta))
            gradients[i] -= own[i] * (local[i] - theta)
        h -= alpha / 3 * sum(local[i] - theta for i in S)
        theta = np.mean([local[i] for i in S], 0) - h / alpha
        models.append(theta)
    run = Quadratics(H, A, tmp_path, "feddyn", sizes, kind, lr=ETA, alpha=alpha, **options)
    np.testing.assert_allclose(run.rounds(3, sampled), models, rtol=1e-5, atol=1e-6)
    for client in range(3):
        np.testing.assert_allclose(run.memory(client)["gradient"], gradients[client], rtol=1e-5, atol=1e-6)


@EACH_ENGINE
def test_local_training_of_the_first_round_is_fedavgs_to_the_bit_as_alpha_vanishes(
    kind: EngineKind, tmp_path: Path
) -> None:
    """The server's step does not depend on α: in the first round it is mean + |S|/N (mean - θ)."""
    w = np.array([0.5, -0.25])
    plain = Quadratics(H, A, tmp_path / "b", "fedavg", [2, 2, 2], kind, lr=ETA).rounds(1, start=w)[0]
    ours = Quadratics(H, A, tmp_path / "a", "feddyn", [2, 2, 2], kind, lr=ETA, alpha=1e-30)
    ours.server.update = lambda state, uploads, round: {**state, "w": uploads.mean("w")}  # type: ignore[method-assign]
    np.testing.assert_array_equal(ours.rounds(1, start=w)[0], plain)
    served = Quadratics(H, A, tmp_path / "c", "feddyn", [2, 2, 2], kind, lr=ETA, alpha=1e-12).rounds(1, start=w)[0]
    np.testing.assert_allclose(served, 2 * plain - w, rtol=1e-5)


def test_it_converges_where_fedavg_stays_biased(tmp_path: Path) -> None:
    """The minimiser of Σ_i f_i is Σ h_i a_i / Σ h_i."""
    best = (H * A).sum(0) / H.sum(0)
    ours = Quadratics(H, A, tmp_path / "a", "feddyn", lr=ETA, alpha=1.0, local_steps=10).rounds(80)[-1]
    plain = Quadratics(H, A, tmp_path / "b", "fedavg", lr=ETA, local_steps=10).rounds(80)[-1]
    np.testing.assert_allclose(ours, best, atol=1e-4)
    assert np.abs(plain - best).max() > 0.1


def test_a_private_part_is_refused(tmp_path: Path) -> None:
    """Nobody averages it, so the linear term would keep it where the first round leaves it."""
    few = ["rounds=1", "simulation.grid=in-process", "model.name=mlp"]
    with pytest.raises(ConfigError, match="feddyn trains a model of which every part travels"):
        fedtl.run(
            "quickstart",
            ["strategy.name=feddyn", "strategy.alpha=0.1", 'strategy.private=["head"]', *few],
            out=tmp_path,
        )
