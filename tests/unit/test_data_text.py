"""LEAF's Shakespeare and MedMNIST's files, of which small ones are written here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedtl.choice import ConfigError
from fedtl.config.read import read_config
from fedtl.data.federate import federate
from fedtl.data.federation import Federation
from fedtl.data.sets.shakespeare import LETTERS

MORE = {"model": {"name": "mlp"}, "strategy": {"name": "fedavg", "lr": 0.1}}


def federation_of(data: dict[str, Any]) -> Federation:
    config, _ = read_config({"name": "t", "rounds": 1, "data": data, **MORE})
    return federate(config.data, 0)


def refused(data: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as error:
        federation_of(data)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def leaf(tmp_path: Path) -> Path:
    """Two roles; a sample is a window of 80 letters of a speech, and the letter after."""
    speech = "But, soft! what light through yonder window breaks?\nIt is the east, and Juliet is the sun. "
    for part, roles in (("train", {"ROMEO": 5, "JULIET": 3}), ("test", {"ROMEO": 2, "JULIET": 1})):
        own = {
            role: {"x": [(speech * 2)[i : i + 80] for i in range(n)], "y": [(speech * 2)[i + 80] for i in range(n)]}
            for role, n in roles.items()
        }
        (tmp_path / part).mkdir()
        text = json.dumps({"users": [*own], "num_samples": [*roles.values()], "user_data": own})
        (tmp_path / part / "all_data.json").write_text(text)
    return tmp_path


def test_the_letter_after_80(leaf: Path) -> None:
    federation = federation_of({"name": "shakespeare", "path": str(leaf)})
    assert federation.train.sizes.tolist() == [3, 5]  # JULIET, ROMEO
    assert federation.test.sizes.tolist() == [1, 2]
    assert (federation.shape, federation.outputs) == ((80,), len(LETTERS))
    first = federation.train[1].min()
    assert "".join(LETTERS[int(token)] for token in federation.x[first]).startswith("But, soft!")
    assert LETTERS[federation.y[first]] == "s"  # of "Juliet is"


def test_every_next_letter(leaf: Path) -> None:
    federation = federation_of({"name": "shakespeare", "path": str(leaf), "task": "next_token"})
    assert federation.outcomes is not None
    values = federation.outcomes.values
    np.testing.assert_array_equal(values[:, :-1], federation.x[:, 1:])
    labelled = federation_of({"name": "shakespeare", "path": str(leaf)})
    np.testing.assert_array_equal(values[:, -1], labelled.y)


def test_a_role_stands_in_one_file(leaf: Path) -> None:
    data = {"name": "shakespeare", "path": str(leaf)}
    first, second = leaf / "train" / "all_data.json", leaf / "train" / "more.json"
    roles = json.loads(first.read_text())["user_data"]
    second.write_text(json.dumps({"user_data": {"ROMEO": roles["JULIET"]}}))
    assert refused(data).startswith(f"{second} has lines of 'ROMEO', and so has all_data.json: remove")
    second.write_text(json.dumps({"user_data": {"NURSE": roles["JULIET"], "ROMEO": {"x": [], "y": []}}}))
    assert federation_of(data).train.sizes.tolist() == [3, 3, 5]  # JULIET, NURSE, ROMEO
    second.rename(leaf / "train" / "more.json.old")
    assert federation_of(data).train.sizes.tolist() == [3, 5]
    assert f"{leaf / 'train'}: more.json.old is not read: roles are in files .json" in federation_of(data).notes


def test_what_is_not_leafs(leaf: Path, tmp_path: Path) -> None:
    file = leaf / "train" / "all_data.json"
    file.write_text(json.dumps({"user_data": {"a": {"x": ["£" * 80], "y": ["a"]}}}))
    assert "has the letter '£'; it is not LEAF's Shakespeare" in refused({"name": "shakespeare", "path": str(leaf)})
    file.write_text("[1]")
    assert "is not a file of LEAF's" in refused({"name": "shakespeare", "path": str(leaf)})
    file.unlink()
    assert "has no .json file" in refused({"name": "shakespeare", "path": str(leaf)})


def medmnist(path: Path, labels: int = 1, channels: int = 0) -> Path:
    """A file as MedMNIST's are: labels ``[n, L]``, images of colours with their channels last."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", 12), ("val", 4), ("test", 6)):
        shape = (n, 28, 28, channels) if channels else (n, 28, 28)
        arrays[f"{part}_images"] = rng.integers(0, 256, shape, dtype=np.uint8)
        arrays[f"{part}_labels"] = rng.integers(0, 2, (n, labels), dtype=np.uint8)
    np.savez(path, **arrays)
    return path


def test_medmnist(tmp_path: Path) -> None:
    file = medmnist(tmp_path / "bloodmnist.npz", channels=3)
    federation = federation_of({"name": "medmnist", "path": str(file), "clients": 2})
    assert federation.shape == (3, 28, 28)
    assert len(federation.server_test) == 6
    with np.load(file) as archive:
        image = archive["test_images"][0]
    np.testing.assert_array_equal(federation.x[federation.server_test[0]], np.moveaxis(image, -1, 0))
    several = medmnist(tmp_path / "chestmnist.npz", labels=14)
    federation = federation_of({"name": "medmnist", "path": str(several), "clients": 2, "task": "multilabel"})
    assert (federation.shape, federation.outputs) == ((1, 28, 28), 14)
    assert "marks several classes a sample" in refused({"name": "medmnist", "path": str(several), "clients": 2})
    assert "there is no such file" in refused({"name": "medmnist", "path": "nowhere.npz", "clients": 2})
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    text = refused({"name": "medmnist", "path": str(tmp_path / "other.npz"), "clients": 2})
    assert "has no array 'train_images'; it is not one of MedMNIST's files" in text
