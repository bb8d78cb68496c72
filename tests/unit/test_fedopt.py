"""FedAvg with a server optimiser, by its paper's name: the same bits as spelled out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedtl.choice import ConfigError
from fedtl.config.read import read_config
from fedtl.strategies import read_strategy
from tests.quadratics import A, H, Quadratics

NAMES = {"fedavgm": "momentum", "fedadagrad": "adagrad", "fedadam": "adam", "fedyogi": "yogi"}


@pytest.mark.parametrize("options", [{}, {"lr": 0.03}], ids=["default", "lr"])
@pytest.mark.parametrize("method", NAMES)
def test_a_name_is_fedavg_with_that_optimiser_to_the_bit(method: str, options: dict[str, Any], tmp_path: Path) -> None:
    named = Quadratics(H, A, tmp_path / "a", method, lr=0.1, **({"server": options} if options else {}))
    spelled = Quadratics(H, A, tmp_path / "b", "fedavg", lr=0.1, server={"name": NAMES[method], **options})
    np.testing.assert_array_equal(named.rounds(3), spelled.rounds(3))


def test_fedavgm_by_hand(tmp_path: Path) -> None:
    w, momentum, beta, eta = np.zeros(2), np.zeros(2), 0.7, 0.5
    models = []
    for _ in range(3):
        delta = np.mean([w - 0.1 * H[i] * (w - A[i]) for i in range(3)], 0) - w
        momentum = beta * momentum + delta
        w = w + eta * momentum
        models.append(w)
    run = Quadratics(H, A, tmp_path, "fedavgm", lr=0.1, server={"momentum": beta, "lr": eta})
    np.testing.assert_allclose(run.rounds(3), models, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("server", ["none", "adam", {"name": "yogi"}])
def test_another_optimiser_is_another_method(server: Any) -> None:
    with pytest.raises(ConfigError, match=r"strategy\.server = .*should be 'momentum'.*'fedavg'"):
        read_strategy({"name": "fedavgm", "lr": 0.1, "server": server})


def test_an_option_of_the_server_needs_no_name_on_the_command_line() -> None:
    config, _ = read_config("quickstart", ["strategy.name=fedadam", "strategy.server.lr=0.25"])
    server = config.strategy.server  # type: ignore[attr-defined]
    assert (server.name, server.lr) == ("adam", 0.25)
