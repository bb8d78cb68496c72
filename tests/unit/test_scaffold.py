"""SCAFFOLD: Algorithm 1 by hand, what it is without control variates, and where it leads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedtl.choice import ConfigError
from fedtl.strategies import read_strategy
from tests.parts import EACH_ENGINE, ENGINES, EngineKind
from tests.quadratics import A, Array, H, Quadratics

ETA = 0.1


def algorithm_1(
    option: str, steps: list[int], sampled: list[list[int]], server_lr: float, by_samples: bool = False
) -> tuple[list[Array], Array]:
    """The global models, and the last c_i; plain SGD on the quadratics, a step for each sample."""
    x, c, own = np.zeros(2), np.zeros(2), np.zeros_like(A)
    models = []
    for S in sampled:
        y, fresh = {}, own.copy()
        for i in S:
            y[i] = x.copy()
            for _ in range(steps[i]):
                y[i] -= ETA * (H[i] * (y[i] - A[i]) - own[i] + c)
            second = own[i] - c + (x - y[i]) / (steps[i] * ETA)
            fresh[i] = H[i] * (x - A[i]) if option == "I" else second
        weights = [steps[i] if by_samples else 1 for i in S]
        x = x + server_lr * np.average([y[i] - x for i in S], 0, weights)
        c = c + len(S) / len(A) * np.average([fresh[i] - own[i] for i in S], 0, weights)
        own = fresh
        models.append(x)
    return models, own


@EACH_ENGINE
@pytest.mark.parametrize("option", ["I", "II"])
def test_two_rounds_by_hand(option: str, kind: EngineKind, tmp_path: Path) -> None:
    """Clients of unlike numbers of steps, some of whom sit out, and a server that does not go all the way."""
    sizes, sampled = [2, 3, 1], [[0, 2], [0, 1]]
    models, own = algorithm_1(option, sizes, sampled, 0.5)
    run = Quadratics(H, A, tmp_path, "scaffold", sizes, kind, lr=ETA, option=option, server_lr=0.5)
    np.testing.assert_allclose(run.rounds(2, sampled), models, rtol=1e-5, atol=1e-6)
    for client in range(3):
        np.testing.assert_allclose(run.memory(client)["c_i"], own[client], rtol=1e-5, atol=1e-6)


def test_both_means_may_count_clients_by_their_samples(tmp_path: Path) -> None:
    """As Flower's reproduction of NIID-Bench does: c ← c + |S|/N Σ_S n_i (c_i⁺ - c_i) / Σ_S n_i."""
    sizes, sampled = [2, 3, 1], [[0, 2], [0, 1], [1, 2]]
    models, _ = algorithm_1("II", sizes, sampled, 1.0, by_samples=True)
    by_samples = {"weighting": "samples", "control_weighting": "samples"}
    run = Quadratics(H, A, tmp_path, "scaffold", sizes, lr=ETA, **by_samples)
    np.testing.assert_allclose(run.rounds(3, sampled), models, rtol=1e-5, atol=1e-6)


@EACH_ENGINE
@pytest.mark.parametrize("option", ["I", "II"])
def test_the_first_round_is_fedavgs_to_the_bit(option: str, kind: EngineKind, tmp_path: Path) -> None:
    """All control variates are 0 then."""
    sizes = [4, 2, 3]
    ours = Quadratics(H, A, tmp_path / "a", "scaffold", sizes, kind, lr=ETA, option=option)
    plain = Quadratics(H, A, tmp_path / "b", "fedavg", sizes, kind, lr=ETA, weighting="uniform")
    np.testing.assert_array_equal(ours.rounds(1)[0], plain.rounds(1)[0])


@pytest.mark.parametrize("option", ["I", "II"])
def test_one_step_of_everybody_is_fedavgs_step_in_every_round(option: str, tmp_path: Path) -> None:
    """Corrections of a single step cancel in the mean: to rounding, as they do so in float32."""
    ours = Quadratics(H, A, tmp_path / "a", "scaffold", lr=ETA, option=option, local_steps=1).rounds(5)
    plain = Quadratics(H, A, tmp_path / "b", "fedavg", lr=ETA, local_steps=1).rounds(5)
    np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("option", ["I", "II"])
def test_it_converges_where_fedavg_stays_biased(option: str, tmp_path: Path) -> None:
    """The minimiser of Σ_i f_i is Σ h_i a_i / Σ h_i; many local steps weigh flat clients too little in FedAvg."""
    best, steps = (H * A).sum(0) / H.sum(0), 10
    ours = Quadratics(H, A, tmp_path / "a", "scaffold", lr=ETA, option=option, local_steps=steps).rounds(60)[-1]
    plain = Quadratics(H, A, tmp_path / "b", "fedavg", lr=ETA, local_steps=steps).rounds(60)[-1]
    shrunk = 1 - (1 - ETA * H) ** steps  # FedAvg's fixed point: the mean of x - (1 - (1 - ηh)^K) (x - a) is x
    np.testing.assert_allclose(plain, (shrunk * A).sum(0) / shrunk.sum(0), atol=1e-4)
    np.testing.assert_allclose(ours, best, atol=1e-4)
    assert np.abs(plain - best).max() > 0.1


