"""What is exported and read back is what the simulation trains, scores and shares, bit by bit."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.data import read_data
from fedtl.data.export import export, size_of
from fedtl.data.federate import federate
from fedtl.data.federation import Domain, Federation, Shards
from fedtl.data.own.read import Own, read_own
from fedtl.data.samples import Samples
from fedtl.data.schema import DataSchema
from fedtl.failure import RunError

INVERTED = {"name": "digits", "transform": {"invert": True}}
DIRICHLET = {"name": "dirichlet", "alpha": 0.3, "min_size": 1}

CONFIGS: dict[str, dict[str, Any]] = {
    "dirichlet": {"partition": DIRICHLET},
    "no tests": {"test_share": 0, "server_test_share": 0},
    "pixel": {"normalise": "pixel", "partition": "shards"},
    "undivided": {"normalise": "none", "clients": 1},
    "single samples": {"clients": 60, "samples": 90, "labelled_fraction": 0.4},
    "few labels": {"labelled_fraction": 0.1, "partition": DIRICHLET},
    "nearly all labels": {"labelled_fraction": 0.97, "clients": 30, "partition": DIRICHLET},
    "no labels": {"labelled_fraction": 0},
    "target": {"target": {**INVERTED, "partition": DIRICHLET}},
    "target, hardly any tests": {"target": {**INVERTED, "test_share": 0, "server_test_share": 0}},
    "further clients": {"target": {**INVERTED, "clients": 4}, "test_share": 0.5},
    "public": {"public": {**INVERTED, "samples": 30}},
    "few labels, public": {"labelled_fraction": 0.3, "public": {"name": "digits", "samples": 11}},
    "all at once": {"size": 5, "target": INVERTED, "public": {"name": "digits", "transform": {"photographs": True}}},
    "rotated": {"partition": {"name": "rotated", "base": DIRICHLET}},
    "floats": {"name": "synthetic", "alpha": 1.0},
    "series": {"name": "watch", "clients": None, "partition": "natural"},
    "validation": {"validation_share": 0.3, "partition": DIRICHLET},
    "validation, no tests": {"validation_share": 0.5, "test_share": 0, "server_test_share": 0},
    "validation, few labels": {"validation_share": 0.3, "labelled_fraction": 0.2},
    "validation, target": {"validation_share": 0.1, "target": {**INVERTED, "partition": DIRICHLET}},
    "validation, further clients": {"validation_share": 0.2, "target": {**INVERTED, "clients": 4}},
}


def federation_of(options: dict[str, Any]) -> Federation:
    return federate(read_data({"name": "digits", "clients": 8, **options}), 3)


def batch(federation: Federation, places: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any], bytes, bytes]:
    """Inputs by the definition and by what trains, and labels."""
    x = federation.x[places] * federation.scale + federation.shift
    inputs, labels = Samples(federation, torch.device("cpu")).batch(places)
    return x, federation.y[places], inputs.numpy().tobytes(), labels.numpy().tobytes()


def check_same(mine: Federation, at: NDArray[np.int64], theirs: Federation, place: NDArray[np.int64]) -> None:
    """Both hold the same samples, with the same labels, in the same order."""
    actual, expected = batch(mine, at), batch(theirs, place)
    assert np.array_equal(actual[0], expected[0])
    assert actual[0].dtype == expected[0].dtype == np.float32
    assert np.array_equal(actual[1], expected[1])
    assert actual[2:] == expected[2:]


def check_same_inputs(mine: Federation, at: NDArray[np.int64], theirs: Federation, place: NDArray[np.int64]) -> None:
    assert batch(mine, at)[2] == batch(theirs, place)[2]


def domain_of(federation: Federation) -> Domain:
    none = Shards.none(federation.clients)
    return federation.target or Domain(none, none, np.arange(0))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_participant_gets_back_what_it_holds(tmp_path: Path, name: str) -> None:
    whole = federation_of(CONFIGS[name])
    export(whole, tmp_path)
    frame = DataSchema.read(tmp_path / "server" / "frame.json")
    theirs = domain_of(whole)
    for client in range(whole.clients):
        mine = read_own(str(tmp_path / str(client))).as_federation(frame, client, whole.clients)
        assert (mine.clients, mine.classes, mine.label_names) == (whole.clients, whole.classes, whole.label_names)
        assert (mine.shape, mine.x.dtype) == (whole.shape, whole.x.dtype)
        target = domain_of(mine)
        check_same(mine, mine.train[client], whole, whole.train[client])
        check_same(mine, mine.test[client], whole, whole.test[client])
        check_same(mine, mine.validation_of(client), whole, whole.validation_of(client))
        check_same(mine, target.test[client], whole, theirs.test[client])
        check_same(mine, mine.public, whole, whole.public)
        check_same_inputs(mine, target.train[client], whole, theirs.train[client])
        for shards in (mine.train, mine.test, target.train, target.test):  # and the others hold nothing
            assert shards.sizes.sum() == len(shards[client])
        assert len(mine.server_test) == len(target.server_test) == 0
        assert mine.label_counts(target=True).sum() == len(target.train[client]) + len(target.test[client])
    server = read_own(str(tmp_path / "server"), server=True).as_federation(frame, 0, whole.clients)
    check_same(server, server.server_test, whole, whole.server_test)
    check_same(server, domain_of(server).server_test, whole, theirs.server_test)
    check_same(server, server.public, whole, whole.public)
    for shards in (server.train, server.test, domain_of(server).train, domain_of(server).test):
        assert shards.sizes.tolist() == [0] * whole.clients


def test_no_file_tells_a_label_that_the_client_is_not_to_know(tmp_path: Path) -> None:
    whole = federation_of({"labelled_fraction": 0.1})
    export(whole, tmp_path / "few")
    for client in range(whole.clients):
        with np.load(tmp_path / "few" / str(client) / "train.npz") as train:
            assert (train["y"] >= 0).sum() == len(whole.train[client])
            assert set(train.files) == {"x", "y"}
    export(federation_of({"target": INVERTED, "public": "digits"}), tmp_path / "target")
    for name in ("target/train.npz", "public.npz"):
        with np.load(tmp_path / "target" / "0" / name) as unlabelled:
            assert unlabelled.files == ["x"]


def test_what_is_empty_is_left_out(tmp_path: Path) -> None:
    export(federation_of({"clients": 2, "test_share": 0, "server_test_share": 0}), tmp_path / "a", ["left", "right"])
    files = sorted(str(file.relative_to(tmp_path / "a")) for file in (tmp_path / "a").rglob("*") if file.is_file())
    assert files == ["left/train.npz", "right/train.npz", "server/frame.json"]
    assert size_of(tmp_path / "a") == sum((tmp_path / "a" / file).stat().st_size for file in files)
    export(federation_of({"target": {**INVERTED, "clients": 1}}), tmp_path / "b")
    assert sorted(str(file.relative_to(tmp_path / "b/8")) for file in (tmp_path / "b/8").rglob("*.npz")) == [
        "target/test.npz",
        "target/train.npz",
    ]


def test_the_server_is_told_of_no_sample(tmp_path: Path) -> None:
    whole = federation_of({})
    export(whole, tmp_path)
    schema = json.loads((tmp_path / "server" / "frame.json").read_text(encoding="utf-8"))
    assert (schema["shape"], schema["dtype"], schema["classes"]) == ([1, 8, 8], "uint8", 10)
    assert schema["labels"] == [str(digit) for digit in range(10)]
    assert np.float32(schema["scale"]).tobytes() == whole.scale.tobytes()
    assert set(schema) == {"shape", "dtype", "classes", "labels", "scale", "shift"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a"], "there are 1 names for 8 clients' folders; give one for each"),
        ([*"abcdefg", "../h"], "'../h' cannot be the name of a client's folder; take letters, digits, - and _"),
        ([*"abcdefg", "server"], "'server' cannot be the name of a client's folder; take letters, digits, - and _"),
        ([*"abcdefg", ""], "'' cannot be the name of a client's folder; take letters, digits, - and _"),
        ([*"abcdefgg"], "'g' is the name of two clients' folders; give each its own"),
    ],
)
def test_names_that_do_not_do(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        export(federation_of({}), tmp_path / "x", names)
    assert str(caught.value) == message
    assert not (tmp_path / "x").exists()


def test_a_folder_that_holds_something_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for folder, message in (
        (tmp_path, f"{tmp_path} holds something already: give a new folder, or an empty one"),
        (tmp_path / "mine.txt", f"{tmp_path / 'mine.txt'} is a file: give a new folder, or an empty one"),
    ):
        with pytest.raises(ConfigError) as caught:
            export(federation_of({}), folder)
        assert str(caught.value) == message
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_a_full_disk_is_one_sentence_and_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Any, **arrays: Any) -> None:
        file.write(b"PK")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(RunError) as caught:
        export(federation_of({}), tmp_path / "x")
    assert str(caught.value) == f"{tmp_path / 'x'} cannot be written: No space left on device"
    assert not list(tmp_path.rglob("*.npz"))


@pytest.mark.parametrize("name", CONFIGS)
def test_what_the_server_is_told_of_a_client(tmp_path: Path, name: str) -> None:
    whole = federation_of(CONFIGS[name])
    export(whole, tmp_path)
    target = domain_of(whole)
    for client in range(whole.clients):
        own: Own = read_own(str(tmp_path / str(client)))
        scored = np.concatenate([part[client] for part in (whole.train, whole.test, target.test)])
        scored = np.concatenate([scored, whole.validation_of(client)])
        assert own.describe() == {
            "train": whole.train.sizes[client],
            "unlabelled": target.train.sizes[client],
            "test": whole.test.sizes[client],
            "validation": len(whole.validation_of(client)),
            "target_test": target.test.sizes[client],
            "public": len(whole.public),
            "shape": list(whole.shape),
            "dtype": str(whole.x.dtype),
            "largest_label": whole.y[scored].max(initial=-1),
            "labels": np.unique(whole.y[scored]).tolist(),
            "names": None,
        }
        assert json.loads(json.dumps(own.describe())) == own.describe()
