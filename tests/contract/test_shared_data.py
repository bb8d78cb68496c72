"""One copy of the data for a machine's processes, and a start that is no round's."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
from flwr.serverapp import Grid

import fedtl
from fedtl import experiment
from fedtl.assemble.driver import Server
from fedtl.config.read import build
from fedtl.config.schema import Config
from fedtl.data.federation import Federation
from fedtl.data.settings import DataChoice
from fedtl.grid.ray import RayGrid


@pytest.mark.ray
@pytest.mark.usefixtures("warm_actors")
def test_the_driver_lets_its_own_copy_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first: list[weakref.ref[Federation]] = []
    rounds, federate = Server.rounds, experiment.federate

    def watched(data: DataChoice, seed: int, *more: Any) -> Federation:
        made = federate(data, seed, *more)
        first.append(weakref.ref(made))
        return made

    def looked_at(self: Server, grid: Grid) -> None:
        gc.collect()
        assert first[0]() is None
        assert not self.federation.x.flags.writeable  # it is the actors' as well
        assert not self.federation.train.order.flags.writeable
        assert isinstance(grid, RayGrid)
        assert grid.started  # whoever waits for an actor's process waits before the first round
        rounds(self, grid)

    monkeypatch.setattr(experiment, "federate", watched)
    monkeypatch.setattr(Server, "rounds", looked_at)
    run = fedtl.run(tables("ray"), out=tmp_path / "ray")
    assert len(first) == 1
    monkeypatch.undo()
    # Its scores on the server's test set are made with that copy.
    assert run.last() == fedtl.run(tables("in-process"), out=tmp_path / "in-process").last()


def tables(grid: str) -> Config:
    table: dict[str, Any] = {
        "name": "shared",
        "rounds": 2,
        "device": "cpu",
        "data": {"name": "digits", "clients": 4, "partition": "iid"},
        "model": {"name": "logistic"},
        "strategy": {"name": "fedavg", "lr": 0.1},
        "simulation": {"grid": grid, "actors": 2} if grid == "ray" else {"grid": grid},
    }
    return build(table)
