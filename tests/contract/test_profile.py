"""A profile says where a run's time went, adds up, and changes nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, RecordDict
from rich.console import Console

import fedtl
from fedtl.choice import ConfigError
from fedtl.clock import OTHER, Headcount
from fedtl.engine import parts
from fedtl.engine.operations import INTERPRETER
from fedtl.runs.history import Run
from fedtl.runs.profile import MESSAGES, of_round
from fedtl.runs.profile_tables import tables
from fedtl.wire import messages as m
from tests.contract.test_grids import assert_same_run
from tests.parts import ENGINES, engine_of, federation_of, small_module, update_of, worker_of

PLAYED = {parts.GRADIENT, parts.METHOD, parts.DATA, parts.MEMORIES, parts.SUMS, parts.PACKING, OTHER}
RECORDED = PLAYED - {parts.GRADIENT} | {parts.STEPS}


def config(recorded: bool | str = True, **other: Any) -> dict[str, Any]:
    """Three rounds, the second and the last of which are scored."""
    return {
        "name": "profile",
        "seed": 2,
        "rounds": 3,
        "device": "cpu",
        "data": {"name": "digits", "clients": 6, "partition": {"name": "iid"}},
        "model": {"name": "mlp", "hidden": [8]},
        "strategy": {"name": "pfedme", "clients_per_round": 4, "local_steps": 3, "batch_size": 8, "lr": 0.05}
        | {"lam": 15.0, "inner_steps": 2, "inner_lr": 0.05},
        "evaluate": {"every": 2},
        "simulation": {"grid": "in-process", "stacked": False, "traced": recorded},
        **other,
    }


def printed(run: Run) -> str:
    console = Console(width=120, highlight=False)
    with console.capture() as captured:
        for table in tables(run):
            console.print(table)
    return captured.get()


def total(seconds: dict[str, Any]) -> float:
    return sum(total(value) if isinstance(value, dict) else value for value in seconds.values())


def whole(run: Run, whose: str) -> float:
    return sum(total(record["profile"][whose]) for record in run.rounds)


def keys_without_profile(folder: Path) -> list[set[str]]:
    return [set(json.loads(line)) - {"profile"} for line in (folder / "rounds.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("recorded", [True, False])
def test_in_one_process(recorded: bool, tmp_path: Path) -> None:
    run = fedtl.run(config(recorded), out=tmp_path / "a", profile=True)
    plain = fedtl.run(config(recorded), out=tmp_path / "b")
    for record in run.rounds:
        actors, server = record["profile"]["actors"], record["profile"]["server"]
        assert set(actors["training"]) - {parts.TRACING} == (RECORDED if recorded else PLAYED)
        assert ("scoring" in actors) == ("scores" in record)
        assert ("scoring" in server) == ("scores" in record)
        assert min(total({"": value}) for value in actors.values()) >= 0
        # The worker's own account is within this process's.
        assert total(actors["training"]) + total(actors.get("scoring", {})) <= server["waiting for clients"]
    assert 0 < whole(run, "actors") <= whole(run, "server")
    assert any(parts.TRACING in record["profile"]["actors"]["training"] for record in run.rounds) == recorded

    profile = run.profile()
    assert profile["rounds"] == [2, 3]
    assert profile["steps"] == 12
    assert ("operations" in profile) == recorded
    text = printed(run)
    assert "mean of rounds 2 to 3" in text
    assert ("steps (traced: forward, backward and method in one)" in text) == recorded
    assert ("forward and backward  " in text) == (not recorded)

    # Nothing else has changed.
    (tmp_path / "a" / "rounds.jsonl").write_text(
        "".join(json.dumps({k: v for k, v in r.items() if k != "profile"}) + "\n" for r in run.rounds)
    )
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert not any("profile" in record for record in plain.rounds)
    assert not (tmp_path / "b" / "operations.json").exists()
    assert keys_without_profile(tmp_path / "a") == keys_without_profile(tmp_path / "b")


@pytest.mark.ray
@pytest.mark.usefixtures("warm_actors")
def test_on_ray(tmp_path: Path) -> None:
    on_ray = config(simulation={"grid": "ray", "actors": 2, "stacked": False})
    run = fedtl.run(on_ray, out=tmp_path / "a", profile=True)
    fedtl.run(config(), out=tmp_path / "b")
    for record in run.rounds:
        actors, server = record["profile"]["actors"], record["profile"]["server"]
        assert set(actors["training"]) - {parts.TRACING} == RECORDED
        assert "messages" in actors  # what two processes' clocks leave of each other's time, so perhaps nothing
        assert server["waiting for clients"] > 0
    # Two actors, counted from when they have begun: within twice the time of the server.
    assert 0 < whole(run, "actors") <= 2 * whole(run, "server")
    assert "messages: pickling, Ray" in printed(run)
    assert run.state_dict().keys() == fedtl.load(tmp_path / "b").state_dict().keys()
    for name, tensor in fedtl.load(tmp_path / "b").state_dict().items():
        assert torch.equal(tensor, run.state_dict()[name])


def test_what_recorded_steps_consist_of(tmp_path: Path) -> None:
    run = fedtl.run(config(), out=tmp_path / "a", profile=True)
    section = run.profile()["operations"]
    assert section["steps"] == 3
    calls = {each["name"]: each["calls"] for each in section["operations"]}
    # 3 mini-batches, each with 2 inner steps of pFedMe, of a model of 2 layers.
    assert calls["addmm"] == 3 * 2 * 2
    assert calls[INTERPRETER] == 1
    costs = [each["seconds"] for each in section["operations"]]
    assert costs == sorted(costs, reverse=True)
    assert "a traced step's operations" in printed(run)


def test_a_run_goes_on_without_it_and_with_it(tmp_path: Path) -> None:
    fedtl.run(config() | {"rounds": 2}, out=tmp_path / "a", profile=True)
    fedtl.run(config() | {"rounds": 3}, out=tmp_path / "a", resume=True)
    run = fedtl.run(config() | {"rounds": 4}, out=tmp_path / "a", resume=True, profile=True)
    assert ["profile" in record for record in run.rounds] == [True, True, False, True]
    assert run.profile()["rounds"] == [2, 4]
    fedtl.run(config() | {"rounds": 4}, out=tmp_path / "b")
    for name, tensor in fedtl.load(tmp_path / "b").state_dict().items():
        assert torch.equal(tensor, run.state_dict()[name])


def test_rows_add_up_to_the_time_of_all_actors() -> None:
    workers = {"training": {parts.STEPS: 5.0, OTHER: 1.0}, "scoring": {parts.FORWARD: 2.0}}
    counted = {Headcount.AT_WORK: 9.0, Headcount.FOR_OTHERS: 3.0, Headcount.FOR_SERVER: 4.0}
    actors = of_round(workers, counted, {OTHER: 8.0})["actors"]
    assert actors[MESSAGES] == 1.0  # at work for the server, but not by the workers' own account
    assert total(actors) == 16.0


@pytest.mark.parametrize("kind", ENGINES)
def test_a_worker_tells_its_parts_only_where_it_is_asked(kind: str, tmp_path: Path) -> None:
    engine = engine_of(federation_of([6, 9, 7]), small_module(), ENGINES[kind])
    worker = worker_of(engine, update_of("fedavg", lr=0.1, local_epochs=1, batch_size=4), tmp_path)
    asked = ConfigRecord({m.ROUND: 1, m.SUM_UPLOADS: m.WEIGHTED})
    plain = worker.handle("train", RecordDict({m.CONFIG: asked}), [0, 1, 2])
    profiled = worker.handle("train", RecordDict({m.CONFIG: ConfigRecord({**asked, m.PROFILE: True})}), [0, 1, 2])
    contents = [reply.content for reply in profiled if isinstance(reply.content, RecordDict)]
    assert [m.PROFILE in content for content in contents] == [False] * (len(contents) - 1) + [True]
    expected = {parts.STEPS if "traced" in kind else parts.GRADIENT, parts.METHOD, parts.DATA, parts.SUMS}
    assert expected <= set(m.seconds_of(contents[-1]))
    del contents[-1][m.PROFILE]
    assert [m.metrics_of(c) for c in contents] == [m.metrics_of(r.content) for r in plain]  # type: ignore[arg-type]
    assert worker.handle("train", RecordDict({m.CONFIG: asked}), [0])[0].content.keys() == {m.METRICS, m.ARRAYS}  # type: ignore[union-attr]


def test_flowers_own_simulation_has_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape("--profile: simulation.grid = 'flower' cannot be profiled")):
        fedtl.run(config(simulation={"grid": "flower"}), out=tmp_path / "a", profile=True)
    assert not (tmp_path / "a").exists()


def test_a_run_without_says_so(tmp_path: Path) -> None:
    run = fedtl.run(config() | {"rounds": 1}, out=tmp_path / "a")
    with pytest.raises(ConfigError, match="holds no profile: add --profile to fedtl run"):
        run.profile()
