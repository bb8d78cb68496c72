from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

import fedtl
from fedtl.config.read import build
from fedtl.data.federate import federate
from fedtl.data.federation import Federation
from fedtl.export.predict import open_model, read_samples
from tests.cli.test_probe import Said

SHORT = ["rounds=2", "data.clients=5", "strategy.clients_per_round=5", "simulation.grid=in-process"]
VECTORS: dict[str, Any] = {
    "name": "vectors",
    "rounds": 2,
    "data": {"name": "synthetic", "clients": 4, "server_test_share": 0.2},
    "model": {"name": "logistic"},
    "strategy": {"name": "fedavg", "lr": 0.1, "local_steps": 5, "batch_size": 20},
    "simulation": {"grid": "in-process"},
}


@pytest.fixture
def fedtl_(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Said:
    monkeypatch.chdir(tmp_path)
    return Said(monkeypatch, capsys)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> fedtl.Run:
    return fedtl.run("quickstart", SHORT, out=tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> fedtl.Run:
    return fedtl.run(VECTORS, out=tmp_path_factory.mktemp("vectors") / "run")


def federation(run: fedtl.Run) -> Federation:
    config = build(dict(run.config))
    return federate(config.data, config.seed)


def rows(file: Path) -> list[list[str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.reader(opened))


def probabilities(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    """By the samples' names, without their folders."""
    return {name.rpartition("/")[2]: np.array(cells[1:], np.float64) for name, *cells in rows(file)[1:]}


def check_alike(one: dict[str, np.ndarray[Any, Any]], other: dict[str, np.ndarray[Any, Any]]) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_allclose(values, other[name], atol=1e-6)


def percent(output: str) -> float:
    match = re.search(r"samples?, accuracy ([0-9.]+) %", output)
    assert match, output
    return float(match[1])


def test_export_then_predict_gives_the_recorded_accuracy(fedtl_: Said, finished: fedtl.Run, tmp_path: Path) -> None:
    output = fedtl_("export", finished.path)
    assert output == (
        "quickstart, pfedme, round 2: global model, mlp, uint8 1 x 8 x 8 to 10 classes\nmodel.safetensors\n"
    )
    data = federation(finished)
    test = data.server_test
    np.savez(tmp_path / "test.npz", x=data.x[test], y=data.y[test])
    output = fedtl_("predict", "model.safetensors", "test.npz")
    assert percent(output) == round(100 * finished.last()["global/server-test"].value, 2)
    assert output.endswith("predictions.csv\n")

    header, *lines = rows(tmp_path / "predictions.csv")
    assert header == ["sample", "label", *(f"p({label})" for label in range(10))]
    assert [line[0] for line in lines] == [str(i) for i in range(len(test))]
    p = np.array([line[2:] for line in lines], np.float64)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    predictions = [int(line[1]) for line in lines]
    assert predictions == p.argmax(1).tolist()
    assert np.mean(predictions == data.y[test]) == finished.last()["global/server-test"].value
    for label in set(predictions):
        count = predictions.count(label)
        assert re.search(rf"^{label} +{count} +{100 * count / len(predictions):.2f}$", output, re.MULTILINE)

    # A logit is known up to a number that all classes of a sample share, from the model's own tensors.
    tensors = load_file(finished.path / "model.safetensors")
    x = (data.x[test] * data.scale + data.shift).reshape(len(test), -1)
    names = [name.rpartition(".")[0] for name in tensors if name.endswith("weight")]
    names.sort(key=lambda name: name == "head")
    for name in names:
        x = np.maximum(x, 0) if name == "head" else x
        x = x @ tensors[f"{name}.weight"].numpy().T + tensors[f"{name}.bias"].numpy()
    odds = np.log(p) - np.log(p[:, :1])
    np.testing.assert_allclose(odds, x - x[:, :1], atol=1e-3)


def test_without_labels_nothing_is_scored(fedtl_: Said, finished: fedtl.Run, tmp_path: Path) -> None:
    fedtl_("export", finished.path, "-o", "some/where/m.safetensors")
    np.savez(tmp_path / "x.npz", x=federation(finished).x[:7, 0])  # [n, height, width] has one channel
    output = fedtl_("predict", "some/where/m.safetensors", "x.npz", "-o", "p.csv")
    assert output.endswith("\n7 samples\np.csv\n")
    assert len(rows(tmp_path / "p.csv")) == 8


@pytest.mark.parametrize("client", [0, 3])
def test_a_clients_own_model(fedtl_: Said, finished: fedtl.Run, tmp_path: Path, client: int) -> None:
    output = fedtl_("export", finished.path, "--client", client, "-o", "own.safetensors")
    assert output.startswith(f"quickstart, pfedme, round 2: client {client}'s personalised model (adapted), mlp")
    data = federation(finished)
    np.savez(tmp_path / "own.npz", x=data.x[data.test[client]], y=data.y[data.test[client]])
    score = finished.client_scores()["personal/clients"][client]
    assert percent(fedtl_("predict", "own.safetensors", "own.npz")) == round(100 * score, 2)
    output = fedtl_("export", finished.path, "--client", client, "--personal", "stored", "-o", "own.safetensors")
    assert f"client {client}'s personalised model (stored), mlp" in output


def test_onnx_says_the_same(fedtl_: Said, finished: fedtl.Run, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    about = fedtl_("export", finished.path).splitlines()[0]
    assert fedtl_("export", finished.path, "--onnx") == f"{about}\nmodel.onnx\n"
    assert fedtl_("export", finished.path, "-o", "by-suffix.onnx") == f"{about}\nby-suffix.onnx\n"
    data = federation(finished)
    np.savez(tmp_path / "all.npz", x=data.x, y=data.y)  # more than one block of them
    assert len(data.x) > 1000
    one, *others = (fedtl_("predict", f"{m}", "all.npz", "-o", f"{m}.csv") for m in ("model.safetensors", "model.onnx"))
    assert one.replace(".safetensors.csv", "") == others[0].replace(".onnx.csv", "")
    torchs, onnxs = (rows(tmp_path / f"model.{kind}.csv") for kind in ("safetensors", "onnx"))
    np.testing.assert_allclose(np.array(torchs[1:], np.float64), np.array(onnxs[1:], np.float64), atol=1e-5)


def test_images(fedtl_: Said, finished: fedtl.Run, tmp_path: Path) -> None:
    fedtl_("export", finished.path)
    data = federation(finished)
    few = data.server_test[:30]
    np.savez(tmp_path / "few.npz", x=data.x[few], y=data.y[few])
    expected = fedtl_("predict", "model.safetensors", "few.npz", "-o", "expected.csv")
    for place, row in enumerate(few):
        folder = tmp_path / "images" / str(data.y[row])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.x[row, 0]).save(folder / f"{place:02}.png")
    output = fedtl_("predict", "model.safetensors", "images", "-o", "found.csv")
    assert output.replace("found.csv", "") == expected.replace("expected.csv", "")
    predictions = probabilities(tmp_path / "found.csv")
    check_alike(predictions, {f"{int(i):02}.png": p for i, p in probabilities(tmp_path / "expected.csv").items()})
    assert {row[0] for row in rows(tmp_path / "found.csv")[1:]} == {
        f"{data.y[row]}/{place:02}.png" for place, row in enumerate(few)
    }

    flat = tmp_path / "flat"
    flat.mkdir()
    for file in (tmp_path / "images").glob("*/*.png"):
        shutil.copy(file, flat)
    assert fedtl_("predict", "model.safetensors", "flat").endswith("\n30 samples\npredictions.csv\n")
    check_alike(probabilities(tmp_path / "predictions.csv"), predictions)
    (flat / "00.heic").write_text("")
    (note,) = read_samples(str(flat), open_model("model.safetensors").frame, None, False).notes
    assert note.startswith(f"{flat}: 00.heic is not read: images are")
    (flat / "00.heic").unlink()
    shutil.copy(flat / "00.png", tmp_path / "images")
    assert "holds images itself and in folders of classes" in fedtl_("predict", "model.safetensors", "images", code=2)

    one = next(flat.iterdir())
    assert fedtl_("predict", "model.safetensors", one).endswith("\n1 sample\npredictions.csv\n")
    check_alike(probabilities(tmp_path / "predictions.csv"), {one.name: predictions[one.name]})

    grey = np.asarray(Image.open(one))
    Image.fromarray(np.stack([grey.repeat(2, 0).repeat(2, 1)] * 3, -1)).save(tmp_path / "large.png")
    error = fedtl_("predict", "model.safetensors", "large.png", code=2)
    assert error.endswith(
        "large.png: the image has [channels, height, width] = [3, 16, 16], but the model takes [1, 8, 8]; --resize "
        "makes them alike\n"
    )
    fedtl_("predict", "model.safetensors", "large.png", "--resize")
    (resized,) = probabilities(tmp_path / "predictions.csv").values()
    # Pillow's own filter, on grey values of its own making.
    small = Image.open(tmp_path / "large.png").convert("L").resize((8, 8), Image.Resampling.BILINEAR)
    np.savez(tmp_path / "small.npz", x=np.asarray(small)[None])
    fedtl_("predict", "model.safetensors", "small.npz")
    (pillows,) = probabilities(tmp_path / "predictions.csv").values()
    np.testing.assert_allclose(resized, pillows, atol=0.01)
    assert np.abs(resized - 0.1).max() > 0.05


def write_csv(file: Path, x: np.ndarray[Any, Any], label: str | None, y: np.ndarray[Any, Any]) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        out = csv.writer(opened)
        out.writerow([*(f"f{i}" for i in range(x.shape[1])), *([label] if label else [])])
        out.writerows([*map(repr, map(float, row)), *([k] if label else [])] for row, k in zip(x, y))


def test_tables(fedtl_: Said, vectors: fedtl.Run, tmp_path: Path) -> None:
    fedtl_("export", vectors.path)
    data = federation(vectors)
    test = data.server_test
    for label in (None, "label", "kind"):
        write_csv(tmp_path / f"{label}.csv", data.x[test], label, data.y[test])
    expected = round(100 * vectors.last()["global/server-test"].value, 2)
    assert percent(fedtl_("predict", "model.safetensors", "label.csv")) == expected
    assert percent(fedtl_("predict", "model.safetensors", "kind.csv", "--label", "kind")) == expected
    labelled = (tmp_path / "predictions.csv").read_text()
    assert "accuracy" not in fedtl_("predict", "model.safetensors", "None.csv")
    assert (tmp_path / "predictions.csv").read_text() == labelled
    error = fedtl_("predict", "model.safetensors", "kind.csv", code=2)
    assert "kind.csv: a sample is float32 [61], but float32 [60] in this experiment" in error
    assert "None.csv has no column 'kind'" in fedtl_(
        "predict", "model.safetensors", "None.csv", "--label", "kind", code=2
    )


def test_data_that_the_model_does_not_take(fedtl_: Said, finished: fedtl.Run, tmp_path: Path) -> None:
    fedtl_("export", finished.path)

    def error(*words: object) -> str:
        return fedtl_("predict", "model.safetensors", *words, code=2)

    x = federation(finished).x[:3]
    np.savez(tmp_path / "shape.npz", x=np.zeros((3, 1, 9, 9), np.uint8))
    assert "shape.npz: a sample is uint8 [1, 9, 9], but uint8 [1, 8, 8] in this experiment" in error("shape.npz")
    np.savez(tmp_path / "dtype.npz", x=x.astype(np.float32))
    assert "dtype.npz: a sample is float32 [1, 8, 8], but uint8 [1, 8, 8] in this experiment" in error("dtype.npz")
    np.savez(tmp_path / "label.npz", x=x, y=np.array([0, 1, 10]))
    assert "has the label 10, but this experiment has 10 classes" in error("label.npz")
    np.savez(tmp_path / "pickled.npz", x=np.array([{}], object))
    assert "never unpickled" in error("pickled.npz")
    np.savez(tmp_path / "none.npz", z=x)
    assert "none.npz has no array 'x'" in error("none.npz")
    (tmp_path / "broken.npz").write_bytes(b"broken")
    assert "is not an .npz file that NumPy can read" in error("broken.npz")
    (tmp_path / "notes.txt").write_text("text")
    assert (
        error("notes.txt")
        == "fedtl: notes.txt: give an .npz file, a .csv or .parquet file, an image, or a folder of images\n"
    )
    (tmp_path / "empty").mkdir()
    assert "empty holds no images, neither itself nor in a folder for each class" in error("empty")
    for name in ("nothing.npz", "nothing.png", "nothing"):
        assert error(name) == f"fedtl: {name}: there is no such file or folder\n"
    assert "--label = 'kind': only tables have columns" in error("shape.npz", "--label", "kind")
    assert "--resize: only image files are resized" in error("shape.npz", "--resize")
    assert not (tmp_path / "predictions.csv").exists()


def test_models_that_are_none(fedtl_: Said, finished: fedtl.Run, tmp_path: Path) -> None:
    plain = finished.path / "model.safetensors"
    assert f"{plain} is no exported model" in fedtl_("predict", plain, "x.npz", code=2)
    assert "fedtl export makes one" in fedtl_("predict", plain, "x.npz", code=2)
    assert "there is no such file; fedtl export RUN -o m.safetensors" in fedtl_(
        "predict", "m.safetensors", "x.npz", code=2
    )
    (tmp_path / "m.pt").write_bytes(b"")
    assert "give a model that fedtl export wrote" in fedtl_("predict", "m.pt", "x.npz", code=2)


def test_an_onnx_file_that_is_none(fedtl_: Said, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    (tmp_path / "m.onnx").write_bytes(b"nonsense")
    assert "m.onnx cannot be read as ONNX" in fedtl_("predict", "m.onnx", "x.npz", code=2)
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    ends = value("x", 1, [1]), value("y", 1, [1])
    graph = onnx.helper.make_graph([node], "g", [ends[0]], [ends[1]])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8), "m.onnx")
    assert "m.onnx is no exported model" in fedtl_("predict", "m.onnx", "x.npz", code=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-o", "m.pt"), "--output = 'm.pt': give a name that ends in .safetensors or .onnx"),
        (
            ("--onnx", "-o", "m.safetensors"),
            "--output = 'm.safetensors': with --onnx its name ends in .onnx; leave one of them out",
        ),
        (("--personal", "stored"), "--personal = 'stored': it is about a client's own model; add --client"),
        (("--client", 0, "--personal", "lst"), "evaluate.personal = 'lst': should be 'adapted' or 'stored'"),
    ],
)
def test_wrong_arguments(fedtl_: Said, finished: fedtl.Run, words: tuple[object, ...], message: str) -> None:
    assert fedtl_("export", finished.path, *words, code=2) == f"fedtl: {message}\n"


def test_a_run_keeps_its_own_file(
    fedtl_: Said, finished: fedtl.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished.path)
    before = Path("model.safetensors").read_bytes()
    assert "is the run's own file; choose another name" in fedtl_("export", ".", code=2)
    assert Path("model.safetensors").read_bytes() == before
    assert "is not a run's folder" in fedtl_("export", tmp_path, code=2)


def test_help_imports_neither_torch_nor_flower(tmp_path: Path) -> None:
    script = (
        "import sys; from fedtl import cli\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "print('imported', {'torch', 'flwr', 'sklearn', 'onnx'} & sys.modules.keys())"
    )
    for command in ("export", "predict"):
        done = subprocess.run(
            [sys.executable, "-c", script, command, "--help"],
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "80"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.endswith("imported set()\n")
