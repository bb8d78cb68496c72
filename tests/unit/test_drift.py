"""Drift: what clients hold changes after given rounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedtl
from fedtl.choice import ConfigError
from fedtl.config.read import build, read_config
from fedtl.data import read_data
from fedtl.data.export import export
from fedtl.data.federate import federate
from fedtl.data.federation import Federation, Shards
from fedtl.data.partitions import read_partition
from fedtl.export.features import opened
from fedtl.export.similarity import cosines, similarity_of

PERMUTED = {"name": "permuted-labels", "groups": 2}
DIRICHLET = {"name": "dirichlet", "alpha": 0.5}


def drift(*stages: tuple[int, Any], base: Any = "iid") -> dict[str, Any]:
    return {"name": "drift", "base": base, "stages": [{"after": after, "partition": each} for after, each in stages]}


def digits(partition: Any, **options: Any) -> Federation:
    return federate(read_data({"name": "digits", "clients": 6, "partition": partition, **options}), 0)


def config(partition: Any, method: str = "fedavg", rounds: int = 4) -> dict[str, Any]:
    return {
        "name": "drift",
        "rounds": rounds,
        "data": {"name": "digits", "samples": 300, "clients": 4, "partition": partition},
        "model": {"name": "logistic"},
        "strategy": {"name": method, "lr": 0.1, "local_steps": 3},
        "simulation": {"grid": "in-process", "traced": False},
    }


def in_order(shards: Shards) -> np.ndarray:
    """Each client's samples in the order of the data set, one client after another."""
    return np.concatenate([np.sort(shards[client]) for client in range(len(shards))])


def test_before_the_first_stage_it_is_as_its_base_alone() -> None:
    alone, drifting = digits("iid"), digits(drift((5, PERMUTED)))
    for round in (0, 1, 5):
        now = drifting.at(round)
        for a, b in ((alone.train, now.train), (alone.test, now.test)):
            assert np.array_equal(a.order, b.order)
            assert np.array_equal(alone.y[a.order], now.y[b.order])
    assert np.array_equal(alone.server_test, drifting.server_test)
    assert np.array_equal(alone.scale, drifting.scale)
    assert drifting.fingerprint() != alone.fingerprint()
    assert drifting.notes == ("from round 6 on clients hold what 'permuted-labels' gives them",)


def test_then_it_is_as_the_stages_partition_alone() -> None:
    """With the same rule within it clients keep their samples, and only see them differently."""
    rotated = {"name": "rotated", "angles": [0, 90]}
    drifting = digits(drift((5, PERMUTED), (8, rotated)), validation_share=0.2)
    for round, partition in ((6, PERMUTED), (8, PERMUTED), (9, rotated), (1000, rotated)):
        alone, now = digits(partition, validation_share=0.2), drifting.at(round)
        assert alone.validation is not None
        assert now.validation is not None
        for a, b in ((alone.train, now.train), (alone.test, now.test), (alone.validation, now.validation)):
            assert np.array_equal(a.offsets, b.offsets)
            assert np.array_equal(alone.x[in_order(a)], now.x[in_order(b)])
            assert np.array_equal(alone.y[in_order(a)], now.y[in_order(b)])


def test_nobody_trains_on_what_was_a_test_sample() -> None:
    drifting = digits(drift((1, DIRICHLET), (2, "shards")), validation_share=0.1)
    parts = []
    for round in (1, 2, 3):
        now = drifting.at(round)
        assert now.validation is not None
        kinds = (now.train, now.validation, now.test)
        parts.append([set(each.order.tolist()) for each in kinds])
        everything = set().union(*parts[-1])
        assert sum(map(len, parts[-1])) == len(everything) == 1438  # all but the server's, once
    assert parts[0] == parts[1] == parts[2]
    assert not np.array_equal(drifting.at(1).train.order, drifting.at(2).train.order)
    assert len(drifting.x) == 1797  # no sample is copied that stays as it was


def test_labels_are_wrong_on_the_same_kinds_of_samples_in_every_stage(tmp_path: Path) -> None:
    """Validation samples that are drawn are training samples before; those that a file names keep their labels."""
    noise = {"name": "label-noise", "share": 0.5, "kind": "pair"}
    right, sample, file = digits("iid").y, np.arange(1000), tmp_path / "split.npz"
    np.savez(file, sample=sample, client=sample % 6, test=sample % 5 == 0, validation=sample % 5 == 1)
    listed = {"name": "file", "path": str(file)}
    for base, drawn in (("iid", True), (listed, False)):
        partition = drift((2, noise), base={**noise, "base": base})
        drifting = digits(partition, validation_share=0.3 if drawn else 0)
        first = drifting.at(1)
        assert first.validation is not None
        held = np.sort(np.concatenate([each.order for each in (first.train, first.validation, first.test)]))
        labels = np.concatenate([right, right[held]])  # of the second stage's samples, which come after all others
        for round in (1, 3):
            now = drifting.at(round)
            assert now.validation is not None
            for client in range(6):
                train, validation, test = (each[client] for each in (now.train, now.validation, now.test))
                wrong = [now.y[rows] != labels[rows] for rows in (train, validation, test)]
                n = len(train) + drawn * len(validation)
                assert sum(map(np.sum, wrong)) == np.rint(0.5 * n)
                assert not wrong[2].any()
                assert wrong[1].any() == drawn


