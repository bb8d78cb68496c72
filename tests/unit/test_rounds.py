"""The steps of a round at the server, each by itself: who is asked, whose replies failed, and what uploads come to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from flwr.app import MetricRecord, RecordDict

import fedtl
from fedtl.clients.contract import ClientUpdate, Weighting
from fedtl.clients.settings import Settings
from fedtl.config.read import build, read_config
from fedtl.data.federate import federate
from fedtl.failure import RunError
from fedtl.server.address import draw
from fedtl.server.gather import check_failures
from fedtl.server.reduce import UploadSums, split_buffers, total_weights
from fedtl.wire import messages as m

# address


def test_clients_are_drawn_by_seed_round_and_purpose_alone() -> None:
    drawn = draw(range(100), 10, seed=3, round=2)
    assert drawn == draw(range(100), 10, seed=3, round=2)
    others = [draw(range(100), 10, 4, 2), draw(range(100), 10, 3, 1), draw(range(100), 10, 3, 2, to_score=True)]
    assert all(other != drawn for other in others)
    assert drawn == sorted(set(drawn))


def test_only_eligible_clients_are_drawn_and_all_where_there_are_no_more() -> None:
    eligible = np.array([2, 5, 7, 11])
    assert set(draw(eligible, 2, 0, 1)) < {2, 5, 7, 11}
    for count in (None, 4, 9):
        assert draw(eligible, count, 0, 1) == [2, 5, 7, 11]
    assert draw(range(3), 0, 0, 1) == []


def test_clients_are_drawn_in_proportion_to_their_weights() -> None:
    """Who is drawn first is so with p_i; who second, with p_j / (1 - p_i): here worked out for four."""
    n = np.array([10.0, 0.0, 20.0, 30.0, 40.0])
    p, rounds = n / n.sum(), 4000
    drawn = np.zeros((2, 5))
    for count in (1, 2):
        for round in range(rounds):
            drawn[count - 1, draw(range(5), count, 0, round, weights=n)] += 1
    both = p + [sum(p[i] * p[j] / (1 - p[i]) for i in range(5) if i != j) for j in range(5)]
    for share, expected in zip(drawn / rounds, (p, both)):
        np.testing.assert_allclose(share, expected, atol=4 * np.sqrt(0.25 / rounds))
        assert share[1] == 0
    assert draw(range(5), 2, 0, 7, weights=n) == draw(range(5), 2, 0, 7, weights=10 * n)
    assert draw(np.array([1, 3]), 1, 0, 7, weights=n) == [3]
    assert draw(range(5), 4, 0, 7, weights=n) == [0, 2, 3, 4]
    assert draw(range(5), 2, 0, 7, weights=0 * n) == draw(range(5), 2, 0, 7)


def test_sampling_follows_the_stages_of_a_drift(tmp_path: Path) -> None:
    """By what clients hold in the round."""
    owners = {"name": "label-quantity", "labels_per_client": 2}
    later = {"name": "drift", "base": {"name": "iid"}, "stages": [{"after": 2, "partition": owners}]}
    tables = {
        "name": "sampling",
        "rounds": 4,
        "data": {"name": "digits", "clients": 20, "samples": 300, "partition": later},
        "model": {"name": "logistic"},
        "strategy": {"name": "fedavg", "lr": 0.1, "local_steps": 1, "clients_per_round": 2, "sampling": "samples"},
        "simulation": {"grid": "in-process", "stacked": False, "traced": False},
    }
    config = build(tables)
    run, federation = fedtl.run(tables, out=tmp_path / "run"), federate(config.data, config.seed)
    for line in run.rounds:
        sizes = federation.at(line["round"]).train.sizes.astype(np.float64)
        assert line["clients"] == draw(range(20), 2, config.seed, line["round"], weights=sizes)
    assert any(line["clients"] != draw(range(20), 2, config.seed, line["round"]) for line in run.rounds)


def test_sampling_counts_what_a_phase_trains_on(tmp_path: Path) -> None:
    """Labelled samples first, and then the target's."""
    target = {"name": "digits", "samples": 200, "transform": {"invert": True}}
    skewed = {"name": "dirichlet", "alpha": 0.3, "min_size": 2}
    tables = {
        "name": "sampling",
        "data": {"name": "digits", "clients": 12, "samples": 200, "partition": skewed, "target": target},
        "model": {"name": "logistic"},
        "strategy": {"name": "fedavg", "lr": 0.1, "local_steps": 1, "clients_per_round": 2, "sampling": "samples"},
        "phases": [{"rounds": 3}, {"rounds": 3, "objective": [{"term": "entropy"}]}],
        "simulation": {"grid": "in-process", "stacked": False, "traced": False},
    }
    config = build(tables)
    run, federation = fedtl.run(tables, out=tmp_path / "run"), federate(config.data, config.seed)
    assert federation.target is not None
    sizes = [shards.sizes.astype(np.float64) for shards in (federation.train, federation.target.train)]
    source, by_target = ([draw(range(12), 2, config.seed, r, weights=n) for r in range(1, 7)] for n in sizes)
    assert [line["clients"] for line in run.rounds] == source[:3] + by_target[3:] != source


