"""Trackers read a run's record: what they are given, what happens when they fail, and when a run is resumed."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import sqlite3
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

import fedtl
from fedtl.choice import ConfigError
from fedtl.comparison.groups import group_runs
from fedtl.config import tracking
from fedtl.config.read import build, read_config
from fedtl.config.tracking import check_trackers, read_tracker
from fedtl.deploy.agent import _agreement
from fedtl.disk.tensors import load_tensors
from fedtl.runs.resume import alike, digest
from fedtl.tracking import process
from fedtl.tracking.follow import follow
from fedtl.tracking.place import PLACE

LINES, OTHERS = "tests.trackers:Lines", "tests.trackers:Others"
CONFIG = {"name": "tracked", "seed": 3, "strategy": {"name": "fedavg", "lr": 0.1}, "objective": [{"term": "mmd"}]}
QUICK = [
    "rounds=3",
    "data.clients=4",
    "strategy.clients_per_round=4",
    "evaluate.every=3",
    "simulation.grid=in-process",
]


def a_record(round: int) -> dict[str, Any]:
    """A round's record as :mod:`fedtl.runs.record` writes it."""
    row = {"accuracy": {"weighted_mean": round / 8, "worst_decile": 0.125}, "scored": 4, "of": 4, "model": "adapted"}
    return {
        "round": round,
        "seconds": 0.5,
        "clients": [0, 2, 3],
        "failures": [],
        "bytes_down": 100,
        "bytes_up": 50,
        "train": {"cross_entropy": None if round == 2 else 1 / round},
        **({"scores": {"personal/clients": row}} if round % 2 else {}),
    }


def a_run(folder: Path, rounds: int, trackers: list[dict[str, Any]]) -> Path:
    """What trackers see of a run that has finished so many rounds; a folder that is there goes on."""
    (folder / PLACE).mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(tomli_w.dumps({**CONFIG, "rounds": rounds, "tracking": trackers}))
    (folder / "rounds.jsonl").write_text("".join(json.dumps(a_record(r)) + "\n" for r in range(1, rounds + 1)))
    return folder


def followed(folder: Path, order: bytes = b"finished\n") -> list[dict[str, str]]:
    """Follow a run that ends by an order; gives the failures that were told."""
    reading, writing = os.pipe()
    os.write(writing, order)
    os.close(writing)
    notes = io.StringIO()
    with os.fdopen(reading, "rb") as orders:
        follow(folder, orders, notes)
    told = [json.loads(line) for line in notes.getvalue().splitlines()]
    assert {"round": 1} in told  # which says that it goes on
    return [each for each in told if "round" not in each]


def lines_of(folder: Path) -> list[dict[str, Any]]:
    (file,) = folder.glob("lines-*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_names_and_numbers_are_those_of_the_runs_table(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "one", 3, [{"name": LINES}])
    assert followed(folder) == []
    *rounds, end = lines_of(folder)
    assert end == {"end": "finished"}
    table = fedtl.load(folder).table("numpy")
    for row, written in zip(table, rounds, strict=True):
        numbers = {name: row[name] for name in table.dtype.names if table.dtype[name].kind != "U"}
        for name, value in numbers.items():
            assert written[name] == value if name in written and not math.isnan(value) else math.isnan(value)
    assert rounds[0]["personal/clients/accuracy/worst_decile"] == 0.125
    assert math.isnan(rounds[1]["train/cross_entropy"])


@pytest.mark.parametrize(("order", "end"), [(b"", "killed"), (b"failed\n", "failed")])
def test_how_a_run_has_ended(tmp_path: Path, order: bytes, end: str) -> None:
    folder = a_run(tmp_path / "one", 1, [{"name": LINES}])
    with (folder / "rounds.jsonl").open("a") as file:
        file.write('{"round": 2, "sec')  # where a killed process was
    followed(folder, order)
    assert [line.get("round", line.get("end")) for line in lines_of(folder)] == [1, end]


def test_a_tracker_that_fails_is_left_out_and_told_once(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "one", 4, [{"name": LINES, "fails_at": 2}, {"name": OTHERS}])
    assert followed(folder) == [{"tracker": LINES, "error": "OSError: [Errno 28] No space left on device"}]
    assert [line["round"] for line in lines_of(folder) if "round" in line] == [1, 1, 2, 3, 4]


def test_a_resumed_run_has_the_same_id_and_all_rounds_again(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "one", 2, [{"name": LINES}])
    followed(folder, b"")
    followed(a_run(folder, 3, [{"name": LINES}]))
    rounds = [line.get("round", line.get("end")) for line in lines_of(folder)]  # of one id
    assert rounds == [1, 2, "killed", 1, 2, 3, "finished"]


@pytest.mark.parametrize("interrupted", ["never", "before", "while it waits"])
def test_a_run_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted: str) -> None:
    for name, seconds in {"SILENT": 0.2, "HURRIED": 0.1, "SAID_AFTER": 0.05, "LOOK": 0.02}.items():
        monkeypatch.setattr(process, name, seconds)
    folder = a_run(tmp_path / "one", 2, [{"name": LINES, "hangs": True}])
    notes, said = list[str](), list[str]()

    def say(text: str) -> None:
        said.append(text)
        if interrupted == "while it waits":
            raise KeyboardInterrupt

    tracking = process.Tracking(folder, [{"name": LINES, "hangs": True}], notes.append, say)
    with nullcontext() if interrupted == "never" else pytest.raises(KeyboardInterrupt), tracking:
        assert tracking._process is not None
        if interrupted == "before":
            raise KeyboardInterrupt
    assert tracking._process.returncode == -signal.SIGKILL
    seconds, hint = ("0.1", "") if interrupted == "before" else ("300", "; Ctrl-C leaves them out")
    assert said == [f"waiting until {LINES} has the last rounds, for {seconds} s at most{hint}"]
    when = {
        "never": "after the run, and wrote nothing for 0.2 s",
        "before": "0.1 s after the run",
        "while it waits": "when the run was stopped",
    }
    remedy = f"fedtl run {folder} --resume writes what is missing"
    assert notes == [f"tracking was not finished {when[interrupted]}; {remedy}"]