@pytest.mark.parametrize("kind", [ENGINES["one by one"], ENGINES["stacked, traced"]], ids=["one by one", "stacked"])
@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.9},
        {"optimizer": {"name": "adam"}},
        {"clip_norm": 0.5},
        {"schedule": {"name": "exponential", "gamma": 0.5}},
        {"weight_decay": 0.1},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_control_variate_is_a_mean_of_gradients_whatever_the_optimiser(
    options: dict[str, Any], kind: EngineKind, tmp_path: Path
) -> None:
    """With clients that cannot tell a difference: one step each, all gradients are those at x."""
    run = Quadratics(H, A, tmp_path, "scaffold", kind=kind, lr=ETA, local_steps=1, **options)
    before, _ = run.rounds(2)
    for client in range(3):
        np.testing.assert_allclose(run.memory(client)["c_i"], H[client] * (before - A[client]), rtol=1e-5)


@EACH_ENGINE
def test_momentum_of_corrected_gradients_and_of_corrected_steps(kind: EngineKind, tmp_path: Path) -> None:
    for corrects in ("gradient", "step"):
        x, c, own, m = np.zeros(2), np.zeros(2), np.zeros_like(A), 0.5
        for _ in range(2):
            y, fresh = np.tile(x, (3, 1)), own.copy()
            for i in range(3):
                v, gradients = np.zeros(2), []
                for _ in range(3):
                    g = H[i] * (y[i] - A[i])
                    gradients.append(g)
                    v = m * v + g + (c - own[i] if corrects == "gradient" else 0)
                    y[i] -= ETA * (v + (c - own[i] if corrects == "step" else 0))
                displacement = own[i] - c + (x - y[i]) / (3 * ETA)
                fresh[i] = np.mean(gradients, 0) if corrects == "gradient" else displacement
            x, c, own = y.mean(0), c + (fresh - own).sum(0) / 3, fresh
        options: dict[str, Any] = {"lr": ETA, "local_steps": 3, "momentum": m, "corrects": corrects}
        run = Quadratics(H, A, tmp_path / corrects, "scaffold", kind=kind, **options)
        np.testing.assert_allclose(run.rounds(2)[-1], x, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(run.memory(1)["c_i"], own[1], rtol=1e-5, atol=1e-6)


@EACH_ENGINE
def test_a_step_that_is_corrected_follows_the_schedule(kind: EngineKind, tmp_path: Path) -> None:
    """Its control variates are then those of plain SGD, whose steps are the gradients."""
    options: dict[str, Any] = {"schedule": {"name": "exponential", "gamma": 0.5}, "local_steps": 2, "lr": ETA}
    one, other = (
        Quadratics(H, A, tmp_path / corrects, "scaffold", kind=kind, corrects=corrects, **options)
        for corrects in ("gradient", "step")
    )
    np.testing.assert_allclose(one.rounds(3), other.rounds(3), rtol=1e-5, atol=1e-6)


def test_a_mean_of_samples_counts_clients_by_their_samples(tmp_path: Path) -> None:
    """Of equal clients it is the paper's method; the sum over unequal ones is weighted."""
    plain = Quadratics(H, A, tmp_path / "a", "scaffold", [2, 2, 2], lr=ETA).rounds(3)
    weighted = Quadratics(H, A, tmp_path / "b", "scaffold", [2, 2, 2], lr=ETA, mean_samples=2.0).rounds(3)
    np.testing.assert_allclose(weighted, plain, rtol=1e-5, atol=1e-6)
    run = Quadratics(H, A, tmp_path / "c", "scaffold", [1, 2, 3], lr=ETA, option="I", mean_samples=2.0)
    run.rounds(1)
    gradients = -H * A  # at 0
    np.testing.assert_allclose(run.server.state["c"], (np.array([[0.5], [1], [1.5]]) * gradients).mean(0), rtol=1e-5)


def test_what_cannot_be_is_said_in_a_sentence() -> None:
    with pytest.raises(ConfigError, match="option = 'I' and corrects = 'step' exclude each other"):
        read_strategy({"name": "scaffold", "lr": 0.1, "option": "I", "corrects": "step"})
    with pytest.raises(ConfigError, match="option"):
        read_strategy({"name": "scaffold", "lr": 0.1, "option": "III"})


def test_a_client_that_never_took_part_has_no_control_variate(tmp_path: Path) -> None:
    run = Quadratics(H, A, tmp_path, "scaffold", lr=ETA)
    run.rounds(1, [[0]])
    assert run.memory(2) == {}
    torch.testing.assert_close(run.server.state["c"], run.memory(0)["c_i"] / 3)
