"""A run's global model of which a part stayed at clients is taken for no whole one."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import fedtl
from fedtl.choice import ConfigError
from fedtl.cli import main
from fedtl.config.read import load_tables
from fedtl.models import build_model, read_model
from fedtl.models.pretrained import notes_on_weights

QUICK = {"grid": "in-process", "stacked": False, "traced": False}
SMALL = {"name": "mlp", "hidden": [8]}


def tables(strategy: dict[str, Any], **other: Any) -> dict[str, Any]:
    return {
        "name": "whole",
        "rounds": 1,
        "data": {"name": "digits", "clients": 3, "samples": 90, "partition": {"name": "iid"}, "server_test_share": 0.2},
        "model": SMALL,
        "strategy": {"local_steps": 1, "lr": 0.1, **strategy},
        "simulation": QUICK,
        **other,
    }


@pytest.fixture(scope="module")
def parted(tmp_path_factory: pytest.TempPathFactory) -> fedtl.Run:
    """A run whose heads stayed at its clients."""
    return fedtl.run(tables({"name": "fedper"}), out=tmp_path_factory.mktemp("runs") / "fedper")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> fedtl.Run:
    return fedtl.run(tables({"name": "local"}), out=tmp_path_factory.mktemp("runs") / "local")


def taught_by(run: fedtl.Run, folder: Path) -> None:
    terms = [{"term": "cross_entropy"}, {"term": "distillation", "teacher": {"run": str(run.path)}}]
    fedtl.run(tables({"name": "fedavg"}, objective=terms), out=folder / "taught")


def loaded(run: fedtl.Run, folder: Path) -> None:
    fedtl.load_model(run)


@pytest.mark.parametrize("use", [taught_by, loaded])
def test_nothing_is_made_of_an_untrained_part(
    use: Callable[[fedtl.Run, Path], None], parted: fedtl.Run, alone: fedtl.Run, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"'head' stayed at that run's clients \(strategy\.private\)"):
        use(parted, tmp_path)
    with pytest.raises(ConfigError, match=r"trains no (model for all clients|global model)"):
        use(alone, tmp_path)


def test_no_student_is_distilled_from_it(
    parted: fedtl.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["distill", str(parted.path), "--student", "mlp", "--method", "data", "--out", str(tmp_path / "student")]
    monkeypatch.setattr(sys, "argv", ["fedtl", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "'head' stayed at that run's clients" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("source", [".", "model.safetensors"])
def test_a_part_that_stayed_is_new_where_a_model_begins_with_the_rest(parted: fedtl.Run, source: str) -> None:
    choice = read_model({**SMALL, "pretrained": str(parted.path / source)})
    module = build_model(choice, (1, 8, 8), 10, seed=5)
    fresh = build_model(read_model(SMALL), (1, 8, 8), 10, seed=5)
    weights = load_file(parted.path / "model.safetensors")
    for name, tensor in module.state_dict().items():
        expected = fresh.state_dict() if name.startswith("head.") else weights
        assert torch.equal(tensor, expected[name])
    (note,) = notes_on_weights(module)
    assert note.endswith("'head' is new, as it stayed at that run's clients")


def test_a_model_that_nobody_trained_is_nothing_to_begin_with(alone: fedtl.Run) -> None:
    with pytest.raises(ConfigError, match="run of 'local', which trains no model for all clients"):
        build_model(read_model({**SMALL, "pretrained": str(alone.path)}), (1, 8, 8), 10, seed=5)


def test_a_run_of_an_earlier_version_goes_on_with_common_heads(parted: fedtl.Run) -> None:
    """Its config does not say so, as there was no other way."""
    file = parted.path / "config.toml"
    lines = file.read_text()
    assert tomllib.loads(lines)["strategy"]["private_start"] == "own"
    try:
        file.write_text(lines.replace('private_start = "own"\n', ""))
        assert load_tables(parted.path)["strategy"]["private_start"] == "common"
        assert fedtl.load(parted.path).config["strategy"]["private_start"] == "common"
    finally:
        file.write_text(lines)
