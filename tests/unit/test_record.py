"""A run's folder: what is in it, at every instant, and one sentence when it cannot be written."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedtl
from fedtl.choice import ConfigError
from fedtl.config.read import read_config
from fedtl.config.schema import Config
from fedtl.runs import record
from fedtl.runs.checkpoint import Checkpoint, last_round, read_checkpoint, read_header
from fedtl.runs.record import OutputError, Recorder
from fedtl.runs.resume import alike, same_experiment
from fedtl.server.report import Round
from fedtl.server.scores import ClientScores

NAN = float("nan")


def tables(**other: Any) -> dict[str, Any]:
    return {
        "name": "record",
        "rounds": 3,
        "device": "cpu",
        "data": {"name": "digits", "clients": 4},
        "model": {"name": "logistic"},
        "strategy": {"name": "fedavg", "lr": 0.1, "server": {"name": "momentum"}},
        "simulation": {"grid": "in-process"},
        **other,
    }


@pytest.fixture
def config() -> Config:
    return read_config(tables())[0]


@pytest.fixture
def recorder(tmp_path: Path, config: Config) -> Recorder:
    made = Recorder(tmp_path / "a" / "run")
    made.begin(config, record.environment(device="cpu"))
    return made


def report(round: int, loss: float = 0.5, scored: bool = True) -> Round:
    scores = ClientScores(
        clients=[0, 2],
        samples=[3, 5],
        values={
            "global": {"accuracy": [0.5, 1.0], "loss": [loss, 0.1]},
            "personal": {"accuracy": [1.0, NAN], "loss": [0.1, 0.2]},
        },
        personal="adapted",
    )
    return Round(
        round,
        clients=[0, 2],
        failures=[(2, 'ValueError: "no"')],
        train={"cross_entropy": loss},
        scores=dict(scores.summary()) if scored else {},
        client_scores=[scores] if scored else [],
        seconds=1.5,
    )


def w(value: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.full(4, value, np.float32)


def files(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_files_of_a_run(tmp_path: Path) -> None:
    folder = fedtl.run(tables(), out=tmp_path / "run").path
    assert files(folder) == {
        "config.toml",
        "environment.json",
        "rounds.jsonl",
        "clients.jsonl",
        "model.safetensors",
        "checkpoint/checkpoint.json",
        "checkpoint/3.safetensors",
    }
    assert read_config(folder)[0] == read_config(tables())[0]  # the run's folder is a config
    assert same_experiment(folder, read_config(tables(rounds=9))[0])
    assert not same_experiment(folder, read_config(tables(seed=9))[0])


PRIVACY = {"clipping_norm": 1.0, "sensitivity": 1.0, "epsilon": 1.0, "delta": 1e-5}


def test_what_may_change_between_two_configs_of_one_run() -> None:
    one = read_config(tables(deploy={"privacy": PRIVACY, "wait": 5.0}))[0]
    same: list[dict[str, Any]] = [
        {"rounds": 9},
        {"device": "auto"},
        {"simulation": {"grid": "ray"}},
        {"deploy": {"privacy": PRIVACY, "wait": 7.0, "min_clients": 2, "round_timeout": 3.0, "max_norm": 2.0}},
    ]
    for change in same:
        other = read_config(tables(**{"deploy": {"privacy": PRIVACY}, **change}))[0]
        assert alike(one, other)
        assert alike(other, one)
    for deploy in ({}, {"privacy": {**PRIVACY, "epsilon": 2.0}}, {"privacy": {**PRIVACY, "clipping_norm": 2.0}}):
        other = read_config(tables(deploy={"wait": 5.0, **deploy}))[0]
        assert not alike(one, other)
        assert not alike(other, one)
    assert not alike(one, read_config(tables(deploy={"privacy": PRIVACY}, seed=3))[0])


def test_the_last_round_of_a_folder(tmp_path: Path) -> None:
    assert last_round(tmp_path / "none") == 0
    recorder = Recorder(tmp_path / "run")
    recorder.folder.mkdir()
    recorder.checkpoint(Checkpoint(4, np.zeros(2, np.float32), {}, 1.5))
    assert last_round(recorder.folder) == 4
    recorder.checkpoint(Checkpoint(3, np.ones(2, np.float32), {}, 0.0))
    checkpoint = read_checkpoint(recorder.folder)
    assert checkpoint is not None
    assert (checkpoint.round, checkpoint.w.tolist()) == (3, [1.0, 1.0])
    assert len(list((recorder.folder / "checkpoint").glob("*.safetensors"))) == 1


def test_the_model_loads_under_its_modules_names(tmp_path: Path) -> None:
    from fedtl.experiment import load_model

    run = fedtl.run(tables(), out=tmp_path / "run")
    module = load_model(run)
    assert module.state_dict().keys() == run.state_dict().keys()
    checkpoint = read_checkpoint(run.path)
    assert checkpoint is not None
    flat = np.concatenate([tensor.numpy().ravel() for tensor in run.state_dict().values()])
    np.testing.assert_array_equal(np.sort(flat), np.sort(checkpoint.w))


def test_environment(tmp_path: Path) -> None:
    environment = fedtl.run(tables(), out=tmp_path / "run").environment
    known = {"command", "started", "python", "platform", "cores", "versions", "commit", "device", "gpu", "grid"}
    assert environment.keys() == known | {"actors", "engine", "engine_because", "clients", "parameters", "notes"} | {
        "split",
        "tests_trained_elsewhere",
    }
    assert {"fedtl", "flwr", "torch", "numpy"} <= {name for name, version in environment["versions"].items() if version}
    assert (environment["device"], environment["gpu"], environment["grid"], environment["actors"]) == (
        "cpu",
        None,
        "in-process",
        None,
    )
    assert (environment["clients"], environment["parameters"]) == (4, 650)
    # Which of the two depends on whether this processor keeps bits in a stack.
    assert environment["engine"] in ("stacked, traced", "one by one, traced")
    assert environment["engine_because"]


def test_a_round_is_readable_at_once(recorder: Recorder) -> None:
    assert fedtl.load(recorder.folder).rounds == []
    for round in (1, 2):
        recorder.round(report(round, scored=round == 1), w(round), {"m": w(-round)})
        run = fedtl.load(recorder.folder)
        assert [line["round"] for line in run.rounds] == list(range(1, round + 1))
        assert run.rounds[-1]["elapsed"] == 1.5 * round
        assert run.rounds[-1]["failures"] == [{"client": 2, "message": 'ValueError: "no"'}]
    assert [line["round"] for line in run.clients] == [1]
    assert "scores" not in run.rounds[1]
    assert run.scores()["global/clients"].rounds.tolist() == [1]


def test_no_nan_in_json(recorder: Recorder) -> None:
    recorder.round(report(1, loss=float("inf")), w(0), {})

    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is no JSON")

    lines = [
        json.loads(line, parse_constant=refuse)
        for name in ("rounds.jsonl", "clients.jsonl")
        for line in (recorder.folder / name).read_text().splitlines()
    ]
    assert lines[0]["train"] == {"cross_entropy": None}
    assert lines[1]["scores"]["personal/clients"]["accuracy"] == [1.0, None]
    assert np.isnan(fedtl.load(recorder.folder).client_scores()["personal/clients"]).tolist() == [False, True]


def test_checkpoint(recorder: Recorder) -> None:
    assert read_checkpoint(recorder.folder) is None
    recorder.round(report(1), w(1), {"m": w(-1)})
    recorder.round(report(2), w(2), {"m": w(-2), "v": w(3)})
    checkpoint = read_checkpoint(recorder.folder)
    assert checkpoint is not None
    assert (checkpoint.round, checkpoint.elapsed) == (2, 3.0)
    np.testing.assert_array_equal(checkpoint.w, w(2))
    assert {name: value.tolist() for name, value in checkpoint.state.items()} == {"m": [-2.0] * 4, "v": [3.0] * 4}
    assert files(recorder.folder / "checkpoint") == {"checkpoint.json", "2.safetensors"}


@pytest.mark.parametrize("call", range(1, 3))
def test_there_is_a_whole_checkpoint_at_every_instant(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Its two files are renamed into place; whichever rename does not happen, one round's pair is whole."""
    recorder.round(report(1), w(1), {"m": w(-1)})
    replace, calls = os.replace, [0]

    def stopping(unfinished: Path, target: Path) -> None:
        calls[0] += 1
        if calls[0] == call:
            raise KeyboardInterrupt
        replace(unfinished, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", stopping)
        recorder.round(report(2), w(2), {"m": w(-2)})
    checkpoint = read_checkpoint(recorder.folder)
    assert checkpoint is not None
    assert checkpoint.round == 1
    np.testing.assert_array_equal(checkpoint.w, w(1))


def test_resume_cuts_off_what_is_later(recorder: Recorder, config: Config) -> None:
    recorder.round(report(1), w(1), {})
    kept = {name: (recorder.folder / name).read_bytes() for name in ("rounds.jsonl", "clients.jsonl")}
    for name in kept:
        with (recorder.folder / name).open("a") as file:
            file.write('{"round": 2, "clients": []}\n{"round": 3, "cli')
    again = Recorder(recorder.folder)
    again.resume(config, {}, read_header(recorder.folder))
    checkpoint = read_checkpoint(recorder.folder)
    assert checkpoint is not None
    assert (checkpoint.round, again.elapsed) == (1, 1.5)
    assert {name: (recorder.folder / name).read_bytes() for name in kept} == kept


def test_a_folder_that_holds_a_run_is_not_overwritten(recorder: Recorder, config: Config) -> None:
    with pytest.raises(ConfigError, match="holds a run already: add --resume"):
        Recorder(recorder.folder).begin(config, {})


def test_new_folders_never_meet(tmp_path: Path, config: Config) -> None:
    made = set()
    for _ in range(3):
        folder = record.new_folder(tmp_path, config)
        assert folder.parent == tmp_path / "record"
        assert folder.is_dir()
        made.add(folder)
    assert len(made) == 3


def one_sentence(error: OutputError) -> str:
    text = str(error)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("method", ["open", "write_text", "mkdir"])
def test_full_disk(recorder: Recorder, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    def full(self: Path, *_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, method, full)
    with pytest.raises(OutputError) as caught:
        recorder.round(report(1), w(1), {})
    text = one_sentence(caught.value)
    assert text.startswith(str(recorder.folder))
    assert text.endswith("cannot be written: No space left on device")


def test_full_disk_when_tensors_are_written(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(OutputError, match="No space left on device"):
        recorder.round(report(1), w(1), {})
    with pytest.raises(OutputError, match="No space left on device"):
        recorder.finish({"weight": w(1)})


def test_full_disk_in_a_run_then_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was finished stays, and the run goes on when there is room again."""
    opened, calls = Path.open, [0]

    def full(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        calls[0] += mode == "r+b"
        if mode == "r+b" and calls[0] == 4:  # two lines a round: the second round's second
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return opened(path, mode, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(OutputError, match="No space left"):
        patch.setattr(Path, "open", full)
        fedtl.run(tables(), out=tmp_path / "run")
    assert [line["round"] for line in fedtl.load(tmp_path / "run").rounds] == [1]
    fedtl.run(tables(), out=tmp_path / "run", resume=True)
    assert [line["round"] for line in fedtl.load(tmp_path / "run").rounds] == [1, 2, 3]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError) as caught:
        fedtl.run(tables(), out=tmp_path / "file" / "run")
    assert "cannot be written: Not a directory" in one_sentence(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="cannot be written: Permission denied"):
            fedtl.run(tables(), out=tmp_path / "run")
    finally:
        tmp_path.chmod(0o700)


def test_rounds_written_behind_come_in_order_and_all(tmp_path: Path) -> None:
    written: list[int] = []

    def write(round: int) -> None:
        time.sleep(0.02)
        written.append(round)

    with record.behind(write) as later:
        for round in range(5):
            later(round)
            assert len(written) >= round - 1  # at most one waits
    assert written == [0, 1, 2, 3, 4]


def test_what_writing_behind_raises_is_raised() -> None:
    def write(round: int) -> None:
        raise OutputError(f"round {round} cannot be written")

    with pytest.raises(OutputError, match="round 1"), record.behind(write) as later:
        later(1)
    with pytest.raises(OutputError, match="round 1"), record.behind(write) as later:
        later(1)
        later(2)


@pytest.mark.parametrize(("method", "remembers"), [("fedavg", False), ("pfedme", True), ("local", True)])
def test_only_methods_without_memories_write_behind(
    method: str, remembers: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()
    original = Recorder.round

    def seen(self: Recorder, *arguments: Any) -> None:
        threads.add(threading.current_thread() is threading.main_thread())
        original(self, *arguments)

    monkeypatch.setattr(Recorder, "round", seen)
    options = {"pfedme": {"lam": 1.0, "inner_lr": 0.1}}.get(method, {})
    fedtl.run({**tables(), "strategy": {"name": method, "lr": 0.1, **options}}, out=tmp_path / "run")
    assert threads == {remembers}
