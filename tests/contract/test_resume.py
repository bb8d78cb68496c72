"""A run that is killed at any instant and gone on with leaves the bits of one that was not."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

import fedtl
from fedtl import record
from fedtl.choice import ConfigError
from fedtl.engine import Engine, Failed
from fedtl.failure import RunError
from fedtl.record import Recorder
from fedtl.store import MemoryStore

ROOT = Path(__file__).resolve().parents[2]
CLIENTS, ROUNDS = 8, 6
TIMES = {"seconds", "seconds_scoring", "elapsed"}

METHODS: dict[str, dict[str, Any]] = {
    "pfedme": {"name": "pfedme", "lr": 0.05, "lam": 15.0, "inner_steps": 2, "inner_lr": 0.05},
    "momentum": {"name": "fedavg", "lr": 0.05, "server": {"name": "momentum"}},
    "adam": {"name": "fedavg", "lr": 0.05, "server": {"name": "adam", "lr": 0.01}},
    "local": {"name": "local", "lr": 0.05},
}


def tables(method: str = "pfedme", rounds: int = ROUNDS, **other: Any) -> dict[str, Any]:
    """Fewer clients than there are each round, so that what they remember is of different ages."""
    personal = "fresh" if METHODS[method]["name"] == "fedavg" else "last"
    return {
        "name": "resume",
        "seed": 1,
        "rounds": rounds,
        "device": "cpu",
        "data": {"name": "digits", "clients": CLIENTS, "partition": {"name": "dirichlet", "alpha": 1.0}},
        "model": {"name": "logistic"},
        "strategy": {"clients_per_round": 3, "local_steps": 2, "batch_size": 10, **METHODS[method]},
        "evaluate": {"every": 2, "personal": personal},
        "simulation": {"grid": "in-process"},
        **other,
    }


def contents(folder: Path) -> dict[str, Any]:
    """All that a run leaves but times: records, the final model and what clients remember, to the bit."""
    found: dict[str, Any] = {}
    for name in ("rounds.jsonl", "clients.jsonl"):
        lines = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        found[name] = [{key: value for key, value in line.items() if key not in TIMES} for line in lines]
    last = len(found["rounds.jsonl"])
    store = MemoryStore(folder / "memories")
    # What a client remembers as of any round that is still to be found: the newest, and the one before.
    for client in store.clients():
        for before in (last, last + 1):
            found[f"client {client} before {before}"] = bits(store.load(client, before))
    checkpoint = record.read_checkpoint(folder)
    assert checkpoint is not None
    found["checkpoint"] = checkpoint.round, bits(checkpoint.state | {"w": checkpoint.w})
    found["model"] = bits(load_file(folder / "model.safetensors"))
    return found


def bits(tensors: Mapping[str, Any]) -> dict[str, bytes]:
    return {key: np.asarray(value).tobytes() for key, value in sorted(tensors.items())}


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    known: dict[tuple[str, int], dict[str, Any]] = {}

    def run(method: str = "pfedme", rounds: int = ROUNDS) -> dict[str, Any]:
        if (method, rounds) not in known:
            folder = tmp_path_factory.mktemp("uninterrupted") / "run"
            fedtl.run(tables(method, rounds), out=folder)
            known[method, rounds] = contents(folder)
        return known[method, rounds]

    return run


def test_what_is_compared(uninterrupted: Callable[..., dict[str, Any]]) -> None:
    found = uninterrupted()
    assert [line["round"] for line in found["rounds.jsonl"]] == list(range(1, ROUNDS + 1))
    assert [line["round"] for line in found["clients.jsonl"]] == [2, 4, 6]
    assert len({tuple(line["clients"]) for line in found["rounds.jsonl"]}) > 1
    assert any(key.startswith("client ") and value for key, value in found.items())
    assert set(uninterrupted("momentum")["checkpoint"][1]) == {"w", "m"}
    assert set(uninterrupted("adam")["checkpoint"][1]) == {"w", "m", "v"}


# Killed from outside, at instants that nobody chose.

SLOW = """
import sys, time, json
import fedtl
from fedtl.store import MemoryStore

