"""Flower Datasets' partitioners: the split is the one that their own code makes."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from fedtl.choice import ConfigError
from fedtl.data import read_data
from fedtl.data.federate import federate
from fedtl.data.partitions import read_partition

LABELS = np.random.default_rng(0).integers(5, size=400)
OWNER = np.random.default_rng(1).integers(7, size=400)


def assigned(partitioner: str, clients: int = 4, owner: Any = None, seed: int = 0, **options: Any) -> list[list[int]]:
    partition = read_partition({"name": "flwr-datasets", "partitioner": partitioner, "options": options})
    shards = partition.assign(LABELS, owner, clients, np.random.default_rng(seed))
    assert np.array_equal(np.sort(shards.order), np.arange(len(LABELS)))
    return [shards[client].tolist() for client in range(clients)]


def test_without_the_package_a_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flwr_datasets.partitioner", None)
    data = {"name": "digits", "clients": 4}
    data["partition"] = {"name": "flwr-datasets", "partitioner": "IidPartitioner"}
    with pytest.raises(ConfigError, match=r"needs the package flwr-datasets: pip install 'fedtl\[flwr-datasets\]'"):
        federate(read_data(data), 0)


class TestWithThePackage:
    @pytest.fixture(autouse=True)
    def _package(self) -> None:
        pytest.importorskip("flwr_datasets", reason="flwr-datasets is not installed")

    def test_dirichlet_is_their_own(self) -> None:
        import datasets
        from flwr_datasets.partitioner import DirichletPartitioner

        theirs = DirichletPartitioner(num_partitions=4, partition_by="label", alpha=0.5, seed=3)
        theirs.dataset = datasets.Dataset.from_dict({"label": LABELS, "place": np.arange(400)})
        expected = [list(theirs.load_partition(client)["place"]) for client in range(4)]
        assert assigned("DirichletPartitioner", alpha=0.5, seed=3) != assigned("DirichletPartitioner", alpha=0.5)
        partition = read_partition(
            {"name": "flwr-datasets", "partitioner": "DirichletPartitioner", "options": {"alpha": 0.5, "seed": 3}}
        )
        shards = partition.assign(LABELS, None, 4, np.random.default_rng(0))
        assert [shards[client].tolist() for client in range(4)] == expected

    @pytest.mark.parametrize(
        ("partitioner", "options"),
        [
            ("IidPartitioner", {}),
            ("LinearPartitioner", {}),
            ("SquarePartitioner", {}),
            ("ExponentialPartitioner", {}),
            (
                "PathologicalPartitioner",
                {"num_classes_per_partition": 2, "class_assignment_mode": "first-deterministic"},
            ),
            ("ShardPartitioner", {"num_shards_per_partition": 2}),
            ("SizePartitioner", {"partition_sizes": [100, 50, 150, 100]}),
        ],
    )
    def test_each_sample_is_one_clients(self, partitioner: str, options: dict[str, Any]) -> None:
        parts = assigned(partitioner, **options)
        assert parts == assigned(partitioner, **options)
        assert all(parts)

    def test_the_studys_seed_decides(self) -> None:
        draws = [assigned("DirichletPartitioner", seed=seed, alpha=0.5) for seed in (0, 0, 1)]
        assert draws[0] == draws[1] != draws[2]

    def test_owners(self) -> None:
        parts = assigned("NaturalIdPartitioner", clients=7, owner=OWNER)
        assert {len(set(OWNER[part])) for part in parts} == {1}
        with pytest.raises(ConfigError, match=r"data.clients = 4: NaturalIdPartitioner makes 7 clients of these data"):
            assigned("NaturalIdPartitioner", clients=4, owner=OWNER)

    @pytest.mark.parametrize(
        ("partitioner", "options", "sentence"),
        [
            ("DirichletPartitoner", {}, r"partitioner = 'DirichletPartitoner' is unknown: did you mean"),
            ("VerticalEvenPartitioner", {}, r"partitioner = 'VerticalEvenPartitioner' is unknown"),
            ("DirichletPartitioner", {"beta": 1}, r"options.beta: DirichletPartitioner has no such argument"),
            ("DirichletPartitioner", {"alpha": -1}, r"'DirichletPartitioner' cannot divide these data: .+"),
            ("DirichletPartitioner", {}, r"'DirichletPartitioner' cannot divide these data: .*alpha"),
        ],
    )
    def test_what_cannot_be_is_a_sentence(self, partitioner: str, options: dict[str, Any], sentence: str) -> None:
        with pytest.raises(ConfigError, match=sentence):
            assigned(partitioner, **options)
