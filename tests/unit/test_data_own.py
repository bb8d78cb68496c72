"""A participant's own data: each kind of file against arrays written by other means, and each error's sentence."""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fedtl.choice import ConfigError
from fedtl.data import read_data
from fedtl.data.dataset import channel_statistics
from fedtl.data.federate import federate
from fedtl.data.own.read import Own, read_own
from fedtl.data.own.rules import TableRules
from fedtl.data.own.statistics import normaliser, statistics
from fedtl.data.schema import DataSchema
from fedtl.data.views.normalise import needs_statistics
from fedtl.failure import RunError
from fedtl.tasks import read_task

X = np.arange(6 * 5 * 4, dtype=np.uint8).reshape(6, 5, 4)
Y = np.array([0, 2, 1, 0, 2, 2])


def frame_of(shape: Sequence[int], dtype: Any = "uint8", classes: int = 3, labels: Sequence[str] = ()) -> DataSchema:
    one = np.ones((), np.float32)
    return DataSchema(tuple(shape), dtype, classes, tuple(labels), one, 0 * one)


def save(file: Path, **arrays: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **arrays)
    return file


def write_rows(file: Path, rows: Sequence[Sequence[Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows(rows)
    return file


def draw(file: Path, pixels: Any, mode: str | None = None, **options: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(pixels))
    (image.convert(mode) if mode else image).save(file, **options)
    return file


def sentence(path: Path | str, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        read_own(str(path), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def refused(own: Own, frame: DataSchema) -> str:
    with pytest.raises(ConfigError) as caught:
        own.as_federation(frame, 0, 1)
    return str(caught.value)


# --- .npz ---


def test_bytes_are_images_with_one_channel(tmp_path: Path) -> None:
    save(tmp_path / "train.npz", x=X, y=Y.astype(np.uint8))
    save(tmp_path / "test.npz", x=X[:2], y=Y[:2])
    own = read_own(str(tmp_path))
    assert own.x.dtype == np.uint8
    assert np.array_equal(own.x[own.train][:, 0], X)
    assert np.array_equal(own.x[own.test][:, 0], X[:2])
    assert own.y[own.train].tolist() == Y.tolist()
    assert own.y.dtype == np.int64
    assert [len(part) for part in (own.target_train, own.target_test, own.public)] == [0, 0, 0]
    assert own.describe() == {
        "train": 6,
        "unlabelled": 0,
        "test": 2,
        "validation": 0,
        "target_test": 0,
        "public": 0,
        "shape": [1, 5, 4],
        "dtype": "uint8",
        "largest_label": 2,
        "labels": [0, 1, 2],
        "names": None,
    }


def test_other_numbers_become_float32(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(4, 3))
    save(tmp_path / "train.npz", x=x, y=[0, 1, 0, 1])
    save(tmp_path / "public.npz", x=np.arange(6).reshape(2, 3))
    own = read_own(str(tmp_path))
    assert own.x.dtype == np.float32
    assert np.array_equal(own.x[own.train], x.astype(np.float32))
    assert own.x[own.public].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert len(own.test) == 0  # takes part, and is not scored


def test_a_client_without_tests_is_not_scored(tmp_path: Path) -> None:
    save(tmp_path / "train.npz", x=X, y=Y)
    federation = read_own(str(tmp_path)).as_federation(frame_of((1, 5, 4)), 2, 5)
    assert federation.train.sizes.tolist() == [0, 0, 6, 0, 0]
    assert federation.test.sizes.tolist() == [0] * 5
    assert federation.target is None


def test_all_parts_of_a_folder(tmp_path: Path) -> None:
    names = ("train", "test", "target/train", "target/test", "public")
    for i, name in enumerate(names):
        save(tmp_path / f"{name}.npz", x=X[: i + 1] + i, y=Y[: i + 1])
    own = read_own(str(tmp_path))
    description = own.describe()
    assert [description[key] for key in ("train", "test", "unlabelled", "target_test", "public")] == [1, 2, 3, 4, 5]
    federation = own.as_federation(frame_of((1, 5, 4)), 1, 2)
    assert federation.target is not None
    parts = (
        federation.train[1],
        federation.test[1],
        federation.target.train[1],
        federation.target.test[1],
        federation.public,
    )
    for i, part in enumerate(parts):
        assert np.array_equal(federation.x[part][:, 0], X[: i + 1] + i)
    for part in (parts[0], parts[1], parts[3]):
        assert federation.y[part].tolist() == Y[: len(part)].tolist()
    for part in (parts[2], parts[4]):
        assert (federation.y[part] == 0).all()  # labels that stand there are not read


def test_training_samples_without_a_label_are_the_unlabelled_ones(tmp_path: Path) -> None:
    save(tmp_path / "train.npz", x=X, y=[-1, 2, -1, 0, 1, -1])
    own = read_own(str(tmp_path))
    assert (own.describe()["train"], own.describe()["unlabelled"]) == (3, 6)
    federation = own.as_federation(frame_of((1, 5, 4)), 0, 2)
    assert federation.target is not None
    assert federation.train[0].tolist() == [1, 3, 4]
    assert federation.y[federation.train[0]].tolist() == [2, 0, 1]
    assert federation.target.train[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert len(federation.target.test.order) == 0
    assert federation.y.min() == 0


def test_words_are_the_experiments_classes(tmp_path: Path) -> None:
    save(tmp_path / "train.npz", x=X, y=["ox", "cat", "-1", "cat", "ox", "ox"])
    save(tmp_path / "test.npz", x=X[:2], y=["dog", "cat"])
    own = read_own(str(tmp_path))
    assert own.names == ("cat", "dog", "ox")
    assert own.describe()["names"] == ["cat", "dog", "ox"]
    assert own.describe()["largest_label"] is None
    federation = own.as_federation(frame_of((1, 5, 4), classes=4, labels=("ox", "emu", "dog", "cat")), 0, 1)
    assert federation.y[federation.train[0]].tolist() == [0, 3, 3, 0, 0]
    assert federation.y[federation.test[0]].tolist() == [2, 3]
    assert refused(own, frame_of((1, 5, 4), labels=("ox", "dog", "emu"))) == (
        f"{tmp_path} has the label 'cat', which is none of this experiment's: ox, dog, emu"
    )
    assert refused(own, frame_of((1, 5, 4))) == (
        f"{tmp_path} has the label 'cat', but this experiment's classes have no names; labels are whole numbers from 0"
    )


def test_words_that_are_whole_numbers(tmp_path: Path) -> None:
    save(tmp_path / "train.npz", x=X, y=Y.astype(str))
    federation = read_own(str(tmp_path)).as_federation(frame_of((1, 5, 4)), 0, 1)
    assert federation.y.tolist() == Y.tolist()
    named = read_own(str(tmp_path)).as_federation(frame_of((1, 5, 4), labels="210"), 0, 1)
    assert named.y.tolist() == (2 - Y).tolist()  # by their names


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X, "y": Y[:5]}, ": y has shape [5]; the 6 samples of its x need [6]"),
        ({"x": X[:0], "y": Y[:0]}, ": x is empty, shape [0, 5, 4]; leave out what holds no sample"),
        (
            {"x": X.astype(object), "y": Y},
            ": x cannot be read as numbers; an array of Python objects is never unpickled",
        ),
        (
            {"x": X, "y": Y.astype(object)},
            ": y cannot be read as numbers; an array of Python objects is never unpickled",
        ),
        ({"x": X.astype(str), "y": Y}, ": x holds <U3; samples are numbers, as uint8 or float32"),
        ({"x": X, "y": Y - 2}, ": y has the label -2; labels begin at 0, and -1 is a training sample that has none"),
        ({"x": X, "y": Y + 2**40}, ": y has the label 1099511627778; labels are 0, 1, 2, ..., and 100,000 classes are"),
        ({"x": X, "y": Y / 2}, ": y holds float64, as 0.5; labels are whole numbers from 0, or words"),
        ({"x": X, "y": Y[None]}, ": y has shape [1, 6]; the 6 samples of its x need [6]"),
        ({"x": Y.astype(np.float32), "y": Y}, ": x has shape [6]; samples need [n, ...], with one axis or more each"),
        (
            {"x": np.where(X == 50, np.nan, X), "y": Y},
            ": x: 1 samples, the first at 2, have values that are NaN or infinite in float32; remove or replace them",
        ),
        (
            {"x": np.where(X == 50, 1e39, X), "y": Y},
            ": x: 1 samples, the first at 2, have values that are NaN or infin",
        ),
        ({"y": Y}, " has no array 'x'; save it with numpy.savez(path, x=..., y=...)"),
        ({"x": X}, " has no array 'y'; save it with numpy.savez(path, x=..., y=...)"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    file = save(tmp_path / "train.npz", **arrays)
    assert sentence(tmp_path).startswith(f"{file}{message}")


def test_files_that_are_no_archives(tmp_path: Path) -> None:
    file = tmp_path / "train.npz"
    file.write_bytes(b"PK\3\4 but no more")
    unreadable = f"{file} is not an .npz file that NumPy can read; save it with numpy.savez"
    assert sentence(tmp_path) == unreadable
    with file.open("wb") as opened:
        np.save(opened, X)
    assert sentence(tmp_path) == f"{file} holds a single array; save it with numpy.savez(path, x=..., y=...)"
    whole = save(tmp_path / "whole.npz", x=X, y=Y).read_bytes()
    file.write_bytes(whole[:150] + b"\0\0\0\0" + whole[154:])
    assert sentence(tmp_path) == unreadable


@pytest.mark.parametrize("part", ["test", "target/train", "target/test", "public"])
def test_parts_must_be_alike(tmp_path: Path, part: str) -> None:
    first = save(tmp_path / "train.npz", x=X, y=Y)
    file = save(tmp_path / f"{part}.npz", x=X[:, :4], y=Y)
    assert sentence(tmp_path) == f"{file}: a sample is uint8 [1, 4, 4], but uint8 [1, 5, 4] in {first}"
    save(file, x=X[:, None].astype(np.float32), y=Y)
    assert sentence(tmp_path) == f"{file}: a sample is float32 [1, 5, 4], but uint8 [1, 5, 4] in {first}"


def test_labels_must_be_alike_and_tests_need_them(tmp_path: Path) -> None:
    first = save(tmp_path / "train.npz", x=X, y=Y)
    file = save(tmp_path / "test.npz", x=X, y=Y.astype(str))
    assert sentence(tmp_path) == f"{file}: its labels are words, but whole numbers in {first}"
    for y in (Y - 1, (Y - 1).astype(str)):
        save(file, x=X, y=y)
        assert sentence(tmp_path).startswith(f"{file}: y has the label -1")
    file.unlink()
    save(first, x=X, y=Y - 1)
    save(tmp_path / "target/test.npz", x=X, y=Y)
    assert sentence(tmp_path) == (
        f"{first} has training samples without labels, which do not go with a target, whose samples are the unlabelled "
        "ones; leave one of them out"
    )


def test_what_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "no", Path("~nobody-has-this-name/x")):
        assert sentence(path) == f"{path}: there is no such file or folder"
    parts = "train, test, target/train, target/test, public, validation"
    assert sentence(tmp_path) == f"{tmp_path} has none of {parts}, as .npz, .csv, .parquet or folders of images"
    file = save(tmp_path / "test.npz", x=X, y=Y)
    assert sentence(tmp_path) == f"{tmp_path} has nothing to train with: neither train nor target/train"
    assert (
        sentence(file)
        == f"{file}: a single file must be .csv or .parquet; others go into a folder, as train.npz and test.npz"
    )
    write_rows(tmp_path / "train.csv", [["label", "a"], [0, 1]])
    assert sentence(tmp_path) == f"{tmp_path} holds both .npz and .csv files of {parts}; keep one kind"


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(folder: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(folder))

    (tmp_path / "train").mkdir()
    monkeypatch.setattr(Path, "iterdir", refused)
    assert sentence(tmp_path) == f"{tmp_path / 'train'} cannot be read: Permission denied"


def test_wrong_options(tmp_path: Path) -> None:
    save(tmp_path / "train.npz", x=X, y=Y)
    assert sentence(tmp_path, test_share=1) == "test_share = 1: should be 0 or more and less than 1"
    assert sentence(tmp_path, size=0) == "size = 0: should be greater than 0"
    assert sentence(tmp_path, label="y") == (
        f"label = 'y': only tables have columns, but {tmp_path} is none; leave it out"
    )


def test_what_this_experiment_does_not_take(tmp_path: Path) -> None:
    save(tmp_path / "train.npz", x=X, y=Y)
    own = read_own(str(tmp_path))
    for shape, dtype in (((1, 4, 5), "uint8"), ((1, 5, 4), "float32")):
        assert refused(own, frame_of(shape, dtype)) == (
            f"{tmp_path}: a sample is uint8 [1, 5, 4], but {dtype} {list(shape)} in this experiment"
        )
    assert refused(own, frame_of((1, 5, 4), classes=2)) == (
        f"{tmp_path} has the label 2, but this experiment has 2 classes; labels begin at 0"
    )
    with pytest.raises(ValueError, match="client is 3; there are 3"):
        own.as_federation(frame_of((1, 5, 4)), 3, 3)


# --- the server ---


def test_the_servers_data(tmp_path: Path) -> None:
    save(tmp_path / "train.npz", x=X[:, :3], y=Y)  # not read
    save(tmp_path / "test.npz", x=X[:3], y=Y[:3])
    save(tmp_path / "target/test.npz", x=X[3:], y=Y[3:])
    save(tmp_path / "public.npz", x=X[:2])
    own = read_own(str(tmp_path), server=True)
    assert own.describe()["train"] == 0
    federation = own.as_federation(frame_of((1, 5, 4)), 0, 4)
    assert federation.target is not None
    assert np.array_equal(federation.x[federation.server_test][:, 0], X[:3])
    assert np.array_equal(federation.x[federation.target.server_test][:, 0], X[3:])
    assert np.array_equal(federation.x[federation.public][:, 0], X[:2])
    assert federation.y[federation.target.server_test].tolist() == Y[3:].tolist()
    for shards in (federation.train, federation.test, federation.target.train, federation.target.test):
        assert shards.sizes.tolist() == [0] * 4


def test_a_server_without_samples(tmp_path: Path) -> None:
    assert sentence(tmp_path, server=True) == (
        f"{tmp_path} has none of test, target/test, public, as .npz, .csv, .parquet or folders of images"
    )
    frame = frame_of((1, 5, 4), labels=("a", "b", "c"))
    frame.write(tmp_path / "frame.json")
    own = read_own(str(tmp_path), server=True)
    assert own.describe() | {"shape": [1, 5, 4], "dtype": "uint8", "test": 0, "largest_label": -1} == own.describe()
    federation = own.as_federation(DataSchema.read(tmp_path / "frame.json"), 0, 3)
    assert (len(federation.server_test), len(federation.public), federation.shape) == (0, 0, (1, 5, 4))


# --- images ---


def test_image_files_are_the_arrays_that_were_drawn(tmp_path: Path) -> None:
    for i, (pixels, y) in enumerate(zip(X, Y)):
        draw(tmp_path / "train" / "abc"[y] / f"{i}.{('png', 'bmp', 'PNG')[i % 3]}", pixels)
    draw(tmp_path / "test/b/x.png", 255 - X[0])
    draw(tmp_path / "target/train/1.png", X[1])
    draw(tmp_path / "target/train/any/2.png", X[2])
    draw(tmp_path / "target/test/c/1.png", X[3])
    draw(tmp_path / "public/1.png", X[4])
    (tmp_path / "train/a/notes.txt").write_text("no image")
    (tmp_path / "train/a/.hidden.png").write_text("nor this")
    own = read_own(str(tmp_path))
    order = np.argsort(Y, kind="stable")
    assert own.x.dtype == np.uint8
    assert np.array_equal(own.x[own.train][:, 0], X[order])
    assert own.names == ("a", "b", "c")
    assert own.y[own.train].tolist() == Y[order].tolist()
    assert np.array_equal(own.x[own.test], 255 - X[None, :1])
    assert own.y[own.test].tolist() == [1]
    assert np.array_equal(own.x[own.target_train][:, 0], X[1:3])
    assert np.array_equal(own.x[own.target_test][:, 0], X[3:4])
    assert np.array_equal(own.x[own.public][:, 0], X[4:5])
    server = read_own(str(tmp_path), server=True)
    assert (len(server.test), len(server.train), server.names) == (1, 0, ("b", "c"))


def test_colours_and_palettes(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3)).astype(np.uint8)
    for i, pixels in enumerate(colours):
        draw(tmp_path / f"train/a/{i}.png", pixels, "RGBA" if i == 1 else None)
    own = read_own(str(tmp_path))
    assert np.array_equal(own.x, colours.transpose(0, 3, 1, 2))
    draw(tmp_path / "train/a/3.gif", colours[0], "P")
    assert read_own(str(tmp_path)).x.shape == (4, 3, 5, 4)
    grey = read_own(str(tmp_path), channels=1)
    luma = np.asarray(Image.fromarray(colours[2]).convert("L"))
    assert np.array_equal(grey.x[2, 0], luma)


def test_jpeg_is_as_pillow_decodes_it(tmp_path: Path) -> None:
    file = draw(tmp_path / "train/a/1.jpg", np.full((8, 8, 3), (200, 30, 90), np.uint8))
    assert np.array_equal(read_own(str(tmp_path)).x[0].transpose(1, 2, 0), np.asarray(Image.open(file)))


def test_images_of_any_size_become_the_one_asked_for(tmp_path: Path) -> None:
    square = np.add.outer(np.arange(16), np.arange(16)).astype(np.uint8) * 8
    draw(tmp_path / "train/a/1.png", square)
    draw(tmp_path / "train/b/2.png", np.full((9, 11, 3), 77, np.uint8))
    file = tmp_path / "train/b/2.png"
    assert sentence(tmp_path) == (
        f"{file}: the image has [channels, height, width] = [3, 9, 11], but [1, 16, 16] in "
        f"{tmp_path / 'train/a/1.png'}; make them alike, or say size and channels"
    )
    own = read_own(str(tmp_path), size=8, channels=1)
    pillow = np.asarray(Image.fromarray(square).resize((8, 8), Image.Resampling.BILINEAR))
    assert own.x.shape == (2, 1, 8, 8)
    assert abs(own.x[0, 0].astype(int) - pillow).max() <= 1  # Pillow rounds after each axis
    assert (own.x[1] == 77).all()


def test_arrays_become_the_size_asked_for_and_numbers_do_not(tmp_path: Path) -> None:
    file = save(tmp_path / "train.npz", x=np.full((2, 1, 6, 4), 9, np.uint8), y=[0, 1])
    own = read_own(str(tmp_path), size=3, channels=3)
    assert own.x.shape == (2, 3, 3, 3)
    assert (own.x == 9).all()
    save(file, x=np.zeros((2, 2, 4, 4), np.uint8), y=[0, 1])
    assert sentence(tmp_path, channels=3) == (
        f"{file}: channels = 3: only images with 1 or 3 channels have others, but these have 2"
    )
    save(file, x=np.zeros((2, 7)), y=[0, 1])
    assert sentence(tmp_path, size=3) == (
        f"{file}: size = 3: only images [channels, height, width] can be changed so, but a sample has shape [7]"
    )


def test_which_images_are_for_testing_stays_so_when_others_are_added(tmp_path: Path) -> None:
    def write(first: int, last: int) -> None:
        for kind, i in itertools.product("ab", range(first, last)):
            draw(tmp_path / kind / f"{i}.png", np.full((2, 2), i + 100 * (kind == "b"), np.uint8))

    def drawn(**options: Any) -> set[int]:
        own = read_own(str(tmp_path), **options)
        assert (own.y == (own.x[:, 0, 0, 0] >= 100)).all()
        assert len(own.train) + len(own.test) == len(own.x)
        return set(own.x[own.test][:, 0, 0, 0].tolist())

    write(0, 50)
    few = drawn()
    write(50, 100)
    many = drawn()
    assert {i for i in many if i % 100 < 50} == few
    assert 30 < len(many) < 70  # a quarter of 200, and four standard deviations of a fair draw
    assert {i for i in many if i < 100} != {i - 100 for i in many if i >= 100}  # not the same ones of each class
    assert few < many < drawn(test_share=0.6)
    assert drawn(test_share=0) == set()
    assert len(read_own(str(tmp_path), server=True).test) == 200


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    good = draw(tmp_path / "train/a/1.png", np.random.default_rng(0).integers(0, 256, (40, 40)).astype(np.uint8))
    bad = tmp_path / "train/a/2.png"
    for content in (b"no image", b"", good.read_bytes()[:600]):
        bad.write_bytes(content)
        assert sentence(tmp_path) == f"{bad} is not an image that Pillow can read; replace or remove it"
    bad.unlink()
    deep = draw(tmp_path / "train/b/3.png", np.full((40, 40), 40_000, np.uint16))
    assert sentence(tmp_path) == (
        f"{deep}: an image of Pillow's mode I;16 is not of bytes; save it as 8-bit grey or RGB"
    )
    deep.unlink()
    stray = draw(tmp_path / "train/4.png", X[0])
    assert sentence(tmp_path) == (
        f"{stray} stands in no class's folder; move it to {tmp_path / 'train' / 'CLASS' / '4.png'}"
    )


# --- tables ---

ROWS = [["age", "label", "size"], [1, 0, -0.5], ["2.25", 2, "1e3"], [" 3 ", 1, "7"], [4, 2, ".5"]]


def test_tables_are_the_numbers_that_were_written(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.csv", ROWS)
    write_rows(tmp_path / "test.csv", ROWS[:3])
    write_rows(tmp_path / "target/train.csv", [["age", "size"], [8, 9]])
    own = read_own(str(tmp_path))
    expected = np.array([[1, -0.5], [2.25, 1000], [3, 7], [4, 0.5]], np.float32)
    assert own.x.dtype == np.float32
    assert np.array_equal(own.x[own.train], expected)
    assert np.array_equal(own.x[own.test], expected[:2])
    assert own.x[own.target_train].tolist() == [[8, 9]]
    assert own.y[own.train].tolist() == [0, 2, 1, 2]
    assert own.names is None


def test_a_table_as_a_spreadsheet_writes_it(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_bytes('\ufeffkind,"a, b"\r\n1.0,3\r\n\r\n-1,4\r\n0,5\r\n'.encode())
    own = read_own(str(tmp_path), label="kind")
    assert own.x.tolist() == [[3], [4], [5]]
    assert own.y.tolist() == [1, -1, 0]


def test_classes_may_be_words(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.csv", [["label", "a"], ["dog", 1], ["1", 2], ["-1", 3]])
    write_rows(tmp_path / "test.csv", [["label", "a"], ["1", 1]])
    own = read_own(str(tmp_path))
    assert own.names == ("1", "dog")
    assert own.y.tolist() == [1, 0, -1, 0]


def test_a_share_of_one_table_is_for_testing(tmp_path: Path) -> None:
    rows = [[i, i % 3 if i % 5 else ("-1", "-1.0")[i % 2]] for i in range(50)]
    file = write_rows(tmp_path / "all.csv", [["a", "label"], *rows])
    own, again = read_own(str(file)), read_own(str(file))
    assert (len(own.train), len(own.test)) == (40, 10)  # a quarter of the 40 that have labels
    assert np.array_equal(own.x[own.test], again.x[again.test])
    assert sorted(own.x[:, 0].tolist()) == list(range(50))
    assert (own.y[own.test] >= 0).all()
    for part in (own.train, own.test):
        assert (np.diff(own.x[part][:, 0]) > 0).all()  # in order
    other = write_rows(tmp_path / "other.csv", [["a", "label"], *([i, 0] for i in range(50))])
    assert len(set(read_own(str(other), test_share=0.1).x[-5:, 0].tolist()) - set(range(0, 50, 5))) > 0
    assert len(read_own(str(other), test_share=0).test) == 0
    assert len(read_own(str(write_rows(file, [["a", "label"], [1, 0]]))).train) == 1  # a single row is for training
    assert len(read_own(str(write_rows(file, [["a", "label"], [1, 0], [2, 0]])), test_share=0.01).test) == 1
    assert len(read_own(str(file), server=True).test) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,labl\n1,0\n", " has no column 'label': did you mean 'labl'?"),
        ("a,b\n1,0\n", " has no column 'label': known: a, b"),
        ("", " is empty; leave out what holds no sample"),
        ("label\n1\n", " has no column besides 'label'; a sample needs one number or more"),
        ("label,a\n", " has no row besides its header; leave out what holds no sample"),
        ("label,a,b\n0,1,2\n0,1,two\n", ": line 3, column 'b': 'two' is no number"),
        ("label,a,b\n0,1,2\n0,1_0,2\n", ": line 3, column 'a': '1_0' is no number"),
        ("label,a,b\n0,,2\n", ": line 2, column 'a': the cell is empty"),
        ("a,label\n1, \n", ": line 2, column 'label': the cell is empty"),
        ("label,a\n0,nan\n", ": line 2, column 'a': nan is not finite; remove or replace it"),
        ("label,a\n0,-inf\n", ": line 2, column 'a': -inf is not finite; remove or replace it"),
        (
            "label,a\n0,1e39\n",
            ": 1 samples, the first at 0, have values that are NaN or infinite in float32; remove or",
        ),
        ("label,a\n0,1\n0,1,2\n", ": line 3 has 3 cells, but the header 2"),
        ("label,a,a\n0,1,2\n", ": two columns have the name 'a'"),
        (",label,a\n0,1,2\n", ": column 1 of 3 has no name in the first line"),
        ("label,a\n1.5,1\n2,1\n", " has the label 1.5; labels are whole numbers, or words"),
        (
            "label,a\n-2,1\n",
            " has the label -2; labels begin at 0, and -1 is a training sample that has none",
        ),
        ('label,a\n0,"1\n', " is not a .csv file in UTF-8: unexpected end of data"),
        ("label,a\n\xff,1\n", " is not a .csv file in UTF-8: "),
    ],
)
def test_a_wrong_table_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "train.csv"
    file.write_bytes(text.encode("latin-1"))
    assert sentence(tmp_path).startswith(f"{file}{message}")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("label,a,c", "it has the column 'c', which is not in"),
        ("label,a", "it has no column 'b', which is in"),
        ("label,b,a", "its columns should stand in the order a, b, as in"),
    ],
)
def test_tables_must_have_the_same_columns(tmp_path: Path, header: str, message: str) -> None:
    (tmp_path / "train.csv").write_text("a,label,b\n1,0,2\n")
    (tmp_path / "test.csv").write_text(f"{header}\n{','.join('0' for _ in header.split(','))}\n")
    assert sentence(tmp_path) == f"{tmp_path / 'test.csv'}: {message} {tmp_path / 'train.csv'}"


# --- a function ---


def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> str:
    """The path of a function with this body, in a module of its own."""
    name = f"own_data_{tmp_path.name}_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text(f"import numpy as np\ndef load():\n    {code}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return f"{name}:load"


def test_what_a_function_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = call(
        tmp_path,
        monkeypatch,
        "return dict(x=[[1, 2], [3, 4]], y=['b', 'a'], x_test=np.ones((1, 2)), y_test=['b'], x_target=[[5., 6]],"
        " x_target_test=[[7, 8]], y_target_test=['c'], x_public=[[9, 9]])",
    )
    own = read_own(path)
    parts = (own.train, own.test, own.target_train, own.target_test, own.public)
    assert [own.x[part].tolist() for part in parts] == [[[1, 2], [3, 4]], [[1, 1]], [[5, 6]], [[7, 8]], [[9, 9]]]
    assert own.names == ("a", "b", "c")
    assert own.y.tolist() == [1, 0, 1, -1, 2, -1]
    server = read_own(path, server=True)
    assert (len(server.train), len(server.test), len(server.public)) == (0, 1, 1)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("return dict(x=[[1]], y=[0, 1])", ": y has shape [2]; the 1 samples of its x need [1]"),
        (
            "return dict(x=[[1]], y=[0.5])",
            ": y holds float64, as 0.5; labels are whole numbers from 0, or words; numbers are predicted by "
            "data.task = 'regression' (fedtl deploy client --task regression)",
        ),
        ("return dict(x=[[None]], y=[0])", ": x holds object; samples are numbers, as uint8 or float32"),
        ("return dict(x=[[1], [1, 2]], y=[0, 0])", ": x cannot be made an array"),
        ("return dict(x=[[1]])", ": it returns x without y"),
        ("return dict(x=[[1]], y=[0], y_test=[0])", ": it returns y_test without x_test"),
        ("return dict(x=[[1]], y=[0], xtest=[0])", ": it returns 'xtest', which is unknown: did you mean 'x_test'?"),
        ("return [1]", ": it returns a list, not a dict with x, y, x_test, y_test"),
        ("raise RuntimeError('no\\n disk')", ": it failed: RuntimeError: no disk"),
    ],
)
def test_a_wrong_function_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str) -> None:
    path = call(tmp_path, monkeypatch, code)
    assert sentence(path).endswith(message)
    assert path in sentence(path)


