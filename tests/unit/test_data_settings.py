"""Reading the [data] table."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fedtl.choice import ConfigError, load_object
from fedtl.data import DATASETS, read_data
from fedtl.data.partitions import PARTITIONS, read_partition
from fedtl.data.partitions.contract import Partition
from fedtl.data.partitions.dirichlet import Dirichlet
from fedtl.data.partitions.iid import IID
from fedtl.data.partitions.natural import Natural
from fedtl.data.settings import DataChoice


class Mine(IID):
    """A user's own partition."""

    strength: int = 1


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_data_set_reads_back_equal_from_its_own_dump(name):
    table = {"name": name, "clients": 12, "partition": {"name": "dirichlet", "alpha": 2}}
    if name in ("files", "images", "medmnist", "npz", "shakespeare"):
        table["path"] = "somewhere"
    if name == "domains":
        table["domains"] = {"plain": "digits", "other": {"name": "digits", "transform": {"invert": True}}}
    choice = read_data(table)
    assert choice.name == name
    assert choice.partition == Dirichlet(alpha=2.0)
    assert read_data(choice.model_dump()) == choice
    stored = choice.model_dump(mode="json", exclude_none=True)
    assert read_data(stored) == choice
    assert stored["partition"]["alpha"] == 2.0


@pytest.mark.parametrize("path", [*DATASETS.values(), *PARTITIONS.values()])
def test_a_row_of_a_registry_carries_its_own_name(path):
    registry = {**DATASETS, **PARTITIONS}
    kind = load_object(path, "test")
    assert issubclass(kind, DataChoice | Partition)
    assert registry[kind.model_fields["name"].default] == path


def test_defaults():
    choice = read_data({"name": "digits", "clients": 3})
    assert choice.partition == IID()
    assert (choice.test_share, choice.server_test_share, choice.pool, choice.normalise) == (
        0.25,
        None,
        "train",
        "dataset",
    )
    assert read_data({"name": "watch"}).partition == Natural()
    assert read_data({"name": "synthetic"}).clients == 100


def test_a_partition_may_be_a_bare_name_or_ones_own_class(monkeypatch):
    monkeypatch.setitem(sys.modules, "my_partitions", sys.modules[__name__])
    assert read_data({"name": "digits", "clients": 3, "partition": "shards"}).partition.name == "shards"
    own = {"name": "my_partitions:Mine", "strength": 4}
    choice = read_data({"name": "digits", "clients": 3, "partition": own})
    assert isinstance(choice.partition, Mine)
    assert choice.partition.strength == 4
    assert read_data(choice.model_dump()) == choice


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "data.name = None: give one of "),
        ({"name": "digit"}, "data.name = 'digit' is unknown: did you mean 'digits'?"),
        (
            {"name": "fedtl.data.partitions.iid:IID"},
            "data.name = 'fedtl.data.partitions.iid:IID': it is no subclass of ",
        ),
        ({"name": "digits"}, "data: clients is missing: the partition 'iid' must be told how many clients there are"),
        ({"name": "digits", "clients": 0}, "data.clients = 0: should be greater than 0"),
        ({"name": "digits", "client": 3}, "data.client is not a key here: did you mean 'clients'?"),
        ({"name": "digits", "clients": 3, "test_share": 1}, "data.test_share = 1: should be less than 1"),
        ({"name": "digits", "clients": 3, "pool": "test"}, "data.pool = 'test': should be 'train' or 'all'"),
        ({"name": "npz"}, "data.path is missing"),
        ({"name": "emnist", "clients": 3, "split": "x"}, "data.split = 'x': should be 'balanced', "),
        ({"name": "digits", "clients": 3, "partition": 5}, "data.partition = 5: give a table, as [data.partition] "),
        ({"name": "digits", "clients": 3, "partition": {}}, "data.partition.name = None: give one of "),
        (
            {"name": "digits", "clients": 3, "partition": {"name": "dirichlt"}},
            "data.partition.name = 'dirichlt' is unknown: did you mean 'dirichlet'?",
        ),
        (
            {"name": "digits", "clients": 3, "partition": {"name": "dirichlet", "alpha": -1}},
            "data.partition.alpha = -1: should be greater than 0",
        ),
        (
            {"name": "digits", "clients": 3, "partition": {"name": "dirichlet", "alhpa": 1}},
            "data.partition.alhpa is not a key here: did you mean 'alpha'?",
        ),
        (
            {"name": "digits", "clients": 3, "partition": {"name": "noisy", "base": {"name": "quantity", "alpha": 0}}},
            "data.partition.base.alpha = 0: should be greater than 0",
        ),
        (
            {"name": "digits", "clients": 3, "partition": "fedtl.data.sets.digits:Digits"},
            "data.partition.name = 'fedtl.data.sets.digits:Digits': it is no subclass of ",
        ),
    ],
)
def test_an_error_is_one_sentence_that_names_the_key(table, message):
    with pytest.raises(ConfigError) as caught:
        read_data(table)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_shift_keeps_to_the_owners_if_its_base_does():
    assert read_partition({"name": "noisy", "base": "natural"}).by_owner
    assert not read_partition("noisy").by_owner
    assert read_data({"name": "watch", "partition": {"name": "noisy", "base": "natural"}}).clients is None


def test_importing_the_data_layer_imports_no_torch():
    modules = {path.partition(":")[0] for path in (*DATASETS.values(), *PARTITIONS.values())}
    code = f"import sys, fedtl.data.federate, {', '.join(sorted(modules))}\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "torchvision", "sklearn", "seglearn"} & set(loaded)