def test_each_domain_drifts_by_itself() -> None:
    table = {"plain": {"name": "digits"}, "inverted": {"name": "digits", "transform": {"invert": True}}}
    options = {"name": "domains", "domains": table, "clients": 4}
    drifting = federate(read_data({**options, "partition": drift((3, PERMUTED))}), 0)
    alone = federate(read_data({**options, "partition": PERMUTED}), 0)
    now = drifting.at(4)
    assert np.array_equal(now.y[in_order(now.train)], alone.y[in_order(alone.train)])
    assert np.array_equal(now.x[in_order(now.test)], alone.x[in_order(alone.test)])


def test_numbers_that_are_predicted_stay_with_their_samples() -> None:
    data = {"name": "diabetes", "task": "regression", "clients": 4}
    swapped = {"name": "swapped-features", "groups": 2, "share": 1}
    plain = federate(read_data({**data, "partition": "iid"}), 0)
    drifting = federate(read_data({**data, "partition": drift((3, swapped))}), 0)
    assert plain.outcomes is not None
    assert drifting.outcomes is not None
    now = drifting.at(4)
    assert len(drifting.outcomes) == len(drifting.y) == len(drifting.x) > len(plain.x)
    for before, after in ((plain.train, now.train), (plain.test, now.test)):
        values = plain.outcomes.values[in_order(before)]
        assert np.array_equal(values, drifting.outcomes.values[in_order(after)])
    client = np.sort(now.train[1])
    assert np.array_equal(np.sort(now.x[client], axis=1), np.sort(plain.x[np.sort(plain.train[1])], axis=1))
    with pytest.raises(ConfigError, match=r"it changes labels, and with data\.task = 'regression' there are none"):
        federate(read_data({**data, "partition": PERMUTED}), 0)


@pytest.mark.parametrize("method", ["fedavg", "central"])
def test_a_run_trains_and_scores_on_what_clients_hold_in_the_round(method: str, tmp_path: Path) -> None:
    """Up to the change it is the run without one; from there the run that was always so, from the same model."""
    changed, base = config(drift((2, PERMUTED)), method), config("iid", method)
    run, alone = fedtl.run(changed, out=tmp_path / "changed"), fedtl.run(base, out=tmp_path / "base")
    scores = [[record["scores"] for record in each.rounds] for each in (run, alone)]
    assert scores[0][:2] == scores[1][:2]
    assert scores[0][2:] != scores[1][2:]
    if method != "fedavg":
        return
    # The last round's scores by hand: the model that the run has written on the clients' test data of that round.
    whole = federate(read_config(changed)[0].data, 0)
    state = {name.rpartition(".")[2]: tensor.numpy() for name, tensor in run.state_dict().items()}
    now = whole.at(4)
    rows = now.test.order
    inputs = (now.x[rows] * now.scale + now.shift).reshape(len(rows), -1)
    right = ((inputs @ state["weight"].T + state["bias"]).argmax(1) == now.y[rows]).mean()
    assert run.last()["global/clients"].value == pytest.approx(right)


def test_a_run_that_is_resumed_goes_on_where_clients_hold_something_else(tmp_path: Path) -> None:
    partition = drift((2, PERMUTED), (3, DIRICHLET))
    whole = fedtl.run(config(partition, "ditto"), out=tmp_path / "whole")
    fedtl.run(config(partition, "ditto", rounds=3), out=tmp_path / "parted")
    parted = fedtl.run(config(partition, "ditto"), out=tmp_path / "parted", resume=True)
    assert [each["scores"] for each in parted.rounds] == [each["scores"] for each in whole.rounds]


