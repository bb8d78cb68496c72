"""Server optimisers against Flower's own strategies, with the conventions that differ named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvgM, FedYogi

from fedtl.choice import ConfigError
from fedtl.grid.identity import identify
from fedtl.strategies import read_strategy
from fedtl.strategies.contract import Uploads
from fedtl.strategies.fedavg import FedAvg

identify()
RNG = np.random.default_rng(0)
ROUNDS = [RNG.normal(size=12).astype(np.float32) for _ in range(4)]  # the mean of the uploads in each round


def flower(strategy: Any) -> list[np.ndarray[Any, Any]]:
    """What Flower's strategy makes of the same means."""
    w, models = np.zeros(12, np.float32), []
    for round, mean in enumerate(ROUNDS, 1):
        arrays = ArrayRecord({"w": _array(w)})
        if isinstance(strategy, FedAvgM):
            strategy.current_arrays = strategy.current_arrays or arrays
        else:
            strategy.current_arrays = {"w": w}
        content = RecordDict({"arrays": ArrayRecord({"w": _array(mean)}), "metrics": MetricRecord({"num-examples": 3})})
        asked = Message(RecordDict(), 2, "train")
        new, _ = strategy.aggregate_train(round, [Message(content, reply_to=asked)])
        w = new["w"].numpy().astype(np.float32)
        models.append(w)
    return models


def ours(server: dict[str, Any]) -> list[np.ndarray[Any, Any]]:
    settings = read_strategy({"name": "fedavg", "lr": 0.1, "server": server})
    strategy = FedAvg(settings, seed=0, clients=1)
    state, models = {"w": torch.zeros(12)}, []
    for round, mean in enumerate(ROUNDS, 1):
        uploads = Uploads({"w": torch.tensor(mean).double()}, {"w": 1}, {}, [0], [1])
        state = strategy.update(state, uploads, round)
        models.append(state["w"].numpy())
    return models


def _array(vector: np.ndarray[Any, Any]) -> Any:
    from flwr.app import Array

    return Array(vector)


@pytest.mark.parametrize(
    ("theirs", "server"),
    [
        (
            lambda: FedAvgM(server_learning_rate=0.5, server_momentum=0.8),
            {"name": "momentum", "lr": 0.5, "momentum": 0.8},
        ),
        (lambda: FedAdagrad(eta=0.2, tau=0.01), {"name": "adagrad", "lr": 0.2, "tau": 0.01, "initial_v": 0.0}),
        (
            lambda: FedYogi(eta=0.2, beta_1=0.9, beta_2=0.95, tau=0.01),
            {"name": "yogi", "lr": 0.2, "beta1": 0.9, "beta2": 0.95, "tau": 0.01, "initial_v": 0.0},
        ),
        (
            lambda: FedAdam(eta=0.2, beta_1=0.9, beta_2=0.95, tau=0.01),
            {
                "name": "adam",
                "lr": 0.2,
                "beta1": 0.9,
                "beta2": 0.95,
                "tau": 0.01,
                "initial_v": 0.0,
                "bias_correction": "flower",
            },
        ),
    ],
)
def test_flowers_numbers(theirs: Callable[[], Any], server: dict[str, Any]) -> None:
    for a, b in zip(flower(theirs()), ours(server)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_adam_of_the_paper_by_hand() -> None:
    """Algorithm 2 of Reddi et al.: v begins at τ², and nothing corrects for bias."""
    models = ours({"name": "adam", "lr": 0.2, "beta1": 0.9, "beta2": 0.95, "tau": 0.01})
    w = m = np.zeros(12)
    v = np.full(12, 0.01**2)
    for mean, mine in zip(ROUNDS, models):
        delta = mean - w
        m = 0.9 * m + 0.1 * delta
        v = 0.95 * v + 0.05 * delta**2
        w = w + 0.2 * m / (np.sqrt(v) + 0.01)
        np.testing.assert_allclose(mine, w, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["adam", "yogi"])
def test_the_authors_adam_and_yogi_by_hand(name: str) -> None:
    """As google-research/federated has them: v begins at 0, and η is η √(1 - β2^t) / (1 - β1^t), t from 1."""
    own = {"lr": 0.2, "beta1": 0.9, "beta2": 0.95, "tau": 0.01, "initial_v": 0.0, "bias_correction": "keras"}
    w = m = v = np.zeros(12)
    for t, (mean, mine) in enumerate(zip(ROUNDS, ours({"name": name, **own})), 1):
        g = w - mean  # a gradient; the server descends
        m = m + (1 - 0.9) * (g - m)
        v = v + (1 - 0.95) * (np.sign(g**2 - v) * g**2 if name == "yogi" else g**2 - v)
        w = w - 0.2 * np.sqrt(1 - 0.95**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 0.01)
        np.testing.assert_allclose(mine, w, rtol=1e-4, atol=1e-5)


def test_nesterovs_momentum_is_torchs() -> None:
    w = torch.zeros(12, requires_grad=True)
    sgd = torch.optim.SGD([w], lr=0.5, momentum=0.8, nesterov=True)
    for mean, mine in zip(ROUNDS, ours({"name": "momentum", "lr": 0.5, "momentum": 0.8, "nesterov": True})):
        w.grad = w.detach() - torch.tensor(mean)
        sgd.step()
        np.testing.assert_allclose(mine, w.detach(), rtol=1e-5, atol=1e-6)


def test_corrections_of_older_configs_are_read() -> None:
    for older, name in {True: "flower", False: "none"}.items():
        settings: Any = read_strategy({"name": "fedadam", "lr": 0.1, "server": {"bias_correction": older}})
        assert settings.server.bias_correction == name


def test_what_no_server_has_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"server\.bias_correction = 'flower': should be 'none' or 'keras'"):
        ours({"name": "yogi", "bias_correction": "flower"})
    with pytest.raises(ConfigError, match=r"nesterov = true needs momentum, as 0\.9"):
        ours({"name": "momentum", "momentum": 0.0, "nesterov": True})