save = MemoryStore.save
def slowly(self, *what):  # so that a kill finds the run at work, not done
    time.sleep(0.01)
    save(self, *what)
    time.sleep(0.01)
MemoryStore.save = slowly
print("ready", flush=True)
fedtl.run(json.loads(sys.argv[1]), out=sys.argv[2], resume=sys.argv[3] == "resume")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here")
def test_killed_again_and_again(uninterrupted: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    rng, kills, interrupted = random.Random(os.urandom(4)), 0, set()
    folder, waited = tmp_path / "run", []
    for _ in range(30):
        how = "resume" if (folder / "config.toml").exists() else "begin"
        process = subprocess.Popen(
            [sys.executable, "-c", SLOW, json.dumps(tables()), str(folder), how],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        wait = rng.uniform(0.1, 0.6) if kills < 4 else 60
        waited.append(wait)
        try:
            _, errors = process.communicate(timeout=wait)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            found = record.read_checkpoint(folder)
            interrupted.add(found.round if found else 0)
        else:
            assert process.returncode == 0, errors
            break
    assert kills >= 1
    assert contents(folder) == uninterrupted(), f"after waiting {waited}"


# Killed at chosen instants.


class Killed(BaseException):
    """As sudden as a signal: nobody catches it."""


def stop_at(patch: pytest.MonkeyPatch, owner: object, name: str, call: int, *, after: bool) -> None:
    """Let ``owner.name``'s call number ``call`` be the run's end, before or after it has done its work."""
    original, calls = getattr(owner, name), [0]

    def stopping(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == call and not after:
            raise Killed
        result = original(*arguments, **options)
        if calls[0] == call:
            raise Killed
        return result

    patch.setattr(owner, name, stopping)


POINTS = {
    "before the first memory": (MemoryStore, "save", 1, False),
    "between two memories of a round": (MemoryStore, "save", 8, True),
    "when a round is trained and nothing recorded": (Recorder, "round", 4, False),
    "between clients.jsonl and rounds.jsonl": (Recorder, "_append", 5, True),
    "between rounds.jsonl and the checkpoint": (Recorder, "checkpoint", 4, False),
    "before the very first checkpoint": (Recorder, "checkpoint", 1, False),
    "between the checkpoint's tensors and its name": (Recorder, "_replace_tensors", 4, True),
    "right after a checkpoint": (Recorder, "checkpoint", 3, True),
    "after the last round, before the model": (Recorder, "finish", 1, False),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("point", POINTS)
def test_stopped_at(
    point: str,
    method: str,
    uninterrupted: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner, name, call, after = POINTS[point]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, owner, name, call, after=after)
        fedtl.run(tables(method), out=tmp_path / "run")
    fedtl.run(tables(method), out=tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == uninterrupted(method)


def stopped_after(rounds: int, folder: Path, monkeypatch: pytest.MonkeyPatch, method: str = "pfedme") -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, Recorder, "checkpoint", rounds, after=True)
        fedtl.run(tables(method), out=folder)


@pytest.mark.parametrize("name", ["rounds.jsonl", "clients.jsonl"])
@pytest.mark.parametrize("torn", ['{"round": 5, "cl', '{"round": 5}', "\0\0\0\0", '{"loss": 0.1, "mot": "\xe9'])
def test_a_torn_last_line(
    name: str,
    torn: str,
    uninterrupted: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopped_after(4, tmp_path, monkeypatch)
    with (tmp_path / name).open("ab") as file:
        file.write(torn.encode("latin-1"))
    assert fedtl.load(tmp_path).rounds[-1]["round"] in (4, 5)
    fedtl.run(tables(), out=tmp_path, resume=True)
    assert contents(tmp_path) == uninterrupted()


def test_leftovers_of_unfinished_files(
    uninterrupted: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_after(3, tmp_path, monkeypatch)
    (tmp_path / "rounds.jsonl.unfinished").write_text("{")
    (tmp_path / "checkpoint/4.safetensors.unfinished").write_bytes(b"half")
    (tmp_path / "checkpoint/4.safetensors").write_bytes(b"whole, but not named by checkpoint.json")
    (tmp_path / "checkpoint/checkpoint.json.unfinished").write_text('{"round": 4')
    (tmp_path / "memories/000000/0-4.12345").write_bytes(b"half a memory")
    fedtl.run(tables(), out=tmp_path, resume=True)
    assert contents(tmp_path) == uninterrupted()
    assert not list(tmp_path.rglob("*.unfinished"))
    assert [file.name for file in (tmp_path / "checkpoint").glob("*.safetensors")] == [f"{ROUNDS}.safetensors"]


def test_a_finished_run_stays_as_it_is(uninterrupted: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    fedtl.run(tables(), out=folder)
    names = [file for file in folder.rglob("*") if file.is_file() and file.name != "environment.json"]
    before = {file: file.read_bytes() for file in names}
    fedtl.run(tables(), out=folder, resume=True)
    assert {file: file.read_bytes() for file in before} == before
    assert contents(folder) == uninterrupted()


@pytest.mark.parametrize("method", ["pfedme", "adam"])
def test_more_rounds_are_the_longer_run(
    method: str, uninterrupted: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    fedtl.run(tables(method, rounds=4), out=tmp_path / "run")
    fedtl.run(tables(method), out=tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == uninterrupted(method)
    assert fedtl.load(tmp_path / "run").config["rounds"] == ROUNDS


def test_a_server_optimizers_own_options_are_kept(tmp_path: Path) -> None:
    config = tables("momentum", rounds=1)
    config["strategy"] = {**config["strategy"], "server": {"name": "momentum", "momentum": 0.5}}
    run = fedtl.run(config, out=tmp_path / "run")
    assert run.config["strategy"]["server"]["momentum"] == 0.5
    fedtl.run(config, out=tmp_path / "run", resume=True)


def test_a_moved_folder_can_be_gone_on_with(
    uninterrupted: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_after(3, tmp_path / "old", monkeypatch)
    shutil.move(tmp_path / "old", tmp_path / "new")
    fedtl.run(tmp_path / "new", resume=True)  # the folder says which experiment
    assert contents(tmp_path / "new") == uninterrupted()


def test_another_experiment_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped_after(2, tmp_path, monkeypatch)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    for other in (["seed=2"], ["strategy.lr=0.1"], ["data.clients=9"], ["evaluate.every=3"]):
        with pytest.raises(ConfigError, match="another config"):
            fedtl.run(tables(), other, out=tmp_path, resume=True)
    with pytest.raises(ConfigError, match="holds a run already"):
        fedtl.run(tables(), out=tmp_path)
    with pytest.raises(ConfigError, match="holds no run"):
        fedtl.run(tables(), out=tmp_path / "elsewhere", resume=True)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_the_newest_unfinished_run_is_found(
    uninterrupted: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="holds no run of this config"):
        fedtl.run(tables(), resume=True)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, Recorder, "checkpoint", 2, after=True)
        fedtl.run(tables())
    run = fedtl.run(tables(), resume=True)
    assert run.path.parent == Path("results/resume")
    assert len(list(Path("results/resume").iterdir())) == 1
    assert contents(run.path) == uninterrupted()


def test_too_many_failures_then_resumed(
    uninterrupted: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that ended with an error is gone on with like one that was killed."""
    with monkeypatch.context() as patch:
        original = Engine.train

        def failing(self: Engine, update: Any, w: Any, clients: Any, memories: Any, round: int, given: Any) -> Any:
            if round > 3:
                return [Failed(client, "ValueError: no longer") for client in clients]
            return original(self, update, w, clients, memories, round, given)

        patch.setattr(Engine, "train", failing)
        with pytest.raises(RunError, match="3 of 3 clients failed"):
            fedtl.run(tables(), out=tmp_path)
    assert len(fedtl.load(tmp_path).rounds) == 3
    fedtl.run(tables(), out=tmp_path, resume=True)
    assert contents(tmp_path) == uninterrupted()


def test_time_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped_after(3, tmp_path, monkeypatch)
    time.sleep(0.01)
    fedtl.run(tables(), out=tmp_path, resume=True)
    rounds = fedtl.load(tmp_path).rounds
    elapsed = [line["elapsed"] for line in rounds]
    assert elapsed == sorted(elapsed)
    assert elapsed[-1] == pytest.approx(sum(line["seconds"] for line in rounds))
