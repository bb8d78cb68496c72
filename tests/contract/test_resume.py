"""A run that is killed at any instant and resumed leaves the bits of one that was not."""

from __future__ import annotations

import multiprocessing.context
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fedtl
from fedtl.choice import ConfigError
from fedtl.disk.memories import MemoryStore
from fedtl.engine import Engine, Failed
from fedtl.engine.assignment import Assignment
from fedtl.export.of_run import model_of_run
from fedtl.failure import RunError
from fedtl.runs import checkpoint
from fedtl.runs.checkpoint import read_checkpoint
from fedtl.runs.record import Recorder
from fedtl.strategies import STRATEGIES
from tests.interrupted import ROUNDS, Killed, contents, run_slowly, stop_at, stopped_and_resumed, tables
from tests.methods import OPEN_METHODS

pytestmark = pytest.mark.usefixtures("engines_chosen_once")
ROOT = Path(__file__).resolve().parents[2]


def test_what_is_compared(uninterrupted: Callable[..., dict[str, Any]]) -> None:
    snapshot = uninterrupted()
    assert [line["round"] for line in snapshot["rounds.jsonl"]] == list(range(1, ROUNDS + 1))
    assert [line["round"] for line in snapshot["clients.jsonl"]] == [2, 4, 6]
    assert len({tuple(line["clients"]) for line in snapshot["rounds.jsonl"]}) > 1
    assert any(key.startswith("client ") and value for key, value in snapshot.items())
    assert set(uninterrupted("momentum")["checkpoint"][1]) == {"w", "m"}
    assert set(uninterrupted("adam")["checkpoint"][1]) == {"w", "m", "v", "steps"}


# Killed from outside, at instants that nobody chose.

