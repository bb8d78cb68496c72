"""FedNova: a round by hand, FedAvg where all take as many steps, and where it leads."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedtl
from fedtl.choice import ConfigError
from fedtl.disk.memories import MemoryStore
from fedtl.engine.plan import share_of_work
from fedtl.engine.task import RoundContext
from fedtl.strategies import read_strategy, strategy_type
from tests.parts import (
    EACH_ENGINE,
    EngineKind,
    engine_of,
    federation_of,
    small_module,
    train_cohort,
    update_of,
)
from tests.quadratics import A, Array, H, Quadratics

ETA = 0.1
SIZES = [1, 4, 2]


def rounds_by_hand(number: int, sampled: list[int], m: float, mu: float, norms: list[float], server: float) -> Array:
    w, velocity = np.zeros(2), np.zeros(2)
    p = np.array([SIZES[i] for i in sampled]) / sum(SIZES[i] for i in sampled)
    for _ in range(number):
        d = []
        for i in sampled:
            own, v = w.copy(), np.zeros(2)
            for _ in range(SIZES[i]):  # an epoch of mini-batches of one sample
                v = m * v + H[i] * (own - A[i]) + mu * (own - w)
                own = own - ETA * v
            d.append((w - own) / (ETA * norms[i]))
        effective = p @ [norms[i] for i in sampled]
        velocity = server * velocity - effective * ETA * (p @ d)
        w = w + velocity
    return w


def norm(steps: int, m: float, mu: float) -> float:
    """The paper's, for one of the two."""
    if mu:
        return (1 - (1 - ETA * mu) ** steps) / (ETA * mu)
    return sum((1 - m ** (steps - k)) / (1 - m) for k in range(steps))


@EACH_ENGINE
@pytest.mark.parametrize(
    ("m", "mu", "server"), [(0.0, 0.0, 0.0), (0.9, 0.0, 0.0), (0.0, 0.5, 0.0), (0.0, 0.0, 0.9)], ids=str
)
def test_rounds_by_hand(m: float, mu: float, server: float, kind: EngineKind, tmp_path: Path) -> None:
    options: dict[str, Any] = {"momentum": m, "mu": mu, "lr": ETA}
    if server:
        options["server"] = {"name": "momentum", "momentum": server}
    expected = rounds_by_hand(3, [0, 1], m, mu, [norm(n, m, mu) for n in SIZES], server)
    run = Quadratics(H, A, tmp_path, "fednova", SIZES, kind, **options)
    np.testing.assert_allclose(run.rounds(3, [[0, 1]] * 3)[-1], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_norm_is_the_papers(steps: int) -> None:
    for m, mu in ((0.0, 0.0), (0.9, 0.0), (0.0, 0.5)):
        update = update_of("fednova", lr=ETA, momentum=m, mu=mu)
        assert update.settings.norm(steps) == pytest.approx(norm(steps, m, mu))


@pytest.mark.parametrize(("m", "mu"), [(0.5, 0.4), (0.9, 3.0)])
def test_the_norm_of_momentum_and_a_proximal_term_is_that_of_the_steps_coefficients(m: float, mu: float) -> None:
    """Of w^t - w_i, taken apart by a gradient of 1 in one step and 0 in all others; they may swing below 0."""
    steps, coefficients = 12, []
    for one in range(steps):
        moved = velocity = 0.0
        for k in range(steps):
            velocity = m * velocity + (k == one) - ETA * mu * moved
            moved += velocity
        coefficients.append(moved)
    assert (min(coefficients) < 0) == (m == 0.9)
    update = update_of("fednova", lr=ETA, momentum=m, mu=mu)
    assert update.settings.norm(steps) == pytest.approx(sum(map(abs, coefficients)))


@EACH_ENGINE
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"mu": 0.5}], ids=str)
def test_with_equal_steps_it_is_fedavg(options: dict[str, Any], kind: EngineKind, tmp_path: Path) -> None:
    """To rounding: each change is divided by ‖a‖₁, and their mean multiplied by it."""
    same: dict[str, Any] = {"lr": ETA, "local_steps": 3, **options}
    other = "fedprox" if "mu" in options else "fedavg"
    ours = Quadratics(H, A, tmp_path / "a", "fednova", SIZES, kind, **same).rounds(4)
    plain = Quadratics(H, A, tmp_path / "b", other, SIZES, kind, **same).rounds(4)
    np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)


def test_one_step_each_is_fedavg_to_the_bit_at_the_clients(tmp_path: Path) -> None:
    """(w - (w - w_i) / 1) is w_i where w = 0, as it is in the first round."""
    ours = Quadratics(H, A, tmp_path / "a", "fednova", SIZES, lr=ETA, local_steps=1).rounds(1)
    plain = Quadratics(H, A, tmp_path / "b", "fedavg", SIZES, lr=ETA, local_steps=1).rounds(1)
    np.testing.assert_array_equal(ours, plain)