def test_what_is_no_stage_is_refused(tmp_path: Path) -> None:
    for table, message in (
        ({"name": "drift", "stages": [{"after": 3}]}, r"data\.partition\.stages\.0\.partition is missing"),
        ({"name": "drift", "stages": 3}, r"data\.partition\.stages = 3: should be a list"),
        (drift((3, {"name": "iidd"})), r"data\.partition\.stages\[0\]\.partition\.name = 'iidd' is unknown"),
        (drift((3, "iid"), (3, "iid")), r"should be in the order of rounds, but 3 comes after 3"),
        (drift((3, {"name": "file", "path": "x.npz"})), r"stages\[0\]\.partition\.name = 'file': a stage is a rule"),
        (drift((3, drift((4, "iid")))), r"stages\[0\]\.partition\.name = 'drift': a stage is a rule"),
        (drift((0, "iid")), r"data\.partition\.stages\.0\.after = 0"),
        ({"name": "noisy", "base": drift((3, "iid"))}, r"data\.partition\.base\.name = 'drift': it stands outside"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_partition(table)
    with pytest.raises(ConfigError, match=r"data\.target\.partition\.name = 'drift': only what \[data\] itself gives"):
        digits("iid", target={"name": "digits", "partition": drift((3, "iid"))})
    with pytest.raises(
        ConfigError, match=r"'drift': it does not go with data\.target, or with data\.labelled_fraction"
    ):
        digits(drift((3, "iid")), labelled_fraction=0.5)
    with pytest.raises(ConfigError, match=r"what clients hold changes in round 4 of a run, and files do not"):
        export(digits(drift((3, "iid"))), tmp_path / "files")


def test_a_change_after_the_last_round_is_said_to_have_no_effect() -> None:
    read, notes = read_config(config(drift((2, "iid"), (9, "shards"))))
    assert "data.partition: what comes from round 10 on has no effect, as there are 4 rounds" in notes
    assert build(json.loads(json.dumps(read.tables()))) == read


def test_a_file_at_the_beginning_says_for_all_rounds_what_is_the_servers_and_what_nobodys(tmp_path: Path) -> None:
    sample, file = np.arange(1000), tmp_path / "split.npz"
    np.savez(file, sample=sample, client=sample % 6, test=sample % 5 == 0, server_test=np.arange(1000, 1200))
    listed = {"name": "file", "path": str(file)}
    drifting = digits(drift((2, "iid"), base=listed))
    now = drifting.at(3)
    assert drifting.server_test.tolist() == list(range(1000, 1200))
    assert sorted([*now.train.order.tolist(), *now.test.order.tolist()]) == list(range(1000))
    assert (now.test.order % 5 == 0).all()
    looks = {
        "name": "domains",
        "domains": {"plain": "digits", "inverted": {"name": "digits", "transform": {"invert": 1}}},
    }
    with pytest.raises(ConfigError, match=r"'drift': with several domains its base is a rule"):
        np.savez(file, sample=sample, client=sample // 899, test=sample % 5 == 0)
        federate(read_data({**looks, "partition": drift((2, "iid"), base=listed)}), 0)


def test_what_is_looked_at_after_a_run_is_what_clients_held_at_its_end(tmp_path: Path) -> None:
    run = fedtl.run(config(drift((1, DIRICHLET)), rounds=2), out=tmp_path / "run")
    whole = federate(read_config(config(drift((1, DIRICHLET))))[0].data, 0).at(2)
    assert np.array_equal(opened(run, "probe").federation.test.order, whole.test.order)
    assert np.array_equal(similarity_of(run).labels, cosines(whole.label_counts().astype(np.float64)))


def _elsewhere(federation: Federation) -> set[int]:
    """The test samples that some client trains on, in whatever round, who is not the one that holds it then."""
    stages = [federation.at(round) for round in (1, *(stage.first for stage in federation.later))]
    trained = {(federation.x[row].tobytes(), who) for f in stages for who in range(f.clients) for row in f.train[who]}
    return {
        int(row)
        for f in stages
        for who in range(f.clients)
        for row in f.test[who]
        if any((federation.x[row].tobytes(), other) in trained for other in range(f.clients) if other != who)
    }


def test_what_another_client_trains_on_in_a_later_round_counts(tmp_path: Path) -> None:
    """Each sample stands twice at its owner, so that nobody else trains on it before the samples are mixed."""
    x = np.repeat(np.random.default_rng(0).normal(size=(24, 2)).astype(np.float32), 2, axis=0)
    np.savez(tmp_path / "twice.npz", x=x, y=np.arange(48) % 4 // 2, user=np.arange(48) // 24)
    data = {"name": "npz", "path": str(tmp_path / "twice.npz"), "server_test_share": 0.0}

    def divided(partition: Any) -> Federation:
        return federate(read_data({**data, "partition": partition}), 0)

    for partition in ("natural", drift((1, {"name": "label-noise", "share": 0.5, "base": "natural"}), base="natural")):
        assert divided(partition).trained_elsewhere is None
    mixed = divided(drift((1, "iid"), base="natural"))
    leaked = _elsewhere(mixed)
    assert len(leaked) > 0
    assert mixed.trained_elsewhere is not None
    assert set(mixed.test.order[mixed.trained_elsewhere].tolist()) == leaked
    assert any(f"({len(leaked)} of {len(mixed.test.order)}) are equal to" in note for note in mixed.notes)