def test_no_such_function() -> None:
    assert sentence("nowhere:load") == "data = 'nowhere:load': no such module"
    assert sentence("math:pi") == "data = 'math:pi': it is a float, not a function"


# --- a frame ---


@pytest.mark.parametrize("options", [{}, {"normalise": "pixel"}, {"normalise": "none"}])
def test_a_frame_survives_json_to_the_bit(tmp_path: Path, options: dict[str, Any]) -> None:
    frame = DataSchema.of(federate(read_data({"name": "digits", "clients": 2, **options}), 0))
    numbers = np.random.default_rng(0).integers(0, 2**32, 64, dtype=np.uint32).view(np.float32).reshape(1, 8, 8)
    odd = DataSchema(
        (1, 8, 8), "float32", 1, ("ä",), np.where(np.isfinite(numbers), numbers, -0.0), np.float32([-0.0, 1e-45] * 4)
    )
    for one in (frame, odd):
        one.write(tmp_path / "frame.json")
        for read in (DataSchema.from_json(one.to_json()), DataSchema.read(tmp_path / "frame.json")):
            assert (read.shape, read.dtype, read.classes, read.labels) == (
                one.shape,
                one.dtype,
                one.classes,
                one.labels,
            )
            for mine, theirs in ((read.scale, one.scale), (read.shift, one.shift)):
                assert (mine.dtype, mine.shape, mine.tobytes()) == (np.float32, theirs.shape, theirs.tobytes())
    assert [file.name for file in tmp_path.iterdir()] == ["frame.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": [1, 2]}, ": scale has shape [2], which does not fit a sample of shape [1, 8, 8]"),
        ({"shift": [[[[1]]]]}, ": shift has shape [1, 1, 1, 1], which does not fit a sample of shape [1, 8, 8]"),
        ({"shift": [[1], [1, 2]]}, ": shift is a list whose parts differ in length"),
        ({"scale": "1"}, ": scale holds something that is no number"),
        ({"scale": True}, ": scale holds something that is no number"),
        ({"scale": float("nan")}, ": scale has values that are no finite float32 numbers"),
        ({"shift": 1e39}, ": shift has values that are no finite float32 numbers"),
        ({"classes": 0}, ".classes = 0: should be greater than or equal to 1"),
        ({"classes": 10**9}, ".classes = 1000000000: should be less than or equal to 100000"),
        ({"labels": ["a"]}, ": there are 1 labels for 10 classes; give one each, or none"),
        ({"shape": []}, ": shape is []; a sample has one axis or more, each of length 1 or more"),
        ({"shape": [0]}, ".shape.0 = 0: should be greater than 0"),
        ({"dtype": "int8"}, ".dtype = 'int8': should be 'uint8' or 'float32'"),
        ({"clases": 3}, ".clases is not a key here: did you mean 'classes'?"),
    ],
)
def test_a_frame_that_is_none(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = tmp_path / "frame.json"
    table = json.loads(DataSchema.of(federate(read_data({"name": "digits", "clients": 2}), 0)).to_json())
    file.write_text(json.dumps(table | change))
    with pytest.raises(ConfigError) as caught:
        DataSchema.read(file)
    assert str(caught.value) == f"{file}{message}"


def test_a_frame_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    file = tmp_path / "frame.json"
    messages = []
    for content in (None, b"{", b"\xff\xfe", b"[1]"):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            DataSchema.read(file)
        messages.append(str(caught.value))
    garbled = f"{file} is not JSON, as fedtl partition --export writes it"
    table = f"{file} is no table with shape, dtype, classes, labels, scale and shift"
    assert messages == [f"{file} cannot be read: No such file or directory", garbled, garbled, table]
    with pytest.raises(RunError, match="cannot be written: No such file or directory"):
        frame_of((1,)).write(tmp_path / "no" / "frame.json")


# --- statistics ---


def owns(tmp_path: Path, x: NDArray[Any], pieces: int) -> list[Own]:
    """So many clients who share these samples, each with tests and a target that do not count."""
    clients = []
    for i, part in enumerate(np.array_split(np.arange(len(x)), [1, *range(7, len(x), len(x) // pieces)])):
        folder = tmp_path / str(i)
        y = np.zeros(len(part), np.int64)
        y[::3] = 0 if i % 2 else -1
        save(folder / "train.npz", x=x[part], y=y)
        save(folder / "test.npz", x=255 - x[:5], y=np.zeros(5, np.int64))
        clients.append(read_own(str(folder)))
    return clients


IMAGES = np.random.default_rng(0).integers(0, 256, (100, 3, 6, 5)).astype(np.uint8) // np.uint8([[[1]], [[2]], [[9]]])


def test_sums_of_bytes_give_what_the_pooled_data_would(tmp_path: Path) -> None:
    clients = owns(tmp_path, IMAGES, 4)
    each = [statistics(own, "dataset") for own in clients]
    assert each[0][1].dtype == np.float64
    scale, shift = normaliser("dataset", each, (3, 6, 5), "uint8")
    pooled = IMAGES.astype(np.float64) / 255
    mean, std = pooled.mean(axis=(0, 2, 3)), pooled.std(axis=(0, 2, 3))
    assert scale.shape == shift.shape == (3, 1, 1)
    assert scale.ravel() == pytest.approx(1 / (255 * std), rel=1e-6)
    assert shift.ravel() == pytest.approx(-mean / std, rel=1e-6)
    inputs = IMAGES * scale + shift
    assert inputs.mean(axis=(0, 2, 3)) == pytest.approx(np.zeros(3), abs=1e-5)
    assert inputs.std(axis=(0, 2, 3)) == pytest.approx(np.ones(3), rel=1e-5)


@pytest.mark.parametrize("kind", ["dataset", "pixel", "none", {"mean": [0.5, 0.4, 0.3], "std": 0.5}])
def test_clients_normalise_as_the_simulation_does_to_the_bit(tmp_path: Path, kind: Any) -> None:
    save(tmp_path / "all.npz", x=IMAGES, y=np.zeros(len(IMAGES), np.int64))
    table = {"name": "npz", "path": str(tmp_path / "all.npz"), "clients": 5, "partition": "iid", "normalise": kind}
    data = read_data({**table, "server_test_share": 0})
    simulated, kind = federate(data, 0), data.normalise
    clients = owns(tmp_path / "clients", IMAGES, 4)
    each = [statistics(own, kind) for own in clients] if needs_statistics(kind) else []
    for order in (each, each[::-1]):
        scale, shift = normaliser(kind, order, (3, 6, 5), np.uint8)
        assert scale.tobytes() == simulated.scale.tobytes()
        assert shift.tobytes() == simulated.shift.tobytes()
        assert (scale.shape, shift.shape) == (simulated.scale.shape, simulated.shift.shape)


@pytest.mark.parametrize("task", ["classification", "binary", "regression"])
def test_domains_that_no_client_has_are_read_by_rules_too(task: str, tmp_path: Path) -> None:
    """The server's tables of such, with labels or other outcomes."""
    (tmp_path / "held-out").mkdir()
    for name, first in (("test", 0), ("held-out/photo", 5)):
        rows = "\n".join(f"{first + i},{(first + i) % 2}" for i in range(4))
        (tmp_path / f"{name}.csv").write_text(f"a,label\n{rows}\n")
    own = read_own(str(tmp_path), rules=TableRules(task=read_task(task)), task=read_task(task), server=True)
    photo = own.held_out["photo"]
    assert own.x[photo, 0].tolist() == [5, 6, 7, 8]
    predicted = own.y if own.outcomes is None else own.outcomes.values[:, 0]
    assert predicted[photo].tolist() == [1, 0, 1, 0]
    assert predicted[own.test].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_a_frame_alone_is_all_that_the_server_may_hold(task: str, tmp_path: Path) -> None:
    """Whatever is predicted: it is no folder of images."""
    frame_of((4,), "float32").write(tmp_path / "frame.json")
    (tmp_path / ".hidden").touch()
    own = read_own(str(tmp_path), task=read_task(task), server=True)
    assert (own.x.shape, len(own.test), len(own.public)) == ((0, 4), 0, 0)
    (tmp_path / "cat").mkdir()
    with pytest.raises(ConfigError, match="folders of images say classes"):
        read_own(str(tmp_path), task=read_task(task), server=True)


def test_statistics_of_numbers(tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(3, [1, 10, 0.1, 0], (60, 4)).astype(np.float32)
    clients = owns(tmp_path, x, 3)
    assert clients[0].x.dtype == np.float32
    scale, shift = normaliser("dataset", [statistics(own, "dataset") for own in clients], (4,), "float32")
    mean, std = channel_statistics(x)
    assert scale[:3] == pytest.approx(1 / x[:, :3].std(axis=0, dtype=np.float64), rel=1e-5)
    assert scale == pytest.approx(1 / std, rel=1e-5)
    assert shift == pytest.approx(-mean / std, rel=1e-5)
    assert scale[3] == 1  # a constant one
    scale, shift = normaliser("pixel", [statistics(own, "pixel") for own in clients], (4,), "float32")
    assert scale == pytest.approx(1 / (x.std(axis=0, dtype=np.float64) + 0.001), rel=1e-5)
    count, total, square = statistics(clients[1], "pixel")
    part = x[1:7].astype(np.float64)
    assert count == 6
    assert total == pytest.approx(part.sum(axis=0))
    assert square == pytest.approx(((part - part.mean(axis=0)) ** 2).sum(axis=0))


def test_sums_are_over_all_of_many_samples(tmp_path: Path) -> None:
    x = np.random.default_rng(2).integers(0, 256, (9001, 2, 1, 2)).astype(np.uint8)
    save(tmp_path / "train.npz", x=x, y=np.zeros(len(x), np.int64))
    count, total, square = statistics(read_own(str(tmp_path)), "dataset")
    assert count == 2 * 9001
    assert np.array_equal(total[:, 0, 0], x.sum(axis=(0, 2, 3), dtype=np.int64))
    assert np.array_equal(square[:, 0, 0], (x.astype(np.int64) ** 2).sum(axis=(0, 2, 3)))


def test_clients_without_training_samples_add_nothing(tmp_path: Path) -> None:
    save(tmp_path / "target/train.npz", x=IMAGES)
    none = read_own(str(tmp_path))
    for kind, shape in (("dataset", (3, 1, 1)), ("pixel", (3, 6, 5))):
        count, total, square = statistics(none, kind)  # type: ignore[arg-type]
        assert (count, total.shape, square.shape) == (0, shape, shape)
        assert not total.any()
        with pytest.raises(ConfigError, match="no client has a training sample to normalise by"):
            normaliser(kind, [(count, total, square)], (3, 6, 5), "uint8")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="these samples need"):
        normaliser("pixel", [(1, np.zeros(3), np.zeros(3))], (3, 6, 5), "uint8")
