"""An exported model of a table finds its columns by name, and fills gaps and reads words as in training."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import fedtl
from fedtl.choice import ConfigError
from fedtl.cli.commands import app
from fedtl.config.read import build
from fedtl.data.columns import Column, Columns
from fedtl.data.federate import federate
from fedtl.data.samples import Samples
from fedtl.data.schema import DataSchema
from fedtl.export.file import Exported, write_safetensors
from fedtl.export.of_run import model_of_run
from fedtl.export.predict import open_model, predict, read_samples

HEADER = ["age", "smoker", "ward", "weight", "nr", "outcome"]


def rows(seed: int, n: int = 20) -> list[list[str]]:
    """Of one clinic; with gaps, yes and no, words, and a number that says nothing."""
    rng = np.random.default_rng(seed)
    return [
        [
            "" if rng.random() < 0.2 else str(rng.integers(30, 90)),
            "?" if rng.random() < 0.1 else str(rng.choice(["yes", "no"])),
            "NA" if rng.random() < 0.1 else "ABC"[rng.integers(3)],
            f"{rng.normal(70, 9):.3f}",
            str(i),
            "ill" if i % 3 else "well",
        ]
        for i in range(n)
    ]


def write(file: Path, lines: list[list[str]], columns: list[str] = HEADER) -> Path:
    """A table with some of the columns, in an order."""
    places = [HEADER.index(name) for name in columns]
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([columns, *([line[place] for place in places] for line in lines)])
    return file


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Exported]:
    """A folder with a run's tables and its model, the run's config, and the model."""
    folder = tmp_path_factory.mktemp("tables")
    (folder / "clinics").mkdir()
    for client in range(2):
        write(folder / "clinics" / f"{client}.csv", rows(client))
    config = {
        "name": "tables",
        "rounds": 2,
        "device": "cpu",
        "data": {
            "name": "files",
            "path": str(folder / "clinics"),
            "label": "outcome",
            "positive": ["ill"],
            "missing": "mean",
            "indicators": True,
            "categorical": ["ward"],
            "leave_out": ["nr"],
        },
        "model": {"name": "logistic"},
        "strategy": {"name": "fedavg", "lr": 0.5},
        "simulation": {"grid": "in-process"},
    }
    run = fedtl.run(config, out=folder / "run")
    exported = model_of_run(run.path)
    write_safetensors(exported, folder / "model.safetensors")
    return folder, config, exported


def test_columns_are_found_by_name(made: tuple[Path, Any, Exported], tmp_path: Path) -> None:
    folder, config, exported = made
    model, lines = open_model(folder / "model.safetensors"), rows(0)
    read = build(config)
    federation = federate(read.data, read.seed)
    assert model.frame.columns == federation.columns
    orders = [HEADER, HEADER[::-1], ["weight", "ward", "age", "smoker"]]
    said = [predict(model, read_samples(write(tmp_path / "new.csv", lines, order), model.frame)) for order in orders]
    for each in said[1:]:
        assert np.array_equal(each.probabilities, said[0].probabilities)  # type: ignore[union-attr]
    # They are the client's own samples, which stand in another order there.
    mine = np.concatenate([federation.train[0], federation.test[0]])
    x, _ = Samples(federation, torch.device("cpu")).batch(mine)
    with torch.no_grad():
        expected = exported.module(x).softmax(1).numpy()
    order, there = np.argsort(said[0].samples.x[:, -1]), np.argsort(federation.x[mine][:, -1])
    np.testing.assert_allclose(said[0].probabilities[order], expected[there], atol=1e-6)  # type: ignore[union-attr]
    notes = read_samples(write(tmp_path / "new.csv", lines), model.frame).notes
    assert any(note.endswith("the model does not take the columns nr, outcome") for note in notes)
    with_labels = read_samples(tmp_path / "new.csv", model.frame, "outcome")
    assert with_labels.y is not None
    assert with_labels.y.tolist() == [int(line[-1] == "ill") for line in lines]


def test_what_is_refused_is_one_sentence(made: tuple[Path, Any, Exported], tmp_path: Path) -> None:
    folder, _, exported = made
    lines = rows(0)

    def sentence(file: Path) -> str:
        done = CliRunner().invoke(app, ["predict", str(folder / "model.safetensors"), str(file)])
        assert isinstance(done.exception, ConfigError)
        return str(done.exception).removeprefix(f"{file}")

    file = tmp_path / "a.csv"
    less = sentence(write(file, lines, ["weight", "age"]))
    assert less == " has no column 'smoker', which the model takes, nor 'ward': known: age, weight"
    file.write_text(write(file, lines).read_text().replace("ward", "Ward"))
    assert sentence(file) == " has no column 'ward', which the model takes: did you mean 'Ward'?"
    strange = sentence(write(file, [[*line[:2], "a", *line[3:]] for line in lines]))
    assert strange == ": column 'ward': the model knows none of its words, as 'a'; it knows A, B, C"
    write(file, [[*lines[0][:2], "Z", *lines[0][3:]], *lines[1:]])
    (note,) = (note for note in read_samples(file, exported.frame).notes if "word" in note)
    assert note.endswith("column 'ward': 1 of 20 rows have a word that the model does not know, as 'Z'")
    as_numbers = [[line[0], {"yes": "2", "no": "1"}.get(line[1], ""), *line[2:]] for line in lines]
    kinds = ": the column 'smoker' holds numbers, and yes or no in training; write it as there"
    assert sentence(write(file, as_numbers)) == kinds
    kinds = ": the column 'weight' holds yes or no, and numbers in training; write it as there"
    assert sentence(write(file, [[*line[:3], "no", *line[4:]] for line in lines])) == kinds
    with pytest.raises(ConfigError, match=r"^--label = 'age': the model takes this column, and does not predict it$"):
        read_samples(write(file, lines), exported.frame, "age")
    one = np.ones(1, np.float32)
    whole = DataSchema((1,), "float32", 2, (), one, one, columns=Columns((Column("weight"),)))
    with pytest.raises(ConfigError, match=r"line 2, column 'weight': the cell holds no value, and there is none to"):
        read_samples(write(file, [["", "", "", "", "", ""]] * 2, ["weight", "nr"]), whole)


def test_a_column_called_label_may_be_learned_from(tmp_path: Path) -> None:
    one = np.ones(1, np.float32)
    frame = DataSchema((2,), "float32", 2, (), one, one, columns=Columns.of_numbers(["label", "b"]))
    (tmp_path / "a.csv").write_text("b,label\n1,2\n3,4\n")
    samples = read_samples(tmp_path / "a.csv", frame)
    assert samples.x.tolist() == [[2, 1], [4, 3]]
    assert samples.y is None


def test_a_model_that_does_not_know_its_columns_takes_them_as_they_stand(
    made: tuple[Path, Any, Exported], tmp_path: Path
) -> None:
    """As those that were exported before."""
    _, _, exported = made
    frame = json.loads(exported.frame.to_json())
    width = exported.frame.columns.width if exported.frame.columns else 0
    del frame["columns"]
    older = replace(exported, about=exported.about.model_copy(update={"frame": frame}))
    write_safetensors(older, tmp_path / "older.safetensors")
    model = open_model(tmp_path / "older.safetensors")
    (tmp_path / "a.csv").write_text("\n".join([",".join(f"c{i}" for i in range(width)), ",".join(["1"] * width)]))
    assert read_samples(tmp_path / "a.csv", model.frame).x.tolist() == [[1.0] * width]


def test_tables_of_scikit_learn_have_names(tmp_path: Path) -> None:
    for name in ("breast-cancer", "diabetes"):
        data = {"name": name, "clients": 2, "partition": "iid"}
        columns = federate(build(_config(data)).data, 0).columns
        assert columns is not None
        assert len(columns.names) == columns.width > 9


def _config(data: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "a",
        "rounds": 1,
        "data": data,
        "model": {"name": "logistic"},
        "strategy": {"name": "fedavg", "lr": 0.1},
    }


def test_a_client_that_sees_features_in_others_places_finds_them_by_name(tmp_path: Path) -> None:
    """Its own table, with the columns as they are called, and its samples as they were trained on, say the same."""
    data = {"name": "breast-cancer", "clients": 2, "task": "binary"}
    swapped = {"name": "swapped-features", "groups": 2, "share": 1.0}
    table = {**_config({**data, "partition": swapped}), "strategy": {"name": "ditto", "lr": 0.1}}
    table["simulation"] = {"grid": "in-process"}
    fedtl.run(table, out=tmp_path / "run")
    plain = federate(build(_config({**data, "partition": "iid"})).data, 0)
    assert plain.columns is not None
    seen = federate(build(table).data, 0)
    for client in range(2):
        rows = plain.test[client]
        assert (rows == seen.test[client]).all()
        assert (plain.x[rows] == seen.x[rows]).all() == (client == 0)
        with (tmp_path / f"{client}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([plain.columns.names, *plain.x[rows].tolist()])
        np.savez(tmp_path / f"{client}.npz", x=seen.x[rows])
        write_safetensors(model_of_run(tmp_path / "run", client), tmp_path / f"{client}.safetensors")
        model = open_model(tmp_path / f"{client}.safetensors")
        files = [tmp_path / f"{client}.{kind}" for kind in ("csv", "npz")]
        by_name, as_trained = (predict(model, read_samples(file, model.frame)) for file in files)
        np.testing.assert_allclose(by_name.probabilities, as_trained.probabilities, rtol=1e-6)


def test_numbers_of_one_column_need_not_stay_beside_each_other() -> None:
    columns = Columns((Column("a"), Column("b", words=("x", "y"))))
    assert columns.moved([1, 0, 2]) is None
    assert Columns.of_numbers(["a", "b", "c"]).moved([1, 0, 2]) == Columns.of_numbers(["b", "a", "c"])