NOT_TRIED_OUT = ["simulation.stacked=false", "simulation.traced=false"]
"""How clients train is no matter here."""


@pytest.mark.parametrize("phases", [1, 2])
def test_a_phase_s_options_are_the_server_s_too_even_if_it_is_the_only_one(phases: int, tmp_path: Path) -> None:
    config, _ = read_config("quickstart", ["data.partition=iid", "simulation.grid=in-process", *NOT_TRIED_OUT])
    tables = config.tables()
    del tables["objective"]  # each phase has its own
    tables["strategy"] |= {"clients_per_round": 4, "local_steps": 1}
    tables["rounds"] = phases
    tables["phases"] = [{"rounds": 1, "strategy": {"clients_per_round": 2}}] * phases
    run = fedtl.run(tables, out=tmp_path / "run")
    assert [len(line["clients"]) for line in run.rounds] == [2] * phases


# gather


@pytest.mark.parametrize(
    ("failed", "max_failures", "min_clients", "ends"),
    [
        (0, 0.0, None, False),
        (2, 0.5, None, False),
        (3, 0.5, None, True),
        (4, 1.0, None, True),  # nobody is left
        (3, 0.0, 1, False),
        (3, 0.5, 2, True),
    ],
)
def test_how_many_of_four_may_fail(failed: int, max_failures: float, min_clients: int | None, ends: bool) -> None:
    failures = [(client, "it broke") for client in range(failed)]
    if not ends:
        check_failures(failures, 4, 1, max_failures, min_clients)
        return
    key = f"min_clients = {min_clients}" if min_clients else f"max_failures = {max_failures:g}"
    why = "and none is left" if max_failures == 1 else f"more than {key} allows"
    with pytest.raises(RunError) as raised:
        check_failures(failures, 4, 1, max_failures, min_clients)
    assert str(raised.value) == (f"round 1: {failed} of 4 clients failed, {why}; client 0: it broke")


@pytest.mark.parametrize(("share", "clients", "most"), [(0.58, 50, 29), (0.29, 100, 29), (0.7, 90, 63), (1 / 3, 3, 1)])
def test_a_share_of_clients_is_a_whole_number_of_them(share: float, clients: int, most: int) -> None:
    """Though 0.58 times 50 is 28.999… as floats."""
    failures = [(client, "it broke") for client in range(most)]
    check_failures(failures, clients, 1, share, None)
    with pytest.raises(RunError, match=f"{most + 1} of {clients} clients failed"):
        check_failures([*failures, (most, "it broke")], clients, 1, share, None)


# reduce


def reply(total: float, row: float, statistics: float | None = None) -> RecordDict:
    content = RecordDict({m.METRICS: MetricRecord({m.PARTS: [1]})})
    content[m.ARRAYS] = m.pack(np.array([total]))
    content[m.ROWS] = m.pack_all({"own": np.array([[row]], np.float32)})
    if statistics is not None:
        content[m.STATISTICS] = m.pack(np.array([statistics]))
    return content


def test_uploads_come_to_the_same_bits_in_any_order() -> None:
    values = [0.1, 0.2, 0.3]  # of which (0.1 + 0.2) + 0.3 is not 0.1 + (0.2 + 0.3)
    results = []
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        sums = UploadSums()
        for place in order:
            sums.add(reply(values[place], place), [10 + place], (0, place))
        reduced = sums.total()
        assert reduced.rows["own"].flatten().tolist() == [0, 1, 2]
        assert reduced.statistics is None
        results.append(reduced.sums["w"].item())
    assert results == [(0.1 + 0.2) + 0.3] * 3


def test_who_failed_adds_nothing_and_statistics_are_no_upload() -> None:
    sums = UploadSums()
    sums.add_nothing(0)
    sums.add(reply(2.0, 5.0, statistics=7.0), [4], (0, 1))
    reduced = sums.total()
    assert {name: tensor.tolist() for name, tensor in reduced.sums.items()} == {"w": [2.0]}
    assert reduced.statistics is not None
    assert reduced.statistics.tolist() == [7.0]
    assert set(reduced.by_name) == {"w", "statistics"}


def test_clients_count_as_each_sum_says() -> None:
    assert total_weights({"a": "samples", "b": "uniform"}, [10, 20]) == {"a": 30, "b": 2}

    class Method(ClientUpdate[Settings]):
        sums: ClassVar[Mapping[str, Weighting]] = {"a": "samples", "b": "uniform", "c": "settings"}

    for setting in ("samples", "uniform"):
        settings = Settings.model_validate({"name": "any", "lr": 0.1, "weighting": setting})
        assert Method.counts(settings) == {"a": "samples", "b": "uniform", "c": setting}


def test_buffers_are_averaged_and_no_business_of_the_method() -> None:
    sums = {"w": torch.tensor([2.0, 4, 6, 8], dtype=torch.float64), "c": torch.ones(4)}
    trained, buffers = split_buffers(sums, {"w": 2, "c": 2}, parameters=3)
    assert trained["w"].tolist() == [2.0, 4, 6]
    assert len(trained["c"]) == 4
    assert buffers is not None
    assert buffers.tolist() == [4.0]
    for parameters in (None, 4):
        assert split_buffers(sums, {"w": 2, "c": 2}, parameters) == (sums, None)
