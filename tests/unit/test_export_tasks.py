"""Exported models of other tasks than classification: their predictions in their own units, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import fedtl
from fedtl.choice import ConfigError
from fedtl.cli.commands import app
from fedtl.config.read import build
from fedtl.data.export import export
from fedtl.data.federate import federate
from fedtl.data.samples import Samples
from fedtl.data.schema import DataSchema
from fedtl.export.file import write_safetensors
from fedtl.export.of_run import model_of_run
from fedtl.export.predict import Numbers, Predictions, open_model, predict, read_samples
from fedtl.export.probe import probe
from fedtl.tasks import read_task
from tests.unit.test_tasks import tables

COLUMNS = {
    "regression": ["prediction"],
    "multilabel": [f"p({label})" for label in range(5)],
    "survival": ["log-risk"],
    "binary": ["label", "p(0)", "p(1)"],
}
"""What predictions.csv has beside the sample's name; of samples made by a stated law."""


def run_of(task: str, folder: Path) -> tuple[fedtl.Run, Path]:
    """A short run of a task, and its model as a file."""
    run = fedtl.run(tables(task, rounds=2), out=folder / "run")
    write_safetensors(model_of_run(run.path), folder / "model.safetensors")
    return run, folder / "model.safetensors"


@pytest.mark.parametrize("task", COLUMNS)
def test_predictions_are_in_their_own_units(task: str, tmp_path: Path) -> None:
    run, file = run_of(task, tmp_path)
    config = build(tables(task, rounds=2))
    federation = federate(config.data, config.seed)
    export(federation, tmp_path / "held")
    model = open_model(file)
    samples = read_samples(tmp_path / "held" / "0" / "test.npz", model.frame)
    said = predict(model, samples)
    x, _ = Samples(federation, torch.device("cpu")).batch(federation.test[0])
    with torch.no_grad():
        outputs = fedtl.load_model(run)(x).double()
    expected = outputs.numpy()
    if federation.outcomes is not None and federation.outcomes.mean is not None:
        assert federation.outcomes.std is not None
        expected = expected * federation.outcomes.std + federation.outcomes.mean
    elif task == "multilabel":
        expected = 1 / (1 + np.exp(-expected))
    elif task == "binary":
        yes = 1 / (1 + np.exp(-expected))
        expected = np.concatenate([1 - yes, yes], 1)
    name = config.data.task.metrics[0]
    recorded = run.client_scores(name)["global/clients"][0]
    if isinstance(said, Predictions):
        np.testing.assert_allclose(said.probabilities, expected, atol=1e-6)
        assert said.accuracy == pytest.approx(run.client_scores("accuracy")["global/clients"][0])
    else:
        np.testing.assert_allclose(said.values, expected, rtol=1e-5, atol=1e-6)
        assert said.scores[name] == pytest.approx(recorded, rel=1e-5, nan_ok=True)
    said.write(tmp_path / "said.csv")
    with (tmp_path / "said.csv").open() as opened:
        rows = list(csv.reader(opened))
    assert rows[0] == ["sample", *COLUMNS[task]]
    assert [float(cell) for cell in rows[1][-expected.shape[1] :]] == pytest.approx(expected[0].tolist(), rel=1e-4)


def test_predictions_of_a_table(tmp_path: Path) -> None:
    """Its columns are found by the names that they had in training."""
    rng = np.random.default_rng(0)
    lines = ["age,days,cost", *(f"{age},{2 * age},{age / 4}" for age in rng.integers(20, 80, 30))]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    data = {"name": "files", "path": str(tmp_path / "a.csv"), "label": ["cost", "days"], "clients": 2}
    config = tables("regression", rounds=1, data={**data, "partition": "iid", "sizes": None, "dimension": None})
    config["data"] = {key: value for key, value in config["data"].items() if value is not None}
    run = fedtl.run(config, out=tmp_path / "run")
    write_safetensors(model_of_run(run.path), tmp_path / "model.safetensors")
    frame = open_model(tmp_path / "model.safetensors").frame
    samples = read_samples(tmp_path / "a.csv", frame)
    assert samples.y is not None
    assert samples.y.shape == (30, 2)
    assert np.array_equal(samples.y[:, 1], 2 * samples.x[:, 0])
    (tmp_path / "new.csv").write_text("age\n30\n40\n")
    out = tmp_path / "said.csv"
    done = CliRunner().invoke(
        app, ["predict", str(tmp_path / "model.safetensors"), str(tmp_path / "new.csv"), "-o", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert out.read_text().splitlines()[0] == "sample,cost,days"
    assert len(out.read_text().splitlines()) == 3
    said = predict(open_model(tmp_path / "model.safetensors"), samples)
    assert isinstance(said, Numbers)
    assert {*said.scores} == {"rmse", "mae", "r2"}


def test_what_is_refused(tmp_path: Path) -> None:
    run, file = run_of("next_token", tmp_path)
    config = build(tables("next_token", rounds=2))
    export(federate(config.data, config.seed), tmp_path / "held")
    model = open_model(file)
    assert str(model.about).endswith(f"to {model.frame.outputs} outputs (next_token)")
    samples = read_samples(tmp_path / "held" / "0" / "test.npz", model.frame)
    with pytest.raises(ConfigError, match=r"^a model of data\.task = 'next_token' says something of each token of a"):
        predict(model, samples)
    with pytest.raises(ConfigError, match=r"data\.task is 'next_token', and a probe says classes, which these samples"):
        probe(run, [1.0])
    distilled = CliRunner().invoke(app, ["distill", str(run.path), "--student", "logistic", "--method", "data"])
    assert "and only a model of classes can be distilled" in str(distilled.exception)


@pytest.mark.parametrize("task", ["regression", "binary"])
def test_replay_is_of_classes(task: str) -> None:
    with pytest.raises(ConfigError, match=r"the term 'replay' is defined for classification, and data\.task is"):
        build(tables(task, replay={}, objective=[{"term": "replay"}]))


@pytest.mark.parametrize(
    ("names", "words", "classes"),
    [
        (("1", "0"), "0 1 0", [1, 0, 1]),
        (("0", "1, 2"), "2 1 0", [1, 1, 0]),
        (("well", "ill, worse"), "ill well worse", [1, 0, 1]),
        (("no", "yes"), "0 1 0", [0, 1, 0]),
        (("0", "1"), "0 1 0", [0, 1, 0]),
    ],
)
def test_a_tables_labels_are_the_words_that_classes_are_called_by(
    names: tuple[str, ...], words: str, classes: list[int], tmp_path: Path
) -> None:
    """With data.positive = ["0"] class 1 is called "0", and a file's 0 was scored as class 0."""
    one, nothing = np.ones(1, np.float32), np.zeros(1, np.float32)
    frame = DataSchema((1,), "float32", 2, names, one, nothing, read_task("binary"))
    file = tmp_path / "a.csv"
    file.write_text("a,label\n" + "\n".join(f"{i},{word}" for i, word in enumerate(words.split())))
    y = read_samples(file, frame).y
    assert y is not None
    assert y.tolist() == classes
