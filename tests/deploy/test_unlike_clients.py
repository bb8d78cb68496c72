"""Clients that hold unlike numbers of samples, and stop early, on real clients as in the simulation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.deployment import Deployment, export, write_config
from tests.deploy.test_equality import rounds_of_both

pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(600)]

CONFIG = """
name = "unlike"
rounds = 4
device = "cpu"

[data]
name = "digits"
clients = 3
samples = 300
partition = { name = "quantity", alpha = 0.4, min_size = 20 }

[model]
name = "logistic"

[strategy]
name = "fednova"
lr = 0.05
clients_per_round = 1
sampling = "samples"
local_steps = 9
stragglers = 0.7
batch_size = 10
"""


def test_who_is_drawn_and_who_stops_early_is_the_simulations(tmp_path: Path) -> None:
    config = write_config(tmp_path / "unlike.toml", CONFIG)
    data = export(config, tmp_path / "data")
    both = rounds_of_both(Deployment(tmp_path / "study", "abc", data), config, told=["--data", data / "server"])
    for deployed, simulated in both:
        assert deployed["clients"] == simulated["clients"]
        assert deployed["steps"] == simulated["steps"]
    assert len({line["steps"] for line, _ in both}) > 1
