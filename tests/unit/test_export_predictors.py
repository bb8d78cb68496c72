"""A client's own predictor as a file: it answers as it was scored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedtl
from fedtl.choice import ConfigError
from fedtl.config.read import build
from fedtl.data.federate import federate
from fedtl.export.file import load_exported, write_onnx, write_safetensors
from fedtl.export.of_run import model_of_run
from fedtl.models.composite import Composite

GATE = {"term": "tests.unit.test_own_predictors:Gate", "name": "gate"}
CASES: dict[str, dict[str, Any]] = {
    "fedcp": {"strategy": {"name": "fedcp"}},
    "gpfl": {"strategy": {"name": "gpfl"}},
    "a term's": {"strategy": {"name": "fedavg"}, "objective": [{"term": "cross_entropy"}, GATE]},
}


def tables(case: str) -> dict[str, Any]:
    config: dict[str, Any] = {
        "name": "exported",
        "rounds": 2,
        "device": "cpu",
        "data": {"name": "digits", "clients": 3, "partition": {"name": "dirichlet", "alpha": 0.5, "min_size": 40}},
        "model": {"name": "mlp", "hidden": [16]},
        "simulation": {"grid": "in-process"},
        **CASES[case],
    }
    config["strategy"] = {"lr": 0.1, "batch_size": 20, **config["strategy"]}
    return config


@pytest.fixture(scope="module")
def of_fedcp(tmp_path_factory: pytest.TempPathFactory) -> fedtl.Run:
    return fedtl.run(tables("fedcp"), out=tmp_path_factory.mktemp("fedcp") / "run")


@pytest.mark.parametrize("case", CASES)
def test_a_clients_own_predictor_answers_as_it_was_scored(case: str, of_fedcp: fedtl.Run, tmp_path: Path) -> None:
    run = of_fedcp if case == "fedcp" else fedtl.run(tables(case), out=tmp_path / "run")
    config = build(dict(run.config))
    federation = federate(config.data, config.seed)
    scored = run.client_table("numpy")["personal/clients/accuracy"]
    for client in range(3):
        exported = model_of_run(run.path, client)
        write_safetensors(exported, tmp_path / f"{client}.safetensors")
        module, frame, about = load_exported(tmp_path / f"{client}.safetensors")
        assert (about.client, about.which) == (client, "personalised")
        test = federation.test[client]
        x = torch.from_numpy(federation.x[test] * frame.scale + frame.shift).float()
        with torch.no_grad():
            logits = module(x)
            assert torch.equal(logits, exported.module(x))
            assert isinstance(module, Composite)
            assert not torch.equal(logits, module.model(x))
        right = (logits.argmax(1).numpy() == federation.y[test]).mean()
        assert right == pytest.approx(scored[client], abs=1e-6)


def test_as_onnx_too(of_fedcp: fedtl.Run, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    import onnxruntime

    exported = model_of_run(of_fedcp.path, 1)
    write_onnx(exported, tmp_path / "1.onnx")  # which compares the file's logits with the module's
    session = onnxruntime.InferenceSession(str(tmp_path / "1.onnx"), providers=["CPUExecutionProvider"])
    x = np.zeros((5, *exported.frame.shape), exported.frame.dtype)
    assert session.run(None, {"x": x})[0].shape == (5, 10)


def test_a_file_whose_term_is_not_there(of_fedcp: fedtl.Run, tmp_path: Path) -> None:
    exported = model_of_run(of_fedcp.path, 0)
    table = {**(exported.about.predictor or {}), "class": "fedtl.clients.fedcp:Nothing"}
    exported = replace(exported, about=exported.about.model_copy(update={"predictor": table}))
    write_safetensors(exported, tmp_path / "0.safetensors")
    with pytest.raises(ConfigError, match=r"0\.safetensors: predictor = .*has no 'Nothing'"):
        load_exported(tmp_path / "0.safetensors")
