"""Validation samples: who holds which, that nothing trains with them, and what the record says of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import fedtl
from fedtl import plot
from fedtl.choice import ConfigError
from fedtl.cli.printing import summary_table
from fedtl.data import read_data
from fedtl.data.federate import federate
from fedtl.data.federation import Federation, Shards
from fedtl.data.own.read import read_own
from fedtl.data.own.statistics import statistics
from fedtl.data.partitions import PARTITIONS
from fedtl.data.samples import Samples
from fedtl.data.schema import DataSchema
from fedtl.data.validation import drawn_for_validation
from fedtl.experiment import load_model
from fedtl.runs.baselines import gains
from fedtl.strategies import STRATEGIES
from tests.parts import METHODS, MODELS_OF
from tests.unit.test_deploy_agent import NAME, QUERY, STATISTICS_OF, SUMS, agent_of, declined, folder, made, message

assert folder
assert made  # fixtures

INVERTED = {"name": "digits", "transform": {"invert": True}}


def federation_of(seed: int = 3, **options: Any) -> Federation:
    return federate(read_data({"name": "digits", "clients": 8, **options}), seed)


def validation_of(federation: Federation) -> Shards:
    assert federation.validation is not None
    return federation.validation


def sentence(**options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        federation_of(**options)
    return str(caught.value)


# Who holds which.


def check_divided(without: Federation, share: float, federation: Federation) -> None:
    validation = validation_of(federation)
    assert np.array_equal(federation.test.order, without.test.order)
    assert np.array_equal(federation.server_test, without.server_test)
    assert (federation.scale.tobytes(), federation.shift.tobytes()) == (
        without.scale.tobytes(),
        without.shift.tobytes(),
    )
    assert len(federation.train) == len(validation) == len(without.train)
    for client, before in enumerate(without.train[i] for i in range(without.clients)):
        chosen = np.isin(before, validation[client])
        assert np.array_equal(before[chosen], validation[client])  # in their order
        assert np.array_equal(before[~chosen], federation.train[client])
        expected = min(max(round(share * len(before)), 1), len(before) - 1) if len(before) else 0
        assert len(validation[client]) == expected
        assert np.array_equal(federation.validation_of(client), validation[client])


@pytest.mark.parametrize("name", sorted(PARTITIONS.keys() - {"file", "flwr-datasets"}))
def test_under_each_partition_it_is_a_share_of_what_a_client_trained_with(name: str) -> None:
    options: dict[str, Any] = {"partition": name, "clients": 10}
    if name == "natural":
        options["name"] = "synthetic"
    check_divided(federation_of(**options), 0.3, federation_of(**options, validation_share=0.3))


@settings(max_examples=25, deadline=None)
@given(share=st.floats(1e-6, 0.999), seed=st.integers(0, 1000), clients=st.integers(1, 100))
def test_one_at_least_and_one_remains(share: float, seed: int, clients: int) -> None:
    options = {"clients": clients, "samples": 400}
    check_divided(federation_of(seed, **options), share, federation_of(seed, **options, validation_share=share))


def test_without_a_share_there_are_none() -> None:
    federation = federation_of(validation_share=0)
    assert federation.validation is None
    assert federation.validation_of(2).tolist() == []
    assert federation.validation_of(2).dtype == np.int64


def test_drawn_by_the_seed_and_the_client_alone() -> None:
    few, many = (federation_of(clients=n, samples=n * 40, validation_share=0.25) for n in (4, 9))
    for client in range(4):
        for federation in (few, many):
            whole = np.concatenate([federation.train[client], federation.validation_of(client)])
            drawn = drawn_for_validation(len(whole), 0.25, 3, client)
            assert drawn.sum() == len(federation.validation_of(client))
    assert np.array_equal(drawn_for_validation(40, 0.25, 3, 1), drawn_for_validation(40, 0.25, 3, 1))
    masks = {
        (seed, client): drawn_for_validation(40, 0.25, seed, client).tobytes() for seed in (3, 4) for client in (0, 1)
    }
    assert len(set(masks.values())) == 4
    again = federation_of(clients=4, samples=160, validation_share=0.25)
    assert np.array_equal(validation_of(few).order, validation_of(again).order)
    assert not np.array_equal(
        validation_of(few).order, validation_of(federation_of(4, clients=4, samples=160, validation_share=0.25)).order
    )


def test_each_sample_is_as_likely_as_any_other() -> None:
    drawn = sum(drawn_for_validation(10, 0.3, seed, 5).astype(int) for seed in range(3000))
    assert drawn.sum() == 9000
    assert abs(drawn / 3000 - 0.3).max() < 5 * (0.3 * 0.7 / 3000) ** 0.5


def test_few_labels_are_of_what_remains() -> None:
    before, federation = federation_of(), federation_of(validation_share=0.25, labelled_fraction=0.2)
    check_divided(before, 0.25, federation_of(validation_share=0.25))
    assert federation.target is not None
    for client in range(8):
        rest = np.setdiff1d(before.train[client], federation.validation_of(client))
        assert np.array_equal(np.sort(federation.target.train[client]), rest)
        assert set(federation.train[client]) <= set(rest)
        assert len(federation.train[client]) == max(1, np.rint(0.2 * len(rest)))


def test_clients_of_the_target_alone_have_none() -> None:
    federation = federation_of(validation_share=0.2, target={**INVERTED, "clients": 3})
    assert validation_of(federation).sizes.tolist()[8:] == [0, 0, 0]
    assert (validation_of(federation).sizes[:8] > 0).all()
    assert federation.clients == len(validation_of(federation)) == 11


def test_what_is_held_is_counted_the_same() -> None:
    assert np.array_equal(federation_of().label_counts(), federation_of(validation_share=0.4).label_counts())
    target = {"target": INVERTED}
    assert np.array_equal(
        federation_of(**target).label_counts(target=True),
        federation_of(**target, validation_share=0.4).label_counts(target=True),
    )


def test_a_client_with_one_training_sample_is_named() -> None:
    error = sentence(clients=30, samples=60, validation_share=0.2)  # one of two is for testing
    assert error == (
        "data.validation_share = 0.2: client 0 has 1 training sample with a label, and needs 2, one to train with and "
        "one for validation; give it more, have fewer clients, or leave the share out"
    )
    for share in (1, -0.1):
        with pytest.raises(ConfigError, match=r"^data\.validation_share = "):
            read_data({"name": "digits", "clients": 3, "validation_share": share})


# Data that bring validation samples of their own.

X = np.arange(12 * 3, dtype=np.float32).reshape(12, 3)
Y = np.arange(12) % 3
FRAME = DataSchema((3,), "float32", 3, (), np.ones(1, np.float32), np.zeros(1, np.float32))


def write_folder(folder: Path, kind: str) -> None:
    parts = {"train": slice(0, 6), "validation": slice(6, 9), "test": slice(9, 12)}
    for part, rows in parts.items():
        if kind == "npz":
            np.savez(folder / f"{part}.npz", x=X[rows], y=Y[rows])
            continue
        with (folder / f"{part}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["a", "b", "c", "label"], *([*x, y] for x, y in zip(X[rows], Y[rows]))])


def function() -> dict[str, Any]:
    return {
        "x": X[:6],
        "y": Y[:6],
        "x_validation": X[6:9],
        "y_validation": Y[6:9],
        "x_test": X[9:],
        "y_test": Y[9:],
    }


@pytest.mark.parametrize("kind", ["npz", "csv", "function"])
def test_a_clients_own_validation_part(kind: str, tmp_path: Path) -> None:
    if kind != "function":
        write_folder(tmp_path, kind)
    own = read_own(str(tmp_path) if kind != "function" else f"{__name__}:function")
    assert own.with_validation(0.5, 0, 0) is own  # the share is of those who bring none
    assert own.describe()["validation"] == 3
    federation = own.as_federation(FRAME, 1, 2)
    assert np.array_equal(federation.x[federation.validation_of(1)], X[6:9])
    assert federation.y[federation.validation_of(1)].tolist() == Y[6:9].tolist()
    assert federation.validation_of(0).tolist() == []
    assert np.array_equal(federation.x[federation.train[1]], X[:6])
    assert np.array_equal(federation.x[federation.test[1]], X[9:])


def test_a_clients_own_validation_images(tmp_path: Path) -> None:
    for i, part in enumerate(("train", "validation", "test")):
        for j, kind in enumerate(("cat", "dog")):
            (tmp_path / part / kind).mkdir(parents=True)
            Image.fromarray(np.full((2, 2), 10 * i + j, np.uint8)).save(tmp_path / part / kind / "1.png")
    own = read_own(str(tmp_path))
    assert own.x[own.validation].ravel().tolist() == [10] * 4 + [11] * 4
    assert own.y[own.validation].tolist() == [0, 1]


def test_a_class_may_be_called_validation(tmp_path: Path) -> None:
    for kind in ("validation", "other"):
        (tmp_path / kind).mkdir()
        for i in range(3):
            Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / kind / f"{i}.png")
    own = read_own(str(tmp_path), test_share=0)
    assert own.names == ("other", "validation")
    assert (len(own.train), len(own.validation)) == (6, 0)


def test_a_share_of_a_clients_own_samples_is_of_the_labelled_ones(tmp_path: Path) -> None:
    y = np.where(np.arange(12) % 2, Y, -1)
    np.savez(tmp_path / "train.npz", x=X, y=y)
    own = read_own(str(tmp_path)).with_validation(0.5, 7, 4)
    labelled = np.flatnonzero(y >= 0)
    assert np.array_equal(own.validation, labelled[drawn_for_validation(6, 0.5, 7, 4)])
    assert sorted([*own.train, *own.validation]) == list(range(12))
    federation = own.as_federation(FRAME, 4, 5)
    assert federation.target is not None
    assert not set(federation.target.train[4]) & set(federation.validation_of(4))
    np.savez(tmp_path / "train.npz", x=X[:2], y=[-1, 1])
    with pytest.raises(ConfigError, match=r"^data\.validation_share = 0\.5: client 4 has 1 training sample with a "):
        read_own(str(tmp_path)).with_validation(0.5, 7, 4)


def npz(tmp_path: Path, **options: Any) -> Federation:
    return federate(read_data({"name": "npz", "path": str(tmp_path), "normalise": "none", **options}), 0)


@pytest.mark.parametrize("tests", [True, False], ids=["own tests", "tests drawn"])
def test_a_folder_with_a_file_for_each_client(tests: bool, tmp_path: Path) -> None:
    for client in range(3):
        arrays = {key: value + 100 * client if key[0] == "x" else value for key, value in function().items()}
        np.savez(tmp_path / f"{client}.npz", **{k: v for k, v in arrays.items() if tests or "test" not in k})
    options = {} if tests else {"server_test_share": 0.1}
    federation = npz(tmp_path, validation_share=0.5, **options)
    trained = set(federation.server_test)
    for client in range(3):
        assert np.array_equal(federation.x[federation.validation_of(client)], X[6:9] + 100 * client)
        trained |= set(federation.train[client]) | (set() if tests else set(federation.test[client]))
    assert trained == set(range(18))
    assert read_data({"name": "npz", "path": str(tmp_path)}).load().mean == pytest.approx(
        np.mean([X[:6] + 100 * client for client in range(3)], axis=(0, 1))
    )
    with pytest.raises(
        ConfigError, match=r"for each client which samples are its (test|validation) data, so 'natural'"
    ):
        npz(tmp_path, clients=2, partition="iid")
    with pytest.raises(ConfigError, match=r"^data\.target: these data say which samples are for validation, but "):
        npz(tmp_path, target={"name": "npz", "path": str(tmp_path)})
    np.savez(tmp_path / "9.npz", x=X, y=Y, **({"x_test": X, "y_test": Y} if tests else {}))
    with pytest.raises(
        ConfigError, match=r"either all files have x_validation and y_validation or none, unlike 0\.npz"
    ):
        npz(tmp_path)


def test_one_file_has_none_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "all.npz"
    np.savez(file, x_validation=X, x=X, y=Y)
    federation = npz(file, clients=2, partition="iid")
    assert federation.validation is None
    assert federation.notes == (
        f"{file}: x_validation is not used, as only a folder's files, one for each client, have validation data of "
        "their own; data.validation_share draws some",
    )


# Runs.


def tables(method: str = "fedavg", **more: Any) -> dict[str, Any]:
    return {
        "name": "validated",
        "rounds": 2,
        "device": "cpu",
        "model": MODELS_OF.get(method, {"name": "mlp", "hidden": [4]}),
        "strategy": {"name": method, "local_steps": 2, "batch_size": 8, **METHODS[method]},
        "simulation": {"grid": "in-process", "stacked": False, "traced": False},  # no engine is tried out
        **more,
        "data": {"name": "digits", "clients": 4, "samples": 200, **more.get("data", {})},
    }


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def timeless(folder: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in line.items() if not key.startswith(("seconds", "elapsed"))}
        for line in lines(folder, "rounds.jsonl")
    ]


@pytest.mark.parametrize("method", sorted(STRATEGIES))
def test_each_method_is_scored_on_them_beside_the_test_data(method: str, tmp_path: Path) -> None:
    data: dict[str, Any] = {"validation_share": 0.25}
    if method == "feddf":
        data["public"] = {**INVERTED, "samples": 20}
    run = fedtl.run(tables(method, data=data), out=tmp_path / "run")
    names = set(run.last())
    pairs = {name for name in names if name.endswith("/clients")}
    assert pairs
    assert names == pairs | {name.replace("/", "/validation-") for name in pairs} | (names & {"global/server-test"})
    federation = federate(read_data({**tables(data=data)["data"]}), 0)
    last = lines(run.path, "clients.jsonl")[-1]
    assert last["validation"]["samples"] == validation_of(federation).sizes.tolist()
    assert last["samples"] == federation.test.sizes.tolist()
    assert last["validation"]["missing"] == []
    table = run.client_table("numpy")
    assert table["validation-clients/samples"].tolist() == validation_of(federation).sizes.tolist()
    assert run.scored()[f"{min(pairs).partition('/')[0]}/validation-clients"].of.tolist() == [4, 4]


def test_the_scores_are_the_models_own_on_those_samples(tmp_path: Path) -> None:
    config = tables(data={"validation_share": 0.25})
    run = fedtl.run(config, out=tmp_path / "run")
    federation, model = federate(read_data(config["data"]), 0), load_model(run)
    accuracy, loss = [], []
    for client in range(4):
        x, y = Samples(federation, torch.device("cpu")).batch(federation.validation_of(client))
        with torch.inference_mode():
            logits = model(x)
        accuracy.append(float((logits.argmax(1) == y).double().mean()))
        loss.append(float(torch.nn.functional.cross_entropy(logits, y)))
    own = lines(run.path, "clients.jsonl")[-1]["validation"]["scores"]["global/validation-clients"]
    assert own["accuracy"] == pytest.approx(accuracy)
    assert own["loss"] == pytest.approx(loss, rel=1e-5)
    assert run.last("loss", "mean")["global/validation-clients"].value == pytest.approx(np.mean(loss), rel=1e-5)


def test_training_is_that_of_clients_who_never_had_them(tmp_path: Path) -> None:
    """Their labels do not matter, and uploads weigh what is left."""
    config = tables(data={"validation_share": 0.25})
    federation = federate(read_data(config["data"]), 0)
    for client in range(4):
        where = tmp_path / "data" / f"{client}.npz"
        where.parent.mkdir(exist_ok=True)
        train, test = federation.train[client], federation.test[client]
        np.savez(
            where, x=federation.x[train], y=federation.y[train], x_test=federation.x[test], y_test=federation.y[test]
        )
    run = fedtl.run(config | {"data": {**config["data"], "normalise": "none"}}, out=tmp_path / "a")
    alone = {"name": "npz", "path": str(tmp_path / "data"), "normalise": "none", "classes": 10}
    other = fedtl.run({**config, "data": alone}, out=tmp_path / "b")
    ours, theirs = run.state_dict(), other.state_dict()
    assert {name: value.tobytes() for name, value in _arrays(ours)} == {n: v.tobytes() for n, v in _arrays(theirs)}
    assert run.last()["global/clients"] == other.last()["global/clients"]


def _arrays(state: Any) -> list[tuple[str, Any]]:
    return [(name, value.numpy()) for name, value in state.items()]


def test_without_a_share_nothing_is_recorded_of_them(tmp_path: Path) -> None:
    run = fedtl.run(tables(), out=tmp_path / "run")
    assert not [name for name in run.last() if "validation" in name]
    assert "validation" not in (tmp_path / "run" / "clients.jsonl").read_text()


def test_clients_without_test_samples_are_scored_on_them_alone(tmp_path: Path) -> None:
    run = fedtl.run(tables(data={"validation_share": 0.25, "test_share": 0}), out=tmp_path / "run")
    assert set(run.last()) == {"global/validation-clients", "global/server-test"}
    assert {"client", "validation-clients/samples"} <= set(run.client_table("numpy").dtype.names)
    with pytest.raises(ConfigError, match="no round with scores of single clients is recorded yet"):
        plot.per_client([run])


def test_resume(tmp_path: Path) -> None:
    config = tables("pfedme", data={"validation_share": 0.25}, rounds=3)
    fedtl.run(config, out=tmp_path / "whole")
    fedtl.run({**config, "rounds": 1}, out=tmp_path / "parts")
    fedtl.run(config, out=tmp_path / "parts", resume=True)
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "parts")
    with pytest.raises(ConfigError, match=r"data\.validation_share"):
        fedtl.run(config, ["data.validation_share=0.3"], out=tmp_path / "parts", resume=True)


def test_with_a_target_all_three_stand_side_by_side(tmp_path: Path) -> None:
    data = {"validation_share": 0.25, "target": {**INVERTED, "samples": 100}}
    run = fedtl.run(tables(data=data), out=tmp_path / "run")
    assert {"global/clients", "global/target-clients", "global/validation-clients"} <= set(run.last())
    last = lines(run.path, "clients.jsonl")[-1]
    for part, name in (
        (last, "clients"),
        (last["target"], "target-clients"),
        (last["validation"], "validation-clients"),
    ):
        assert list(part["scores"]) == [f"global/{name}"]
    assert set(run.client_scores()) == {"global/clients", "global/target-clients", "global/validation-clients"}


def test_pictures_and_gains_are_of_test_data(tmp_path: Path) -> None:
    run = fedtl.run(tables("pfedme", data={"validation_share": 0.25}), out=tmp_path / "run")
    other = fedtl.run(tables("local", data={"validation_share": 0.25}), out=tmp_path / "other")
    for figure in (plot.convergence([run]), plot.per_client([run]), plot.compare([run])):
        text = [axes.get_title(loc="left") for axes in figure.axes]
        text += [label.get_text() for axes in figure.axes for label in axes.get_yticklabels()]
        assert not [each for each in text if "validation" in each]
    (axes,) = plot.convergence([run], score="personal/validation-clients").axes
    assert axes.get_title(loc="left").startswith("Personalised model\non the clients' validation data")
    assert {gain.score for gain in gains(run, {"local": other})} == {"global/clients", "personal/clients"}
    names = [str(cell) for cell in summary_table([run]).columns[0].cells]
    assert "  global/validation-clients" in names
    assert names.index("  global/clients") < names.index("  global/validation-clients")


# Deployed.


def test_sums_for_the_normalisation_are_the_same_whatever_is_drawn(folder: Any) -> None:
    """Else those of two studies would differ by single samples."""
    own = read_own(str(folder.path / "data"))
    count, total, _ = statistics(own, "pixel")
    for share in (0, 0.1, 0.5):
        data = {"name": "digits", "clients": 3, "normalise": "pixel", "validation_share": share}
        reply = agent_of(folder).answer(QUERY, message(frame="", data=data, **{STATISTICS_OF: "pixel"}))
        description = json.loads(str(reply["description"]["description"]))  # type: ignore[index, call-overload]
        assert description[NAME] == "b"
        assert description["validation"] == round(12 * share)
        assert description["train"] == 12 - description["validation"]
        sums = {name: array.numpy() for name, array in reply[SUMS].items()}  # type: ignore[union-attr]
        assert sums["count"].tolist() == [count]
        assert np.array_equal(sums["total"], total)


def test_a_client_with_too_few_samples_declines(folder: Any, caplog: pytest.LogCaptureFixture) -> None:
    np.savez(folder.path / "data" / "train.npz", x=np.zeros((1, 4), np.float32), y=[0])
    data = {"name": "digits", "clients": 3, "validation_share": 0.5}
    for kind in (QUERY, "train"):
        error = declined(agent_of(folder), message(np.zeros(15), data=data), kind)
        assert error == "its data do not go with the experiment; its log says why"
    assert "data.validation_share = 0.5: client 1 has 1 training sample with a label" in caplog.text
