from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from rich.console import Console

from fedtl.cli import commands, printing
from fedtl.experiment import run
from fedtl.runs.history import load

SHORT = ["rounds=2", "data.clients=5", "strategy.clients_per_round=5", "simulation.grid=in-process"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run("quickstart", SHORT, out=tmp_path_factory.mktemp("finished") / "run").path


class Said:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *words: object, code: int = 0) -> str:
        self.capsys.readouterr()
        self.monkeypatch.setattr(printing, "out", Console(highlight=False, width=60))
        self.monkeypatch.setattr(printing, "err", Console(stderr=True, highlight=False, width=60))
        self.monkeypatch.setattr(sys, "argv", ["fedtl", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            commands.main()
        out, err = self.capsys.readouterr()
        assert ended.value.code == code, err
        return out if code == 0 else err


@pytest.fixture
def fedtl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Said:
    return Said(monkeypatch, capsys)


def lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_table_and_file(fedtl: Said, finished: Path) -> None:
    output = fedtl("probe", finished, "--labels", 0.1, "--labels", 1)
    written = lines(finished / "probe.jsonl")
    assert output.endswith(f"{finished / 'probe.jsonl'}\n")
    assert [(line["share"], line["train"], line["test"]) for line in written] == [
        (share, *what)
        for share in (0.1, 1.0)
        for what in (("pooled", "server-test"), ("pooled", "clients"), ("own", "clients"))
    ]
    for line in written:
        row = next(row for row in output.splitlines() if row.startswith(str(line["name"])))
        assert f" {100 * float(str(line['accuracy'])):.2f} " in row
        assert row.endswith(f" {line['train_samples']}")
    assert "linear probe on global-model features, 10 % of labels: pooled -> server test" in output
    # Two rounds of pFedMe hardly train a network; its features with all labels are worth more.
    trained = load(finished).last()["global/server-test"].value
    assert written[3]["accuracy"] > max(0.85, trained)  # type: ignore[operator]
    assert written[0]["accuracy"] < written[3]["accuracy"]  # type: ignore[operator]

    fedtl("probe", finished, "--labels", 0.1, "--labels", 1)
    again = lines(finished / "probe.jsonl")
    assert again == written + written


def test_knn_and_another_file_and_seed(fedtl: Said, finished: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        fedtl("probe", finished, "--kind", "knn", "--labels", 0.2, "--seed", seed, "--out", tmp_path / "some.jsonl")
    written = lines(tmp_path / "some.jsonl")
    assert [line["seed"] for line in written] == [0] * 3 + [1] * 3
    assert {line["kind"] for line in written} == {"knn"}
    assert written[0]["accuracy"] > 0.6  # type: ignore[operator]
    assert written[0]["accuracy"] != written[3]["accuracy"]


def test_a_run_with_few_labels_is_probed_with_all(fedtl: Said, finished: Path, tmp_path: Path) -> None:
    few = run("quickstart", [*SHORT, "data.labelled_fraction=0.1"], out=tmp_path / "few").path
    for folder in (few, finished):
        fedtl("probe", folder, "--kind", "knn", "--out", tmp_path / "some.jsonl")
    written = lines(tmp_path / "some.jsonl")
    samples = [line["train_samples"] for line in written]
    assert samples[:3] == samples[3:]
    assert int(str(samples[0])) > 900


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--labels", 0), "--labels = 0: give a share of the training labels, above 0 and at most 1"),
        (("--labels", 1.5), "--labels = 1.5: give a share of the training labels, above 0 and at most 1"),
        (("--seed", -1), "--seed = -1: give a whole number, 0 or more"),
        (("--kind", "liner"), "--kind = 'liner': did you mean 'linear'?"),
    ],
)
def test_wrong_arguments(fedtl: Said, finished: Path, words: tuple[object, ...], message: str) -> None:
    assert fedtl("probe", finished, *words, code=2) == f"fedtl: {message}\n"


def test_no_run(fedtl: Said, tmp_path: Path, finished: Path) -> None:
    assert "is not a run's folder" in fedtl("probe", tmp_path, code=2)
    (tmp_path / "config.toml").write_text((finished / "config.toml").read_text())
    assert fedtl("probe", tmp_path, code=2) == f"fedtl: {tmp_path} holds no model.safetensors (yet)\n"


def test_a_record_without_rounds(fedtl: Said, finished: Path, tmp_path: Path) -> None:
    """Probed or taken as a teacher."""
    copy = Path(shutil.copytree(finished, tmp_path / "run"))
    (copy / "rounds.jsonl").write_text("")
    for words in (("probe", copy), ("distill", copy, "--student", "mlp", "--method", "dafl")):
        assert "its rounds.jsonl records no finished round" in " ".join(fedtl(*words, code=2).split())