def test_tensorboard(tmp_path: Path) -> None:
    """TensorBoard's own reader sees each round once, though the run was killed and resumed."""
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = a_run(tmp_path / "one", 3, [{"name": "tensorboard"}])
    followed(folder, b"")
    followed(a_run(folder, 5, [{"name": "tensorboard"}]))
    read = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    scores = read.Scalars("personal/clients/accuracy/weighted_mean")
    assert [(each.step, each.value) for each in scores] == [(1, 0.125), (3, 0.375), (5, 0.625)]
    losses = read.Scalars("train/cross_entropy")
    assert [each.step for each in losses] == [1, 2, 3, 4, 5]
    assert math.isnan(losses[1].value)
    assert len(list(folder.glob("events*"))) == 1
    hparams = read.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"strategy.lr" in hparams


def test_tensorboard_drops_what_a_killed_process_left_beside_the_new_file(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = a_run(tmp_path / "one", 3, [{"name": "tensorboard"}])
    followed(folder, b"")
    (old,) = folder.glob("events*")
    content = old.read_bytes()
    followed(folder)
    (folder / "events.out.tfevents.0000000001.of-a-killed-process").write_bytes(content)
    read = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    assert [each.step for each in read.Scalars("seconds")] == [1, 2, 3]


def test_mlflow(tmp_path: Path) -> None:
    """MlflowClient sees one run with each round once; a locked database is told in a sentence."""
    client_of = pytest.importorskip("mlflow", reason="mlflow is not installed").MlflowClient
    database = tmp_path / "mlflow.db"
    uri = f"sqlite:///{database}"
    impatient = [{"name": "mlflow", "uri": f"{uri}?timeout=0.01"}]
    folder = a_run(tmp_path / "one", 2, [{"name": "mlflow"}])
    assert followed(folder, b"") == []
    with sqlite3.connect(database) as other:
        other.execute("BEGIN EXCLUSIVE")
        (failure,) = followed(a_run(folder, 3, impatient))
        assert failure["tracker"] == "mlflow"
        assert "database is locked" in failure["error"]
        assert "\n" not in failure["error"]
        other.rollback()
    assert followed(a_run(folder, 4, impatient)) == []

    client = client_of(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("tracked").experiment_id])
    assert run.info.run_name == "one"
    assert run.info.status == "FINISHED"
    assert run.data.params["strategy.lr"] == "0.1"
    assert run.data.params["objective.0.term"] == "mmd"
    history = client.get_metric_history(run.info.run_id, "seconds")
    assert sorted(each.step for each in history) == [1, 2, 3, 4]
    scores = client.get_metric_history(run.info.run_id, "personal/clients/accuracy/worst_decile")
    assert [(each.step, each.value) for each in scores] == [(1, 0.125), (3, 0.125)]


