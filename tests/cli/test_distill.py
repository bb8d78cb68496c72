"""``fedtl distill`` from the teacher's folder to the student's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from rich.console import Console
from safetensors.torch import load_file

from fedtl.cli import commands, printing
from fedtl.experiment import run
from tests.cli.test_cli import hears_ctrl_c

TEACHER = {
    "name": "teacher",
    "rounds": 6,
    "data": {"name": "digits", "clients": 2, "test_share": 0.0},
    "model": {"name": "cnn", "hidden": [32]},
    "strategy": {"name": "fedavg", "local_epochs": 2, "batch_size": 16, "lr": 0.1},
    "evaluate": {"every": 6},
    "simulation": {"grid": "in-process"},
}
SMALL = ("--student", "cnn", "student.channels=[8,16]", "student.hidden=[32]")
BRIEF = ("method.per_class=20", "method.sample_steps=60", "method.steps=200", "method.every=100", "method.lr=0.003")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(TEACHER, out=tmp_path_factory.mktemp("teacher") / "run").path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    monkeypatch.setattr(printing, "out", Console(highlight=False, width=100))
    monkeypatch.setattr(printing, "err", Console(stderr=True, highlight=False, width=100))
    monkeypatch.setattr(sys, "argv", ["fedtl", "distill", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    code = ended.value.code
    assert isinstance(code, int)
    return code, *capsys.readouterr()


def lines(folder: str | Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def test_distill(
    here: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (teacher, *SMALL, "--method", "class-impressions", *BRIEF)
    code, out, err = say(monkeypatch, capsys, *words, "--out", "a")
    assert (code, err) == (0, "")
    assert "class-impressions: cnn (17,706 numbers)" in out
    assert "teacher/server-test" in out
    assert "student/server-test" in out
    assert out.endswith("\na\n")
    assert {file.name for file in Path("a").iterdir()} == {
        "config.toml",
        "environment.json",
        "metrics.jsonl",
        "samples.png",
        "student.safetensors",
    }
    assert Path("a/samples.png").read_bytes().startswith(b"\x89PNG")
    config = tomllib.loads(Path("a/config.toml").read_text())
    assert config["teacher"]["run"] == str(teacher)
    assert config["method"]["per_class"] == 20
    assert config["student"]["channels"] == [8, 16]
    first, *others = lines("a")
    assert [line["step"] for line in (first, *others)] == [0, 100, 200]
    scores = first["scores"]
    assert isinstance(scores, dict)
    assert scores["teacher/server-test"]["accuracy"] > 0.9
    assert scores["student/server-test"]["accuracy"] < 0.4
    scores = others[-1]["scores"]
    assert isinstance(scores, dict)
    assert scores["student/server-test"]["accuracy"] > 0.4

    again = say(monkeypatch, capsys, *words, "--out", "b", "--quiet")
    assert again == (0, "b\n", "")
    one, two = load_file("a/student.safetensors"), load_file("b/student.safetensors")
    assert all(one[name].equal(two[name]) for name in one)
    assert [line["scores"] for line in lines("b")] == [line["scores"] for line in lines("a")]


def test_distill_with_data_into_a_folder_of_its_own(
    here: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = say(monkeypatch, capsys, teacher, *SMALL, "--method", "data", "method.steps=5", "seed=3", "-q")
    folder = Path(out.strip())
    assert code == 0
    assert folder.parent == Path("results/teacher-data")
    assert folder.name.endswith("-3")
    assert not (folder / "samples.png").exists()
    assert [line["step"] for line in lines(folder)] == [0, 5]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "dafl"), "--student is missing: give a model, as cnn, "),
        (("--student", "cnn"), "--method is missing: give one of class-impressions, dafl, data, zskd"),
        ((*SMALL, "--method", "dafk"), "method.name = 'dafk' is unknown: did you mean 'dafl'?"),
        ((*SMALL, "--method", "dafl", "student.hiden=3"), "student.hiden is not a key here: did you mean 'hidden'?"),
        ((*SMALL, "--method", "dafl", "method.stps=3"), "method.stps is not a key here: did you mean 'steps'?"),
        ((*SMALL, "--method", "dafl", "steps=3"), "steps is not a key here: "),
        ((*SMALL, "--method", "dafl", "seed=x"), "seed = 'x': should be a whole number, 0 or more"),
        ((*SMALL, "--method", "dafl", "device=tpu"), "device = 'tpu': should be 'auto', 'cpu' or 'cuda'"),
        (("--student", "cnn", "--method", "data", "student.kernel=0"), "student.kernel = 0: should be greater than 0"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    words: tuple[str, ...],
    message: str,
    here: Path,
    teacher: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, err = say(monkeypatch, capsys, teacher, *words)
    assert code == 2
    assert err.startswith(f"fedtl: {message}")
    assert err.count("\n") == 1
    assert not list(here.iterdir())


def test_a_folder_that_cannot_serve(
    here: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    words = (*SMALL, "--method", "data", "method.steps=1")
    assert "it holds no config.toml" in say(monkeypatch, capsys, "empty", *words)[2]
    Path("begun").mkdir()
    Path("begun/config.toml").write_text((teacher / "config.toml").read_text())
    assert "holds no model.safetensors (yet)" in say(monkeypatch, capsys, "begun", *words)[2]
    assert say(monkeypatch, capsys, teacher, *words, "--out", "a")[0] == 0
    assert "a holds a run already: choose another --out" in say(monkeypatch, capsys, teacher, *words, "--out", "a")[2]


def test_ctrl_c_keeps_the_scores_so_far(here: Path, teacher: Path) -> None:
    words = [str(teacher), *SMALL, "--method", "data", "method.steps=1000000", "method.every=10", "--out", "a"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from fedtl.cli import main; main()", "distill", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "80", "TERM": "dumb"},
        preexec_fn=hears_ctrl_c,
    )
    record = here / "a" / "metrics.jsonl"
    try:
        while process.poll() is None and not (record.exists() and record.read_text().count("\n") >= 3):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err == "stopped before the end; a keeps the scores so far\n"
    assert len(lines("a")) >= 3
