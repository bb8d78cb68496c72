"""What a simulation asks of the machine: what it cannot have is one sentence, what it cannot use a note."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

import fedtl
from fedtl.assemble import parts
from fedtl.assemble.resources import Resources
from fedtl.choice import ConfigError
from fedtl.config.read import read_config
from fedtl.data.federate import federate
from fedtl.engine.choice import Choices
from fedtl.grid import cluster


@pytest.fixture(autouse=True)
def a_machine_of_two_cores_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(cluster, "joins", lambda address: False)


def a_cluster_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "joins", lambda address: True)
    monkeypatch.setattr(cluster, "connected", lambda address: nullcontext())
    monkeypatch.setattr(cluster, "gpus", lambda: 0)


def resources(*overrides: str, busy: int = 5) -> Resources:
    return Resources.of(read_config("quickstart", overrides)[0], busy)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["simulation.num_gpus=0.5"], "simulation.num_gpus = 0.5: there is no GPU here; leave it out"),
        (["simulation.num_gpus=2"], "simulation.num_gpus = 2: there is no GPU here; leave it out"),
        (["simulation.num_gpus=1", "simulation.grid=flower"], "simulation.num_gpus = 1: there is no GPU here"),
        (["simulation.num_gpus=0.5", "device=cpu"], "simulation.num_gpus = 0.5: with device = 'cpu' no client"),
        (["simulation.num_gpus=0.5", "device=cuda"], "device = 'cuda': no CUDA device is at hand"),
        (["simulation.num_cpus=64"], "simulation.num_cpus = 64: there are only 2 here, too few for a single actor"),
    ],
)
def test_what_this_machine_cannot_have(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resources(*overrides)
    assert str(caught.value).startswith(sentence)


def test_a_cluster_may_yet_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    a_cluster_without_a_gpu(monkeypatch)
    allocation = resources("simulation.num_gpus=0.5", "simulation.num_cpus=64")
    assert (allocation.num_gpus, allocation.num_cpus, allocation.worker_device) == (0.5, 64, "cuda")
    with pytest.raises(ConfigError, match=r"num_gpus = 0: with device = 'cuda' each actor needs a GPU"):
        resources("simulation.num_gpus=0", "device=cuda")


def test_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"num_gpus = 2: there is only 1 here"):
        resources("simulation.num_gpus=2")
    assert resources("simulation.num_gpus=0.5").worker_device == "cuda"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("num_gpus=1.5", "a share of one GPU, or a whole number of them, or 'auto'"),
        ("num_gpus=1e-9", "should be 0, or between 0.0001 and 100000, or 'auto'"),
        ("num_cpus=1e-9", "greater than or equal to 0.0001"),
        ("num_cpus=1e300", "less than or equal to 100000"),
    ],
)
def test_amounts_that_ray_does_not_count(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"simulation.{override.partition('=')[0]} = ") as caught:
        read_config("quickstart", [f"simulation.{override}"])
    assert message in str(caught.value)


def test_the_grid_in_this_process_asks_for_nothing() -> None:
    allocation = resources("simulation.grid=in-process", "simulation.num_gpus=0.5", "simulation.num_cpus=64")
    assert (allocation.actors, allocation.num_gpus, allocation.worker_device) == (1, 0, "cpu")


@pytest.mark.parametrize("joins", [False, True])
def test_never_more_actors_than_clients_train(joins: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if joins:
        a_cluster_without_a_gpu(monkeypatch)
    three, one = (resources("simulation.actors=64", busy=busy) for busy in (3, 1))
    assert (three.actors, one.actors) == (3, 1)
    assert three.notes == ("simulation.actors = 64: at most 3 clients train in a round, so there are 3 actors",)
    assert one.notes == ("simulation.actors = 64: at most 1 client trains in a round, so there is 1 actor",)
    as_asked = resources("simulation.actors=3", busy=3)
    assert (as_asked.actors, as_asked.notes) == (3, ())


TWO_DOMAINS = {
    "name": "t",
    "rounds": 1,
    "data": {"name": "digits", "clients": 6, "target": {"name": "digits", "clients": 2}},
    "model": {"name": "logistic"},
    "strategy": {"name": "fedavg", "lr": 0.1},
}


def most_at_once(**changes: Any) -> int:
    config, _ = read_config({**TWO_DOMAINS, **changes})
    return parts.most_at_once(config, federate(config.data, config.seed))


def test_how_many_clients_train_at_once() -> None:
    def sampling(clients: int) -> dict[str, Any]:
        return {"strategy": {"name": "fedavg", "lr": 0.1, "clients_per_round": clients}}

    assert most_at_once() == 6  # those with the target alone have nothing for cross-entropy
    assert most_at_once(objective=[{"term": "cross_entropy"}, {"term": "entropy"}]) == 8
    assert most_at_once(**sampling(7)) == 6
    assert most_at_once(**sampling(2)) == 2
    few = {"rounds": 1, "objective": [{"term": "cross_entropy"}]}
    assert most_at_once(phases=[few, few], rounds=2, **sampling(2)) == 2
    more = {**few, "strategy": {"clients_per_round": 4}}
    assert most_at_once(phases=[few, more], rounds=2, **sampling(2)) == 4


def test_engines_are_chosen_on_one_thread_as_clients_train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Several would wait for one another, and round otherwise."""
    choose, threads = parts.Assembly.choose_engines, list[int]()

    def noted(assembly: parts.Assembly, device: str) -> Choices:
        threads.append(torch.get_num_threads())
        return choose(assembly, device)

    monkeypatch.setattr(parts.Assembly, "choose_engines", noted)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        fedtl.run(
            "quickstart", ["rounds=1", "simulation.grid=in-process", "simulation.traced=false"], out=tmp_path / "a"
        )
        assert (threads, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)