def test_it_goes_to_the_objectives_minimum_where_fedavg_goes_to_anothers(tmp_path: Path) -> None:
    """With small steps FedAvg minimises Σ n_i τ_i f_i, and FedNova Σ n_i f_i."""
    n, tau = np.array(SIZES)[:, None], np.array(SIZES)[:, None]
    ours = Quadratics(H, A, tmp_path / "a", "fednova", SIZES, lr=0.03).rounds(100)[-1]
    plain = Quadratics(H, A, tmp_path / "b", "fedavg", SIZES, lr=0.03).rounds(100)[-1]
    best, other = ((weight * H * A).sum(0) / (weight * H).sum(0) for weight in (n, n * tau))
    np.testing.assert_allclose(ours, best, atol=0.05)
    np.testing.assert_allclose(plain, other, atol=0.05)
    assert np.abs(best - other).min() > 0.2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"optimizer": {"name": "adam"}}, "'adam': FedNova's ‖a_i‖₁ is known for SGD alone"),
        ({"optimizer": {"name": "sgd", "momentum": 0.9}}, "is known for SGD alone, with strategy.momentum"),
        ({"mu": 0.1, "schedule": {"name": "exponential", "gamma": 0.9}}, "schedule and mu = 0.1 exclude each other"),
    ],
)
def test_what_has_no_norm_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence.replace(".", r"\.")):
        read_strategy({"name": "fednova", "lr": 0.1, **options})


@pytest.mark.parametrize(
    ("budget", "steps"),
    [({"local_epochs": 2}, 6), ({"local_steps": 5}, 5), ({"batch_size": 0}, 1), ({"last_batch": "drop"}, 2)],
    ids=str,
)
def test_the_server_knows_how_many_steps_a_client_takes(budget: dict[str, Any], steps: int) -> None:
    settings = read_strategy({"name": "fednova", "lr": 0.1, "batch_size": 4, **budget})
    server = strategy_type("fednova")(settings, seed=0, clients=2)
    assert server.steps_of(0, 10, 1) == steps  # type: ignore[attr-defined]
    engine = engine_of(federation_of([10, 10]), small_module())
    update = update_of("fednova", **{"lr": 0.1, "batch_size": 4, **budget})
    w = engine.task.layout.flatten(engine.task.module)
    (outcome,) = train_cohort(engine, update, w, [0], [{}], 1)
    assert outcome.steps == steps  # type: ignore[union-attr]


@EACH_ENGINE
def test_who_stops_early_counts_by_the_steps_that_it_took(kind: EngineKind, tmp_path: Path) -> None:
    p = np.array(SIZES) / sum(SIZES)
    steps = np.array([math.ceil(9 * share_of_work(0.8, 0, 1, client)) for client in range(3)])
    assert len({*steps}) > 1
    d = A * (1 - (1 - ETA * H) ** steps[:, None]) / steps[:, None]  # of w = 0, times η
    run = Quadratics(H, A, tmp_path, "fednova", SIZES, kind, lr=ETA, local_steps=9, stragglers=0.8)
    np.testing.assert_allclose(run.rounds(1)[-1], (p @ steps) * (p @ d), rtol=1e-5)


def test_the_server_knows_who_stops_early_where_others_never_train() -> None:
    """By their ids, not by their numbers among those who do."""
    settings = read_strategy({"name": "fednova", "lr": 0.1, "local_steps": 50, "stragglers": 1.0})
    server: Any = strategy_type("fednova")(settings, seed=3, clients=4, unseen=(0, 2))
    expected = [math.ceil(50 * share_of_work(1.0, 3, 7, client)) for client in (1, 3)]
    assert [server.steps_of(place, 10, 7) for place in range(2)] == expected


def test_a_private_part_stays_where_training_left_it(tmp_path: Path) -> None:
    """What is sent is shortened; what the client keeps is the model that it has trained."""
    heads = []
    for method in ("fedavg", "fednova"):
        config = {
            "name": "private",
            "rounds": 1,
            "data": {"name": "digits", "clients": 3, "samples": 60},
            "model": {"name": "mlp", "hidden": [4]},
            "strategy": {"name": method, "lr": 0.1, "local_steps": 4, "private": ["head"]},
            "simulation": {"grid": "in-process"},
        }
        run = fedtl.run(config, out=tmp_path / method)
        heads.append(MemoryStore(run.path / "memories").load(1, 2)["private parts"])
    assert torch.equal(*heads)


@EACH_ENGINE
def test_terms_see_the_model_that_was_trained(kind: EngineKind) -> None:
    """A term that compares with the client's previous model is given that one, not what was sent."""
    terms = [{"term": "cross_entropy"}, {"term": "moon", "weight": 0.1}]
    previous = []
    for method in ("fedavg", "fednova"):
        engine = engine_of(federation_of([10, 10]), small_module(), kind, terms)
        w = engine.task.layout.flatten(engine.task.module)
        update = update_of(method, lr=0.1, local_steps=3)
        outcomes = train_cohort(engine, update, w, [0, 1], [{}, {}], 1, RoundContext(vectors={"model:round": w}))
        previous.append([outcome.memory["previous model"] for outcome in outcomes])  # type: ignore[union-attr]
    for one, other in zip(*previous):
        assert torch.equal(one, other)
