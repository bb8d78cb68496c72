"""Values that nobody meant, in every key of [data]: one sentence, or finite numbers; never a traceback."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedtl.choice import ConfigError, load_object
from fedtl.config.read import read_config
from fedtl.data import DATASETS, memory
from fedtl.data.federate import federate
from fedtl.data.federation import Federation
from fedtl.data.own.read import read_own
from fedtl.data.partitions import PARTITIONS

NUMBERS = (0, -1, 3, 60, 10**9, 2**63, 10**30, 0.0, 1e-300, 1e39, 1e300, float("nan"), float("-inf"))
WORDS = ("", "x", "iid", "\0", "a:b", "~nobody/x", "\ud800", "y" * 5000, [], [1e300], {}, {"name": 5}, None, True)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "a.npz"
    rng = np.random.default_rng(0)
    np.savez(file, x=rng.integers(0, 256, (60, 1, 8, 8)).astype(np.uint8), y=np.arange(60) % 3, user=np.arange(60) % 5)
    return file


def federated(data: dict[str, Any]) -> Federation:
    tables = {"name": "f", "rounds": 1, "data": data, "model": {"name": "logistic"}}
    return federate(read_config(tables | {"strategy": {"name": "fedavg", "lr": 0.1}})[0].data, 0)


def sentence(data: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        federated(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def options(path: str) -> list[str]:
    return [key for key in load_object(path, "").model_fields if key != "name"]


KEYS = [
    *(("npz", key) for key in options(DATASETS["npz"])),
    *(("synthetic", key) for key in ("clients", "alpha", "beta", "dimension", "classes", "sizes", "iid", "seed")),
    *(("npz", f"look.{key}") for key in ("invert", "rotate", "photographs", "textures")),
    *(("npz", f"{part}.{key}") for part in ("target", "public") for key in ("name", "clients", "samples", "size")),
    *((name, f"partition.{key}") for name, path in PARTITIONS.items() for key in options(path)),
]


@pytest.mark.parametrize(("kind", "key"), KEYS, ids=lambda word: word)
def test_no_value_is_a_traceback_or_nonsense(file: Path, kind: str, key: str) -> None:
    tables: dict[str, Any] = {"name": "npz", "path": str(file)}
    if kind == "synthetic":
        tables = {"name": "synthetic", "clients": 3, "sizes": 20}
    if kind in PARTITIONS and kind != "natural":
        tables |= {"clients": 4, "partition": {"name": kind}}
    *outer, last = key.split(".")
    for table in outer:
        tables[table] = tables.get(table) or (dict(tables, partition="iid") if table in ("target", "public") else {})
    for value in (*NUMBERS, *WORDS):
        data = copy.deepcopy(tables)
        (data[outer[0]] if outer else data)[last] = value
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            try:
                federation = federated(data)
            except ConfigError as error:
                assert "\n" not in str(error)  # noqa: PT017
                continue
            assert np.isfinite(federation.x[:100] * federation.scale + federation.shift).all(), value


@pytest.mark.parametrize("name", ["domains", "files", "heart-disease", "images", "medmnist", "npz", "shakespeare"])
def test_a_path_of_every_data_set(name: str) -> None:
    home = "~nobody-has-this-name/x"
    assert sentence({"name": name, "path": home, "clients": 4}).startswith(f"data.path = {home!r}: there is no such f")
    for path in ("y" * 5000, "a\0b"):
        assert repr(path)[1:100].strip("'") in sentence({"name": name, "path": path, "clients": 4})


@pytest.mark.parametrize("name", ["heart-disease", "mnist", "fashion-mnist"])
def test_a_root_of_nobody(name: str) -> None:
    data = {"name": name, "root": "~nobody-has-this-name", "clients": 4}
    assert sentence(data) == "data.root = '~nobody-has-this-name': there is no such folder"


def test_paths_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def error(path: str) -> str:
        return sentence({"name": "npz", "path": path})

    for path in ("nowhere", "~nobody-has-this-name/x", "a\0b", str(tmp_path / "a" / "b")):
        assert error(path) == f"data.path = {path!r}: there is no such file or folder"
    assert error("y" * 5000).endswith("cannot be read: File name too long")
    assert error(str(tmp_path)) == f"data.path = {str(tmp_path)!r}: the folder has no .npz file"

    def refused(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(Path, "iterdir", refused)
    assert error(str(tmp_path)) == f"data.path = {str(tmp_path)!r} cannot be read: Permission denied"


def test_what_no_memory_holds_is_an_error_before_it_is_made(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 2**30)
    assert sentence({"name": "npz", "path": str(file), "size": 100_000}) == (
        "data.size = 100000: should be less than or equal to 4096"
    )
    there = "and this machine has 1.0 GiB; make it smaller"
    x = np.zeros((100, 4, 1, 1), np.float32)
    np.savez(file.with_name("many.npz"), x=x, y=np.arange(100) % 2)
    path = str(file.with_name("many.npz"))
    message = f"that takes 25.0 GiB of memory, {there}"
    assert sentence({"name": "npz", "path": path, "size": 4096}) == f"data.size = 4096: {message}"
    target = {"name": "npz", "path": path, "size": 4096}
    assert sentence({"name": "npz", "path": path, "clients": 2, "partition": "iid", "target": target}) == (
        f"data.target.size = 4096: {message}"
    )
    folder = file.parent / "own"
    folder.mkdir()
    np.savez(folder / "train.npz", x=x, y=np.arange(100) % 2)
    for size, end in ((4096, message), (4097, "size = 4097: should be less than or equal to 4096")):
        with pytest.raises(ConfigError) as caught:
            read_own(str(folder), size=size)
        assert str(caught.value).endswith(end)
    for key in ("clients", "dimension", "sizes"):
        text = sentence({"name": "synthetic", "clients": 5, "sizes": 20, key: 10**15})
        assert text.startswith("data.clients = ")
        assert text.endswith(there)


def test_an_array_that_there_is_no_room_for_is_one_sentence(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise MemoryError("Unable to allocate 9 TiB\nfor an array")

    monkeypatch.setattr(np, "load", full)
    assert sentence({"name": "npz", "path": str(file)}) == (
        "data: this machine's memory does not hold it (Unable to allocate 9 TiB for an array); make it smaller"
    )


def test_a_servers_test_set_of_no_sample_is_said(file: Path) -> None:
    (note,) = federated({"name": "npz", "path": str(file), "server_test_share": 0.001}).notes
    assert note == ("data.server_test_share = 0.001: of 60 samples that is none, so the server has no test set")
    assert federated({"name": "npz", "path": str(file), "server_test_share": 0}).notes == ()
