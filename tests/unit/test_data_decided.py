"""What tables' columns become follows from the rows that clients train on, whatever divides these from others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedtl.choice import ConfigError
from fedtl.data import read_data
from fedtl.data.federate import federate
from fedtl.data.federation import Federation

N = 40
GAP = 7
"""The row whose cell in ``a`` has no value; others' is their number, squared, so that no two means agree."""

TABLE = "who,a,b,w,label\n" + "".join(
    f"{'xyz'[i % 3]},{'' if i == GAP else i * i},{i},{'AB'[i % 2] if i != 11 else 'RARE'},{i // 2 % 2}\n"
    for i in range(N)
)


def data(folder: Path, missing: str = "mean", **options: Any) -> dict[str, Any]:
    (folder / "all.csv").write_text(TABLE)
    (folder / "split.csv").write_text(
        "row,client,test\n" + "".join(f"{i},{i % 4},{int(i >= 25 or i == 11)}\n" for i in range(N - 2))
    )
    whose = {} if "owner" in options else {"leave_out": ["who"]}
    one = {"name": "files", "path": str(folder / "all.csv"), "missing": missing, "normalise": "none"}
    return {**one, "categorical": ["w"], **whose, **options}


def one_file(folder: Path, **options: Any) -> dict[str, Any]:
    return data(folder, clients=3, partition="iid", **options)


def a_split(folder: Path, **options: Any) -> dict[str, Any]:
    return data(folder, partition={"name": "file", "path": str(folder / "split.csv")}, **options)


def a_split_of_owners(folder: Path, **options: Any) -> dict[str, Any]:
    return a_split(folder, owner="who", test_share=0.5, **options)


def some_rows(folder: Path, **options: Any) -> dict[str, Any]:
    return data(folder, owner="who", partition="natural", samples=25, **options)


def a_servers_test_set(folder: Path, **options: Any) -> dict[str, Any]:
    return data(folder, owner="who", partition="natural", server_test_share=0.4, **options)


def seen_otherwise(folder: Path, **options: Any) -> dict[str, Any]:
    return data(folder, clients=3, partition={"name": "noisy", "sigma": 0.0, "base": "iid"}, **options)


def domains(folder: Path, **options: Any) -> dict[str, Any]:
    one = data(folder, **options)
    del one["normalise"]
    return {"name": "domains", "domains": {"one": one}, "clients": 3, "partition": "iid", "normalise": "none"}


DIVIDED = [one_file, a_split, a_split_of_owners, some_rows, a_servers_test_set, seen_otherwise, domains]


def trained(federation: Federation) -> list[list[int]]:
    """Each client's training rows, but for the one with the gap; the second column says which they are."""
    rows = federation.x[:, 1].astype(int)
    return [[row for row in rows[own] if row != GAP] for own in federation.train]


@pytest.mark.parametrize("divided", DIVIDED)
def test_gaps_and_words_are_decided_by_training_rows(tmp_path: Path, divided: Any) -> None:
    for seed in range(4):
        federation = federate(read_data(divided(tmp_path)), seed)
        assert federation.columns is not None
        theirs = trained(federation)
        everybodys = [row for own in theirs for row in own]
        assert len(everybodys) < N - 1
        fill = np.mean([row**2 for row in everybodys])
        assert federation.columns.each[0].fill == pytest.approx(fill)
        assert federation.x[federation.x[:, 1] == GAP, 0] == pytest.approx(fill)
        present = {"AB"[row % 2] if row != 11 else "RARE" for row in everybodys}
        assert {*federation.columns.each[2].words} == present
        assert federation.shape == (2 + len(present),)


def test_a_median_is_of_the_clients_own(tmp_path: Path) -> None:
    federation = federate(read_data(one_file(tmp_path, missing="median")), 1)
    each = sorted((np.median([row**2 for row in own]), len(own)) for own in trained(federation))
    half, so_far = sum(size for _, size in each) / 2, np.cumsum([size for _, size in each])
    assert federation.columns is not None
    assert federation.columns.each[0].fill == each[int(np.searchsorted(so_far, half))][0]


def test_owners_own_draw_decides_as_before(tmp_path: Path) -> None:
    """With the same bits: their files say which rows are for training, as a deployment's do."""
    choice = read_data(data(tmp_path, owner="who", partition="natural"))
    loaded, federation = choice.load(), federate(choice, 0)
    assert (federation.x == loaded.x).all()
    assert federation.columns == loaded.columns


def test_a_target_is_decided_by_its_own_training_rows(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    target = one_file(tmp_path / "target", categorical=[])
    target.update(leave_out=["who", "w"], clients=None)
    del target["normalise"]
    source = {**one_file(tmp_path, categorical=[]), "leave_out": ["who", "w"], "target": target}
    federation = federate(read_data(source), 0)
    assert federation.target is not None
    used = federation.x[federation.target.train.order]
    fills = federation.x[federation.x[:, 1] == GAP, 0]
    assert fills[0] == pytest.approx(used[used[:, 1] != GAP, 0].mean(), rel=1e-5)
    assert len(fills) == 2


def test_words_that_only_the_targets_clients_train_on(tmp_path: Path) -> None:
    """One number of a sample would stand for different words."""
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "all.csv").write_text(TABLE)
    source = a_split(tmp_path)
    source["target"] = {**data(tmp_path / "target"), "clients": 2, "partition": "iid", "test_share": 0.0}
    source["target"]["server_test_share"] = 0.0
    del source["target"]["normalise"]
    with pytest.raises(
        ConfigError, match=r"data\.target.*the column 'w' has the words A, B, RARE, and in \[data\] A, B"
    ):
        federate(read_data(source), 0)


def test_a_column_without_a_value_in_training_rows(tmp_path: Path) -> None:
    choice = a_split(tmp_path)
    (tmp_path / "all.csv").write_text(
        "who,a,b,w,label\n" + "".join(f"x,{i if i > 24 else ''},{i},A,{i % 2}\n" for i in range(N))
    )
    with pytest.raises(ConfigError, match="the column 'a' has no value in any training row"):
        federate(read_data(choice), 0)


def test_domains_whose_columns_became_different_have_none(tmp_path: Path) -> None:
    """Their gaps are filled by different numbers, and a model that is exported could fill by one of them alone."""
    one = domains(tmp_path, categorical=[], leave_out=["who", "w"])
    (tmp_path / "two").mkdir()
    two = domains(tmp_path / "two", categorical=[], leave_out=["who", "w"])["domains"]["one"]
    federation = federate(read_data({**one, "domains": {**one["domains"], "two": two}, "clients": 4}), 0)
    assert federation.columns is None
    fills = federation.x[federation.x[:, 1] == GAP, 0]
    for domain, fill in enumerate(fills):
        assert federation.domain_of is not None
        clients = np.flatnonzero(federation.domain_of == domain).tolist()
        own = federation.x[np.concatenate([federation.train[client] for client in clients])]
        assert fill == pytest.approx(own[own[:, 1] != GAP, 0].mean(), rel=1e-5)
    assert fills[0] != fills[1]
