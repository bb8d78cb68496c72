"""Models that look their input up by number: tried on the data's own samples, and told where they would see others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedtl
from fedtl.choice import ConfigError
from fedtl.data.schema import DataSchema
from fedtl.export.file import load_exported, write_safetensors
from fedtl.export.of_run import model_of_run

TAKES = ["Words", "Bag", "OneHot", "Packed"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    x, y = rng.integers(1, 18, (90, 6)), rng.integers(0, 3, 90)
    x[rng.random((90, 6)) < 0.2] = 0
    x[:, 0] = 3 + y
    x[-1, 1] = 19
    folder = tmp_path_factory.mktemp("texts")
    for name, array in (("int64", x), ("uint8", x.astype(np.uint8)), ("unlike", np.where(x == 19, 25, x))):
        np.savez(folder / f"{name}.npz", x=array, y=y, user=np.arange(90) % 3)
    return folder


def config_of(file: Path, model: str, normalise: str = "none") -> dict[str, Any]:
    return {
        "name": "words",
        "rounds": 1,
        "data": {"name": "npz", "path": str(file), "normalise": normalise},
        "model": {"name": f"tests.odd_models:{model}"},
        "strategy": {"name": "fedavg", "lr": 0.1, "local_steps": 2, "batch_size": 10},
        "simulation": {"grid": "in-process"},
    }


@pytest.mark.parametrize("model", TAKES)
def test_they_train_and_are_exported(model: str, texts: Path, tmp_path: Path) -> None:
    run = fedtl.run(config_of(texts / "int64.npz", model), out=tmp_path / "run")
    assert [json.loads(line)["failures"] for line in (tmp_path / "run/rounds.jsonl").open()] == [[]]
    assert run.last()["global/clients"].value > 0
    exported = model_of_run(tmp_path / "run")
    write_safetensors(exported, tmp_path / "m.safetensors")
    module, frame, _ = load_exported(tmp_path / "m.safetensors")
    x = torch.from_numpy(np.load(texts / "int64.npz")["x"][:5].astype(np.float32))
    with torch.no_grad():
        torch.testing.assert_close(module(x), exported.module(x))
    assert frame.shape == (6,)


@pytest.mark.parametrize("model", ["Bag", "OneHot", "Rounded"])
@pytest.mark.parametrize(("data", "normalise"), [("int64", "dataset"), ("int64", "pixel"), ("uint8", "none")])
def test_numbers_that_are_no_longer_whole_are_refused(model: str, data: str, normalise: str, texts: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        fedtl.run(config_of(texts / f"{data}.npz", model, normalise), out=texts / "refused")
    assert "x = x.long()" in str(refused.value)
    assert "data.normalise = 'none'" in str(refused.value)
    assert ("int64" in str(refused.value)) == (data == "uint8")


@pytest.mark.parametrize("normalise", ["none", "dataset"])
def test_a_model_that_forgets_to_make_them_whole_is_told(normalise: str, texts: Path) -> None:
    with pytest.raises(ConfigError, match=r"takes whole numbers.*x = x\.long\(\).*data\.normalise = 'none'"):
        fedtl.run(config_of(texts / "int64.npz", "FloatBag", normalise), out=texts / "refused")


def test_a_number_that_it_has_no_row_for_is_found_before_the_first_round(texts: Path) -> None:
    with pytest.raises(ConfigError, match="which go from 0 to 25: IndexError"):
        fedtl.run(config_of(texts / "unlike.npz", "Bag"), out=texts / "refused")


def test_an_embedding_of_something_else_may_have_normalised_samples(texts: Path, tmp_path: Path) -> None:
    fedtl.run(config_of(texts / "int64.npz", "Positions", "dataset"), out=tmp_path / "run")


@pytest.mark.parametrize("model", ["Words", "Bag"])
def test_they_become_onnx_with_samples_at_hand_and_without(model: str, texts: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from fedtl.export.file import Exported, write_onnx

    fedtl.run(config_of(texts / "int64.npz", model), out=tmp_path / "run")
    exported = model_of_run(tmp_path / "run")
    for few in (exported.few, None):
        write_onnx(Exported(exported.module, exported.frame, exported.about, few), tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").is_file()


def test_a_machine_without_samples_builds_them_too(texts: Path) -> None:
    from fedtl.assemble.parts import make_tasks
    from fedtl.config.read import build
    from fedtl.data.federate import federate

    for model in TAKES:
        config = build(config_of(texts / "int64.npz", model))
        bare = DataSchema.of(federate(config.data, 0)).without_samples(3)
        make_tasks(config, bare)
