"""FedDC: rounds by hand in the paper's and the authors' form, and what it is without drift and correction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedtl
from fedtl.choice import ConfigError
from fedtl.strategies import read_strategy
from tests.parts import EACH_ENGINE, EngineKind
from tests.quadratics import A, H, Quadratics

ETA, ALPHA = 0.1, 0.4


@EACH_ENGINE
@pytest.mark.parametrize("mean_samples", [None, 2.0], ids=["one alpha", "one each"])
@pytest.mark.parametrize("drifts", ["sampled", "all"])
@pytest.mark.parametrize("correction", ["update", "scaffold"])
def test_rounds_by_hand(
    correction: str, drifts: str, mean_samples: float | None, kind: EngineKind, tmp_path: Path
) -> None:
    sizes, sampled = [2, 3, 1], [[0, 2], [0, 1], [1, 2]]
    share = [n / mean_samples if mean_samples else 1.0 for n in sizes]
    w, g, models = np.zeros(2), np.zeros(2), []
    h, own = np.zeros_like(A), np.zeros_like(A)
    for S in sampled:
        theta, fresh = {}, own.copy()
        for i in S:
            theta[i], alpha, K = w.copy(), ALPHA / share[i], sizes[i]
            for _ in range(K):
                slope = H[i] * (theta[i] - A[i]) + alpha * (theta[i] - (w - h[i])) + g / share[i] - own[i]
                theta[i] -= ETA * slope
            h[i] += theta[i] - w
            update = (w - theta[i]) / (ETA * K)
            fresh[i] = update if correction == "update" else own[i] - g / share[i] + update
        if correction == "update":
            g = np.mean([share[i] * fresh[i] for i in S], 0)
        else:
            g = g + sum(share[i] * (fresh[i] - own[i]) for i in S) / 3
        mean = np.mean([theta[i] for i in S], 0)
        w = mean + (np.mean([h[i] for i in S], 0) if drifts == "sampled" else h.mean(0))
        own = fresh
        models.append(w)
    options: dict[str, Any] = {"lr": ETA, "alpha": ALPHA, "correction": correction, "drifts": drifts}
    if mean_samples:
        options["mean_samples"] = mean_samples
    run = Quadratics(H, A, tmp_path, "feddc", sizes, kind, **options)
    np.testing.assert_allclose(run.rounds(3, sampled), models, rtol=2e-5, atol=2e-6)
    for client in range(3):
        np.testing.assert_allclose(run.memory(client)["h"], h[client], rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(run.memory(client)["g"], own[client], rtol=2e-5, atol=2e-6)


@EACH_ENGINE
def test_the_first_round_is_fedproxs_and_its_drift(kind: EngineKind, tmp_path: Path) -> None:
    """There is neither a drift nor a correction before it. To rounding: the penalty is added in another order."""
    w = np.array([0.5, -0.25])
    ours = Quadratics(H, A, tmp_path / "a", "feddc", [2, 2, 2], kind, lr=ETA, alpha=ALPHA).rounds(1, start=w)[0]
    prox = Quadratics(H, A, tmp_path / "b", "fedprox", [2, 2, 2], kind, lr=ETA, mu=ALPHA).rounds(1, start=w)[0]
    np.testing.assert_allclose(ours, prox + (prox - w), rtol=1e-5)


def test_without_a_penalty_it_is_scaffold_plus_drifts(tmp_path: Path) -> None:
    """With α = 0 local training is SCAFFOLD's, option II; the server of the authors' form adds all drifts."""
    options: dict[str, Any] = {"lr": ETA, "alpha": 0.0, "correction": "scaffold", "drifts": "all"}
    ours = Quadratics(H, A, tmp_path / "a", "feddc", [2, 3, 1], **options)
    ours.server.update = without_drifts(ours.server.update)  # type: ignore[method-assign]
    other = Quadratics(H, A, tmp_path / "b", "scaffold", [2, 3, 1], lr=ETA)
    sampled = [[0, 2], [0, 1], [1, 2]]
    np.testing.assert_allclose(ours.rounds(3, sampled), other.rounds(3, sampled), rtol=1e-5, atol=1e-6)


def without_drifts(update: Any) -> Any:
    return lambda state, uploads, round: {**update(state, uploads, round), "w": uploads.mean("w")}


def test_the_mean_of_all_drifts_is_a_plain_one(tmp_path: Path) -> None:
    """h, after rounds of some of the clients."""
    options: dict[str, Any] = {"lr": ETA, "alpha": ALPHA, "drifts": "all"}
    run = Quadratics(H, A, tmp_path, "feddc", [2, 3, 1], **options)
    run.rounds(3, [[0, 2], [0, 1], [1, 2]])
    drifts = [run.memory(client)["h"] for client in range(3)]
    np.testing.assert_allclose(run.server._memory.state["h"], np.mean(drifts, 0), rtol=1e-5)
    with pytest.raises(ConfigError, match="drifts = 'all' and weighting = 'samples' exclude each other"):
        read_strategy({"name": "feddc", "weighting": "samples", **options})


def test_a_private_part_is_refused(tmp_path: Path) -> None:
    few = ["rounds=1", "simulation.grid=in-process", "model.name=mlp", 'strategy.private=["head"]']
    with pytest.raises(ConfigError, match="clients upload the sum of 'g', which is not offered with private parts"):
        fedtl.run("quickstart", ["strategy.name=feddc", "strategy.alpha=0.1", *few], out=tmp_path)
