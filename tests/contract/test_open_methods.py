"""What the open contract's test methods leave: models that can be taken out, and no global one where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedtl
from fedtl.choice import ConfigError
from fedtl.config.read import build
from fedtl.data.federate import federate
from fedtl.export.of_run import model_of_run
from fedtl.server.phase import Phase
from fedtl.server.table import TableStore
from fedtl.strategies import read_strategy
from fedtl.strategies.contract import Download, Uploads, Vectors
from fedtl.strategies.fedavg import FedAvg
from tests.interrupted import CLIENTS, tables
from tests.methods import OPEN_METHODS

WITHOUT_GLOBAL = {"fedamp", "ifca", "hypernetwork"}


@pytest.fixture(scope="module", params=OPEN_METHODS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, fedtl.Run]:
    config = {**tables(request.param, 3), "evaluate": {"every": 1, "personal": "adapted"}}
    return request.param, fedtl.run(config, out=tmp_path_factory.mktemp(request.param) / "run")


def test_a_global_model_is_scored_where_there_is_one(run: tuple[str, fedtl.Run], tmp_path: Path) -> None:
    method, ran = run
    scores = set(ran.last())
    if method in WITHOUT_GLOBAL:
        assert scores == {"personal/clients"}
        for take in (lambda: fedtl.load_model(ran), lambda: model_of_run(ran.path)):
            with pytest.raises(ConfigError, match="no global model"):
                take()
    else:
        assert {"global/server-test", "global/clients"} <= scores
        assert isinstance(fedtl.load_model(ran), torch.nn.Module)
    assert ("personal/clients" in scores) == (method != "scaffold")


@pytest.mark.parametrize("client", [0, CLIENTS - 1])
def test_the_model_that_was_scored_can_be_taken_out(run: tuple[str, fedtl.Run], client: int) -> None:
    method, ran = run
    if method in ("scaffold", "knn-per"):
        why = "no model of their own" if method == "scaffold" else "more than a model"
        with pytest.raises(ConfigError, match=why):
            model_of_run(ran.path, client)
        return
    config = build(dict(ran.config))
    federation = federate(config.data, config.seed)
    test = federation.test[client]
    exported = model_of_run(ran.path, client)
    x = torch.from_numpy(federation.x[test] * federation.scale + federation.shift).to(torch.float32)
    with torch.no_grad():
        right = (exported.module(x).argmax(1).numpy() == federation.y[test]).mean()
    row = ran.clients[-1]
    place = row["clients"].index(client)
    assert row["scores"]["personal/clients"]["accuracy"][place] == pytest.approx(right)


def test_bytes_are_counted_by_name(run: tuple[str, fedtl.Run]) -> None:
    method, ran = run
    P, line = ran.environment["parameters"], ran.rounds[0]
    names: dict[str, tuple[dict[str, int], dict[str, int]]] = {
        "scaffold": ({"w": P, "c": P}, {"w": P, "dc": P}),
        "fedamp": ({"w": P}, {"w": P}),
        "ifca": ({"models": 3 * P}, {"models": 3 * P, "members": 3}),
        "hypernetwork": ({"w": P}, {"delta": P}),
    }
    if method not in names:
        return
    down, up = ({name: 4 * 3 * numbers for name, numbers in sizes.items()} for sizes in names[method])
    assert (line["bytes_down"], line["bytes_up"]) == (sum(down.values()), sum(up.values()))
    if {*down, *up} != {"w"}:
        assert line["bytes"] == {"down": down, "up": up}


def test_methods_say_where_they_cannot_compose(tmp_path: Path) -> None:
    def refused(method: str, **more: Any) -> str:
        with pytest.raises(ConfigError) as error:
            fedtl.run({**tables(method), **more}, out=tmp_path / method)
        return str(error.value)

    own = {"clients_per_round": 3, "local_steps": 2, **OPEN_METHODS["ifca"]}
    assert "upload the sums of 'models' and 'members'" in refused("ifca", strategy={**own, "private": ["head"]})
    assert "could be averaged, and the model has such" in refused(
        "ifca", model={"name": "tests.contract.test_open_methods:WithNorm"}
    )
    target = {"name": "digits", "transform": {"invert": True}}
    adda = [{"term": "cross_entropy"}, {"term": "adda", "shared": False}]
    data = {**tables("scaffold")["data"], "target": target}
    assert "a term's module that is not shared" in refused("scaffold", data=data, objective=adda)
    private = {"clipping_norm": 1.0, "epsilon": 1.0, "delta": 1e-5}
    assert "upload the sum of 'dc', which would travel without noise" in refused(
        "scaffold", deploy={"privacy": private}
    )


class ForEach(FedAvg):
    """Sends each client a model of its own, and claims that there is one for all."""

    def send(self, state: Vectors, clients: Sequence[int], round: int) -> Download:
        return Download({}, {"w": state["w"].expand(len(clients), -1)})


def test_a_server_of_models_for_each_says_that_there_is_no_global_one(tmp_path: Path) -> None:
    strategy = {"name": "tests.contract.test_open_methods:ForEach", "lr": 0.1}
    with pytest.raises(ConfigError, match="set global_model = False in its class"):
        fedtl.run({**tables("scaffold"), "strategy": strategy}, out=tmp_path / "run")
    assert not (tmp_path / "run" / "rounds.jsonl").exists()


class Counting(FedAvg):
    """FedAvg that also counts, in a table, how often each client has taken part since the model began."""

    def first_tables(self, w: torch.Tensor) -> Vectors:
        return {"times": torch.zeros(self.numbered, 1)}

    def update(self, state: Vectors, uploads: Uploads, round: int) -> Vectors:
        times = self.tables["times"]
        times.put(uploads.clients, times.rows(uploads.clients) + 1)
        return super().update(state, uploads, round)


def test_a_restart_begins_the_tables_anew_and_so_does_a_resume_after_it(tmp_path: Path) -> None:
    """Who took part before the restart alone has a row of before on disk, which must not come back."""
    config: dict[str, Any] = {**tables("fedrep"), "strategy": {"lr": 0.05, "local_steps": 1, "clients_per_round": 3}}
    config["strategy"]["name"] = f"{__name__}:Counting"
    del config["rounds"]
    config["phases"] = [{"rounds": 2}, {"rounds": 2, "restart": True}]
    run = fedtl.run(config, out=tmp_path)
    taken_part = [line["clients"] for line in run.rounds]
    expected = {client: sum(client in clients for clients in taken_part[2:]) for client in range(CLIENTS)}
    assert any(expected[client] == 0 for client in {*taken_part[0], *taken_part[1]})
    strategy = Counting(run_settings(run), seed=0, clients=CLIENTS)
    strategy.resume(np.zeros(3, np.float32), {})
    TableStore(tmp_path / "tables").restore(strategy.tables, len(run.rounds))
    assert strategy.tables["times"].rows(range(CLIENTS)).flatten().tolist() == [*expected.values()]


def run_settings(run: fedtl.Run) -> Any:
    return build(dict(run.config)).strategy


class WithNorm(torch.nn.Sequential):
    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        size = int(np.prod(input_shape))
        super().__init__(torch.nn.Flatten(), torch.nn.BatchNorm1d(size), torch.nn.Linear(size, classes))


class Beginning(FedAvg):
    """FedAvg with a table whose rows begin with the model's first number, and are put once a client takes part."""

    def first_tables(self, w: torch.Tensor) -> Vectors:
        return {"first": w[:1].expand(self.numbered, -1)}

    def update(self, state: Vectors, uploads: Uploads, round: int) -> Vectors:
        self.tables["first"].put(uploads.clients, torch.zeros(len(uploads.clients), 1))
        return super().update(state, uploads, round)


@pytest.mark.parametrize("restart", [False, True])
def test_rows_that_were_never_put_are_of_the_model_that_a_run_began_with_after_a_resume_too(restart: bool) -> None:
    """Not of the checkpoint's model; where a phase restarted, of the model that it restarted with."""
    settings = read_strategy({"name": f"{__name__}:Beginning", "lr": 0.1, "clients_per_round": 2})
    fresh = np.full(3, 5.0, np.float32) if restart else None
    phases = [Phase(settings, 1, 2), Phase(settings, 3, 4, restart=fresh)]
    strategy = Beginning(settings, seed=0, clients=4, phases=phases)
    strategy.first_download(torch.full((3,), 7.0))
    for round, expected in ((2, 7.0), (3, 5.0 if restart else 7.0)):
        strategy.resume(np.ones(3, np.float32), {}, round)
        assert strategy.tables["first"].rows(range(4)).flatten().tolist() == [expected] * 4