def test_wandb(tmp_path: Path) -> None:
    """One offline run with each round once, read back by W&B's own messages."""
    pytest.importorskip("wandb", reason="wandb is not installed")
    from wandb.proto import wandb_internal_pb2 as messages

    folder = a_run(tmp_path / "one", 2, [{"name": "wandb", "project": "hospitals"}])
    assert followed(folder, b"") == []
    assert followed(a_run(folder, 3, [{"name": "wandb", "project": "hospitals"}])) == []
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    records = [messages.Record.FromString(data) for data in wandb_records(file.read_bytes())]
    (run,) = [record.run for record in records if record.HasField("run")]
    assert (run.project, run.display_name) == ("hospitals", "one")
    assert {item.key: json.loads(item.value_json) for item in run.config.update}["strategy"]["lr"] == 0.1
    steps = [record.history.step.num for record in records if record.HasField("history")]
    assert steps == [1, 2, 3]
    last = next(record.history for record in records if record.HasField("history") and record.history.step.num == 3)
    values = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in last.item}
    assert values["personal/clients/accuracy/weighted_mean"] == 0.375


def wandb_records(data: bytes) -> list[bytes]:
    """The records of a .wandb file, in LevelDB's log format; W&B's newer packages have no reader for Python."""
    at, records, parts = 7, [], b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # a block has no room for a header
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            records.append(parts)
            parts = b""
    return records


def test_a_tracked_run_has_the_bits_of_an_untracked_one_and_notes_a_failure_once(tmp_path: Path) -> None:
    plain = fedtl.run("quickstart", QUICK, out=tmp_path / "plain")
    trackers = f'tracking=[{{name="{LINES}", fails_at=2}}, "{OTHERS}"]'
    tracked = fedtl.run("quickstart", [*QUICK, trackers], out=tmp_path / "tracked")
    one, other = (load_tensors(run.path / "model.safetensors") for run in (plain, tracked))
    assert all(np.array_equal(one[name], other[name]) for name in one)
    notes = [note for note in tracked.environment["notes"] if "tracking" in note]
    assert notes == [
        f"tracking: {LINES} has failed: OSError: [Errno 28] No space left on device; the run goes on without it, "
        f"and fedtl run {tracked.path} --resume writes what is missing"
    ]
    lines = lines_of(tracked.path)
    assert [line["round"] for line in lines if "round" in line] in ([1, 1, 2, 3], [1, 2, 1, 3], [1, 2, 3, 1])
    assert lines[-1] == {"end": "finished"}
    assert len(group_runs([plain, tracked]).groups) == 1


def test_tracking_may_differ_where_a_run_is_resumed_and_is_no_part_of_what_clients_agree_to() -> None:
    one, other = (read_config("quickstart", [f"tracking={names}"])[0] for names in ('["mlflow"]', '["wandb"]'))
    assert alike(one, other)
    assert digest(one.tables()) == digest(other.tables())
    assert _agreement(one.tables()) == _agreement(other.tables())


def test_an_entry_is_a_name_or_a_table() -> None:
    config, _ = read_config("quickstart", ["tracking=mlflow"])
    assert config.tracking == ({"name": "mlflow"},)
    config, _ = read_config("quickstart", ['tracking=["tensorboard", {name="mlflow", uri="sqlite:///x.db"}]'])
    assert build(config.tables()).tracking == ({"name": "tensorboard"}, {"name": "mlflow", "uri": "sqlite:///x.db"})


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("[3]", "tracking = [3]: should be a list of names, or of tables with a name, as ['tensorboard']"),
        ('["mlflow", {name="mlflow"}]', "has 'mlflow' twice; give it once"),
        ("mlfow", "tracking[0].name = 'mlfow' is unknown: did you mean 'mlflow'?"),
        ('[{name="wandb", uri="x"}]', "tracking[0].uri is not a key here: known: name, project"),
        ("__main__:Mine", "a tracker runs in a process of its own; put the class in a .py file and give 'file:Mine'"),
        ("json:JSONDecoder", "it is no subclass of fedtl.config.tracking.Tracker"),
    ],
)
def test_what_is_wrong_is_said_before_the_run(tmp_path: Path, value: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        fedtl.run("quickstart", [*QUICK, f"tracking={value}"], out=tmp_path / "run")
    assert sentence in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"'wandb': wandb is not installed: pip install 'fedtl\[wandb\]'"):
        check_trackers(({"name": "wandb"},))
    assert read_tracker({"name": "wandb"}, "tracking[0]").name == "wandb"  # on machines that need not have it
