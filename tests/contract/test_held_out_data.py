"""What is in the samples of clients that are held out changes no bit of what the others train on, however divided."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedtl.data import read_data
from fedtl.data.federate import federate, federate_with_divisions
from fedtl.data.federation import Federation
from fedtl.data.partitions import PARTITIONS, read_partition
from fedtl.data.partitions.on_top import OnTop
from fedtl.data.split import write_split

OWNERS, EACH, CLASSES = 4, 30, 3
HELD_OUT = [0, 2]
"""One that comes before the others, so that what is drawn for it is drawn first."""

# Another package's partitioners are an extra.
NAMES = sorted(PARTITIONS.keys() - {"flwr-datasets"})
ON_TOP = [name for name in NAMES if name != "file" and isinstance(read_partition(name), OnTop)]

SMALL: dict[str, dict[str, Any]] = {"pfllib-pathological": {"balance": True}}
"""What else a partition needs for so few samples."""

TASKS: dict[str, dict[str, Any]] = {
    "classification": {},
    "regression": {"task": "regression"},
}


@dataclass(frozen=True)
class Made:
    """Images of floats with owners, and what is predicted of them."""

    x: NDArray[np.float32]
    y: NDArray[Any]
    owner: NDArray[np.int64]

    @classmethod
    def of(cls, task: str) -> Made:
        rng, n = np.random.default_rng(0), OWNERS * EACH
        y = rng.permutation(np.arange(n) % CLASSES) if task == "classification" else rng.normal(size=n)
        return cls(rng.normal(size=(n, 1, 6, 6)).astype(np.float32), y, rng.permutation(np.arange(n) % OWNERS))

    def changed(self, theirs: NDArray[np.bool_]) -> Made:
        """Other, brighter images in some places, and other labels or larger outcomes."""
        rng = np.random.default_rng(1)
        x, y = self.x.copy(), self.y.copy()
        x[theirs] = 50 * rng.normal(size=x[theirs].shape) + 7
        y[theirs] = (
            (y[theirs] + 1 + rng.integers(0, 2, theirs.sum())) % CLASSES
            if y.dtype.kind == "i"
            else (100 + 30 * y[theirs])
        )
        return Made(x, y, self.owner)

    def options(self, file: Path) -> dict[str, Any]:
        np.savez(file, x=self.x, y=self.y, user=self.owner)
        return {"name": "npz", "path": str(file), "held_out_clients": HELD_OUT}


def seen(federation: Federation) -> dict[str, NDArray[Any]]:
    """All that the clients train on, and choose by, who are not held out, as their models see it."""
    found: dict[str, NDArray[Any]] = {}
    stages = [federation, *(federation.at(later.first) for later in federation.later)]
    for stage in range(len(stages)):
        one = stages[stage]
        unlabelled = None if one.target is None else one.target.train
        for kind, shards in (("train", one.train), ("validation", one.validation), ("unlabelled", unlabelled)):
            for client in set(range(one.clients)) - {*HELD_OUT} if shards is not None else ():
                rows = shards[client]
                key = f"{stage} {kind} {client}"
                found[f"{key} x"] = one.x[rows] * one.scale + one.shift
                found[f"{key} y"] = one.y[rows] if one.outcomes is None else one.outcomes.values[rows]
    found["outputs"] = np.array([federation.classes])
    if federation.outcomes is not None:
        found["units"] = np.array([federation.outcomes.mean, federation.outcomes.std])
    return found


def check_same(one: Federation, other: Federation) -> None:
    before, after = seen(one), seen(other)
    assert before.keys() == after.keys()
    assert any(key.endswith("x") and len(before[key]) for key in before)
    for key in before:
        assert before[key].tobytes() == after[key].tobytes(), key
    held = np.concatenate([one.train[client] for client in HELD_OUT])
    assert not np.array_equal(one.x[held], other.x[held])  # their own have changed


def options_of(name: str, base: Any) -> dict[str, Any]:
    """A partition that leaves it to another who holds what, with all that it may do to samples."""
    partition = {"name": name, "base": base}
    if name == "drift":
        partition["stages"] = [
            {"after": 1, "partition": {"name": other, "base": "natural"}} for other in ON_TOP if other != "drift"
        ][:1]
    return partition


FURTHER: dict[str, dict[str, Any]] = {
    "as they are": {},
    "few labels": {"labelled_fraction": 0.5, "validation_share": 0.2},
    "few samples": {"samples": 70},
    "no server": {"server_test_share": 0.0, "normalise": "pixel"},
}


@pytest.mark.parametrize("further", FURTHER)
@pytest.mark.parametrize("task", TASKS)
def test_owners_clients(tmp_path: Path, task: str, further: str) -> None:
    """Nor does who tests what at the server follow from it."""
    made = Made.of(task)
    data = {**made.options(tmp_path / "one.npz"), "partition": "natural", **TASKS[task], **FURTHER[further]}
    other = made.changed(np.isin(made.owner, HELD_OUT)).options(tmp_path / "other.npz")
    for seed in range(3):
        one, two = (federate(read_data({**data, **change}), seed) for change in ({}, other))
        check_same(one, two)
        theirs = [rows[~np.isin(made.owner[rows], HELD_OUT)] for rows in (one.server_test, two.server_test)]
        assert np.array_equal(*theirs)
        if further == "as they are":
            assert len(one.server_test) == round(0.2 * OWNERS * EACH)
            assert np.bincount(made.owner[one.server_test]).tolist() == [EACH // 5] * OWNERS


@pytest.mark.parametrize("name", ON_TOP)
@pytest.mark.parametrize("task", TASKS)
def test_what_a_partition_makes_of_samples(tmp_path: Path, name: str, task: str) -> None:
    if task == "regression" and name in ("label-noise", "permuted-labels", "drift"):
        pytest.skip("it changes labels, or its first stage does, and there are none")
    made = Made.of(task)
    data = {**made.options(tmp_path / "one.npz"), "partition": options_of(name, "natural"), **TASKS[task]}
    other = made.changed(np.isin(made.owner, HELD_OUT)).options(tmp_path / "other.npz")
    check_same(*(federate(read_data({**data, **change}), 0) for change in ({}, other)))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "file" and name != "drift"])
def test_whatever_has_divided_them(tmp_path: Path, name: str) -> None:
    """A rule that goes by labels decides who holds what; as that stands in a file, nothing else follows from it."""
    made, file = Made.of("classification"), tmp_path / "split.npz"
    data = made.options(tmp_path / "one.npz")
    counts = {} if read_partition(name).by_owner else {"clients": OWNERS}
    partition: Any = options_of(name, "natural") if name in ON_TOP else {"name": name, **SMALL.get(name, {})}
    one, divisions = federate_with_divisions(read_data({**data, **counts, "partition": partition}), 0)
    write_split(divisions.source.split(), file)
    base = {"name": "file", "path": str(file)}
    data["partition"] = options_of(name, base) if name in ON_TOP else {"name": "corrupted", "base": base}
    held = np.concatenate([part[client] for part in (one.train, one.test) for client in HELD_OUT])
    theirs = np.isin(np.arange(len(made.y)), held)
    other = made.changed(theirs).options(tmp_path / "other.npz")
    check_same(*(federate(read_data({**data, **change}), 0) for change in ({}, other)))


def test_domains_and_targets(tmp_path: Path) -> None:
    """Where one is held out of each domain, and where all clients hold the target as well."""
    made = Made.of("classification")
    theirs = np.isin(made.owner, HELD_OUT)
    plain, changed = made, made.changed(theirs)
    files = {name: each.options(tmp_path / f"{name}.npz") for name, each in (("plain", plain), ("changed", changed))}
    corrupted = {"name": "corrupted", "base": "natural"}

    def several(name: str) -> Federation:
        one = {"name": "npz", "path": files[name]["path"]}
        two = {"name": "npz", "path": files["plain"]["path"]}
        choice = {"name": "domains", "domains": {"one": one, "two": two}, "partition": corrupted}
        return federate(read_data({**choice, "held_out_clients": HELD_OUT, "disjoint": False}), 0)

    check_same(several("plain"), several("changed"))

    def with_target(name: str) -> Federation:
        target = {"name": "npz", "path": files[name]["path"], "partition": corrupted}
        return federate(read_data({**files[name], "partition": corrupted, "target": target}), 0)

    check_same(with_target("plain"), with_target("changed"))