OTHERS = [method for method in OPEN_METHODS if method != "fedamp"]


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.ForkServerContext:
    """Makes processes that have imported all that is slow to import, so that a kill finds the run itself."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fedtl.experiment", "tests.interrupted"])
    return context


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here")
@pytest.mark.parametrize("method", ["pfedme", "fedamp", *(pytest.param(m, marks=pytest.mark.slow) for m in OTHERS)])
def test_killed_again_and_again(
    method: str,
    processes: multiprocessing.context.ForkServerContext,
    uninterrupted: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    rng, kills, interrupted = random.Random(os.urandom(4)), 0, set()
    folder, waited = tmp_path / "run", []
    for _ in range(30):
        ready, tells = processes.Pipe(duplex=False)
        resume = (folder / "config.toml").exists()
        process = processes.Process(target=run_slowly, args=(tables(method), folder, resume, tells))
        process.start()
        tells.close()
        assert ready.recv() == "ready"
        waited.append(rng.uniform(0.1, 0.6) if kills < 4 else 60)
        process.join(waited[-1])
        if process.is_alive():
            process.kill()
            process.join()
            kills += 1
            checkpoint = read_checkpoint(folder)
            interrupted.add(checkpoint.round if checkpoint else 0)
        else:
            assert process.exitcode == 0
            break
    assert kills >= 1
    assert contents(folder) == uninterrupted(method), f"after waiting {waited}"


# Killed at chosen instants.


POINTS = {
    "before the first memory": (MemoryStore, "save", 1, False),
    "between two memories of a round": (MemoryStore, "save", 8, True),
    "between two rows of a round": (MemoryStore, "save", 11, True),
    "when a round is trained and nothing recorded": (Recorder, "round", 4, False),
    "between clients.jsonl and rounds.jsonl": (Recorder, "_append", 5, True),
    "between rounds.jsonl and the checkpoint": (Recorder, "checkpoint", 4, False),
    "before the very first checkpoint": (Recorder, "checkpoint", 1, False),
    "between the checkpoint's tensors and its name": (checkpoint, "write_mark", 4, False),
    "right after a checkpoint": (Recorder, "checkpoint", 3, True),
    "after the last round, before the model": (Recorder, "finish", 1, False),
}


# What a method leaves: memories and a model, a server's state, memories alone.
LEAVES = {
    "pfedme": [point for point in POINTS if "rows" not in point],
    "adam": [point for point in POINTS if "memor" not in point and "rows" not in point],
    "local": ["between two memories of a round", "between rounds.jsonl and the checkpoint", "right after a checkpoint"],
    # A state of several names, memories with private parts, a table's rows, models that clients choose among.
    "scaffold": ["between two memories of a round", "when a round is trained and nothing recorded"],
    "fedrep": ["between two memories of a round"],
    "fedbn": ["between two memories of a round"],
    "feddbe": ["between two memories of a round", "right after a checkpoint", "before the very first checkpoint"],
    "fedpac": ["between two rows of a round", "right after a checkpoint"],
    "fedrod-hyper": ["right after a checkpoint"],
    "fedamp": [
        "between two memories of a round",
        "between two rows of a round",
        "between rounds.jsonl and the checkpoint",
    ],
    "ifca": ["when a round is trained and nothing recorded", "right after a checkpoint"],
    "hypernetwork": ["between two rows of a round", "right after a checkpoint"],
    "knn-per": ["right after a checkpoint"],
}
LEAVES |= {method: ["when a round is trained and nothing recorded"] for method in STRATEGIES if method not in LEAVES}


@pytest.mark.parametrize(("method", "point"), [(method, point) for method in LEAVES for point in LEAVES[method]])
def test_stopped_at(point: str, method: str, uninterrupted: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    owner, name, call, after = POINTS[point]
    stopped_and_resumed(tables(method), tmp_path / "run", call, owner, name, after=after)
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


@pytest.mark.parametrize("after", [False, True], ids=["before its next round", "after its next round"])
@pytest.mark.parametrize("method", ["adam", "gpfl"])
def test_a_finished_run_that_goes_on_and_is_killed_has_no_final_model(
    method: str, after: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model of fewer rounds is not its own; what the checkpoint has is, and the files come back at its end."""
    config = tables(method, rounds=2)
    config["data"]["validation_share"], config["evaluate"]["keep_best"] = 0.3, True
    folder = tmp_path / "run"
    fedtl.run(config, out=folder)
    written = {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}
    extras = {"extras.safetensors"} if method == "gpfl" else set()
    assert set(written) == {"model.safetensors", "best.safetensors", *extras}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, Recorder, "round", 1, after=after)
        fedtl.run(config, ["rounds=4"], out=folder, resume=True)
    run = fedtl.load(folder)
    assert (run.rounds[-1]["round"], run.config["rounds"]) == (2 + after, 4)
    for which in ("last", "best"):
        with pytest.raises(ConfigError, match="holds no"):
            run.state_dict(which)
    with pytest.raises(ConfigError, match="give the folder of a finished run"):
        fedtl.run(config, [f"model.pretrained={folder}"], out=tmp_path / "other")
    assert model_of_run(folder, client=0 if method == "gpfl" else None).about.round == 2 + after
    # With the rounds that it has, it is finished again.
    fedtl.run(config, [f"rounds={2 + after}"], out=folder, resume=True)
    again = {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}
    assert set(again) == set(written)
    assert (again == written) is not after


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
        with pytest.raises(ConfigError, match=f"another config: {other[0].partition('=')[0]} is .* there and"):
            fedtl.run(tables(), other, out=tmp_path, resume=True)
    with pytest.raises(ConfigError, match="holds a run already"):
        fedtl.run(tables(), out=tmp_path)
    with pytest.raises(ConfigError, match="has finished 2 already; give as many, or more"):
        fedtl.run(tables(), ["rounds=1"], out=tmp_path, resume=True)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_the_newest_unfinished_run_is_found(
    uninterrupted: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, Recorder, "checkpoint", 2, after=True)
        fedtl.run(tables(), resume=True)  # nothing has begun yet, so this begins
    run = fedtl.run(tables(), resume=True)
    assert run.path.parent == Path("results/resume")
    assert len(list(Path("results/resume").iterdir())) == 1
    assert contents(run.path) == uninterrupted()


def test_too_many_failures_then_resumed(
    uninterrupted: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that ended with an error is resumed like one that was killed."""
    with monkeypatch.context() as patch:
        original = Engine.train

        def failing(self: Engine, assignment: Assignment) -> Any:
            if assignment.round > 3:
                return [Failed(client, "ValueError: no longer") for client in assignment.clients]
            return original(self, assignment)

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
