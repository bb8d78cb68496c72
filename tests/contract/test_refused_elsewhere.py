"""What no client could train is refused by a deployment's server, in the simulation's words, before a client is asked.

Else each client would refuse it in the first round, and only its own log would say why.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from fedtl.assemble.driver import Silent
from fedtl.choice import ConfigError
from fedtl.clients.contract import Count, Memory, State, Vectors
from fedtl.clients.sgd import SGD
from fedtl.config.read import build
from fedtl.data.federate import federate
from fedtl.data.federation import Federation
from fedtl.data.schema import DataSchema
from fedtl.experiment import Place, open_run
from fedtl.strategies import strategy_type
from tests.parts import CLIENT_METHODS, METHODS

DATA = {"name": "digits", "clients": 3, "samples": 60}
NORM = {"name": "cnn-bn", "channels": [2], "hidden": [4]}
MUTUAL: dict[str, Any] = {
    "objective": [{"term": "cross_entropy"}, {"term": "mutual", "peer": {"name": "mlp", "hidden": [4]}}]
}


class Forgets(SGD):
    """Its first memory lacks what its rounds keep."""

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        return {"w": state["w"]}, {"own": state["w"]}


@functools.cache
def held() -> Federation:
    tables = {"name": "x", "rounds": 1, "strategy": {"name": "local", "lr": 1}, "model": {"name": "mlp"}}
    return federate(build({**tables, "data": DATA}).data, 0)


def why_not(tables: dict[str, Any], federation: Federation, folder: Path, elsewhere: bool) -> str | None:
    """The sentence with which a run ends before its first round; None if it begins."""
    try:
        server = open_run(build(tables), federation, Place(folder), Silent(), elsewhere=elsewhere)
    except ConfigError as error:
        return str(error)
    server.recorder.__exit__(None, None, None)
    return None


def both(method: str, case: dict[str, Any], folder: Path) -> tuple[str | None, str | None]:
    """What a simulation says, and the server of a deployment, whose clients hold the samples."""
    tables = {
        "name": "x",
        "rounds": 1,
        "device": "cpu",
        "model": {"name": "mlp", "hidden": [5]},
        "simulation": {"grid": "in-process", "stacked": False, "traced": False},
        **case,
        "data": DATA,
        "strategy": {"name": method, "batch_size": 10, "local_steps": 1, **METHODS.get(method, {"lr": 0.1})}
        | case.get("strategy", {}),
    }
    elsewhere = DataSchema.of(held()).without_samples(held().clients)
    return why_not(tables, held(), folder / "here", False), why_not(tables, elsewhere, folder / "elsewhere", True)


@pytest.mark.parametrize("method", CLIENT_METHODS)
def test_a_server_without_samples_says_of_a_part_that_stays_what_a_simulation_says(method: str, tmp_path: Path) -> None:
    """Of ``strategy.private`` the config says it wherever it is read; a term's module shows when the model is built."""
    here, there = both(method, MUTUAL, tmp_path)
    assert there == here
    if strategy_type(method).client_update.more_than_a_model():
        assert here is not None


@pytest.mark.parametrize(
    ("method", "case", "says"),
    [
        ("scaffold", MUTUAL, "its clients upload the sum of 'dc', which is not offered where"),
        ("feddyn", MUTUAL, "it trains a model of which every part travels"),
        ("tests.methods.ifca:IFCA", {"model": NORM}, "its clients upload no sum of models with which batch-no"),
        (f"{__name__}:Forgets", {}, "Forgets.finish keeps 'own', and its first_memory gives nothing"),
    ],
)
def test_each_check_that_needs_no_samples(method: str, case: dict[str, Any], says: str, tmp_path: Path) -> None:
    here, there = both(method, case, tmp_path)
    assert there == here
    assert f"strategy.name = {method!r}: {says}" in str(there)
