"""Splits of clients' own files count the files' rows, so that they mean the same ones however these are read."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedtl.choice import ConfigError
from fedtl.data import read_data
from fedtl.data.federate import federate, federate_with_divisions
from fedtl.data.federation import Federation, Shards
from fedtl.data.split import Split, read_split, write_split

Options = dict[str, Any]


def table(file: Path, rows: int, start: int = 0, gaps: tuple[int, ...] = ()) -> None:
    """Rows of which each says in ``number`` which one it is, with gaps in another column, of two owners in turn."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as opened:
        lines = csv.writer(opened)
        lines.writerow(["who", "number", "v", "label"])
        lines.writerows(["ab"[i % 2], start + i, "" if i in gaps else i * i % 7, i % 3 % 2] for i in range(rows))


def folder(place: Path) -> Options:
    table(place / "north.csv", 20)
    table(place / "south.csv", 12, 100)
    return {"path": str(place), "leave_out": ["who"]}


def owners(place: Path) -> Options:
    table(place / "all.csv", 24)
    return {"path": str(place / "all.csv"), "owner": "who"}


def mixed(place: Path) -> Options:
    table(place / "north.csv", 20, gaps=(3,))
    table(place / "south" / "train.csv", 8, 100)
    table(place / "south" / "validation.csv", 4, 200)
    table(place / "south" / "test.csv", 4, 300)
    return {"path": str(place), "leave_out": ["who"], "missing": "drop"}


def images(place: Path) -> Options:
    for number in range(40):
        file = place / "ab"[number % 2] / "cd"[number % 3 % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((2, 2), number, np.uint8)).save(file)
    return {"path": str(place)}


def domains(place: Path) -> Options:
    each = {"one": folder(place / "one"), "two": folder(place / "two")}
    tables = {name: {"name": "files", **options} for name, options in each.items()}
    return {"name": "domains", "domains": tables, "partition": "natural"}


KINDS = {make.__name__: make for make in (folder, owners, mixed, images, domains)}


def divided(options: Options, **others: Any) -> tuple[Federation, Split]:
    data = read_data({"name": "files", "normalise": "none", **options, **others})
    federation, divisions = federate_with_divisions(data, 0)
    return federation, divisions.source.split()


def numbers(federation: Federation, shards: Shards | None) -> list[list[int]]:
    """Which rows clients hold, in their order."""
    x = federation.x.reshape(len(federation.x), -1)[:, 0]
    return [] if shards is None else [x[rows].astype(int).tolist() for rows in shards]


def held(federation: Federation) -> tuple[list[list[int]], ...]:
    return tuple(numbers(federation, part) for part in (federation.train, federation.test, federation.validation))


def by(file: Path) -> Options:
    return {"partition": {"name": "file", "path": str(file)}}


@pytest.mark.parametrize("ending", ["npz", "csv"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_split_means_the_same_rows_whatever_the_share(tmp_path: Path, kind: str, ending: str) -> None:
    options, file = KINDS[kind](tmp_path / "data"), tmp_path / f"split.{ending}"
    federation, split = divided(options)
    write_split(split, file)
    for share in (0.25, 0.1, 0.5, 0.0):
        again, split_again = divided(options, **by(file), test_share=share)
        assert held(again) == held(federation)
        assert (split_again.sample == split.sample).all()
        ignored = f"data.test_share = {share:g} has no effect: the file says which samples are for testing"
        assert (ignored in again.notes) == (share != 0.25)
    again, _ = divided(options, **by(file))
    assert (again.x == federation.x).all()
    assert again.fingerprint() == federation.fingerprint()


@pytest.mark.parametrize("ending", ["npz", "csv"])
def test_a_split_of_whole_rows_is_read_where_gaps_are_filled(tmp_path: Path, ending: str) -> None:
    table(tmp_path / "all.csv", 20, gaps=(2, 5))
    options = {"path": str(tmp_path / "all.csv"), "leave_out": ["who"], "clients": 2, "partition": "iid"}
    whole, split = divided(options, missing="drop")
    assert split.server_test is not None
    assert sorted([*split.sample, *split.server_test]) == sorted({*range(20)} - {2, 5})
    write_split(split, tmp_path / f"split.{ending}")
    assert held(divided({**options, **by(tmp_path / f"split.{ending}")}, missing="mean")[0]) == held(whole)
    _, split = divided(options, missing="mean")
    write_split(split, tmp_path / f"filled.{ending}")
    with pytest.raises(ConfigError, match=r"row [25], counted from 0, is none of the samples of data\.name = 'files'"):
        divided({**options, **by(tmp_path / f"filled.{ending}")}, missing="drop")


def test_rows_by_hand(tmp_path: Path) -> None:
    """Of one file with owners, whose rows do not stand owner by owner there."""
    options, file = owners(tmp_path), tmp_path / "hand.csv"
    file.write_text("row,client,test\n" + "".join(f"{i},{i // 6},{int(i % 6 > 3)}\n" for i in range(24)))
    train, test, _ = held(divided(options, **by(file))[0])
    assert train == [[first, first + 1, first + 2, first + 3] for first in range(0, 24, 6)]
    assert test == [[first + 4, first + 5] for first in range(0, 24, 6)]
    file.write_text("row,client\n0,0\n24,0\n")
    with pytest.raises(ConfigError, match="row has 24, but the files of 'files' have 24 rows, 0 to 23"):
        divided(options, **by(file))
    file.write_text("row,sample,client\n0,0,0\n")
    with pytest.raises(ConfigError, match="has 'sample' and 'row', which both say"):
        read_split(file)


def test_where_rows_stand_in_order_they_are_samples(tmp_path: Path) -> None:
    table(tmp_path / "all.csv", 6)
    options = {"path": str(tmp_path / "all.csv"), "leave_out": ["who"]}
    for place in ("row", "sample"):
        (tmp_path / "hand.csv").write_text(f"{place},client,test\n3,0,0\n1,0,1\n4,1,0\n")
        federation, split = divided(options, **by(tmp_path / "hand.csv"))
        assert held(federation)[:2] == ([[3], [4]], [[1], []])
        assert not split.by_row  # and is written as it always was


OLDER = {  # what is in the file, whether it is known which rows are meant, at which share
    "saved, and read at the share": (True, True, 0.25, 0.25),
    "saved, and read at another": (True, False, 0.25, 0.1),
    "saved, and read without a draw": (True, False, 0.25, 0.0),
    "a list, which may count rows or samples": (False, False, 0.25, 0.25),
    "a list without test samples, where both are the same": (False, True, 0.0, 0.0),
}


@pytest.mark.parametrize("case", OLDER)
def test_files_that_count_samples(tmp_path: Path, case: str) -> None:
    """As versions wrote them that knew no rows: they are read where it is known which rows they mean."""
    saved, known, share, read_at = OLDER[case]
    options = folder(tmp_path / "data")
    federation, _ = divided(options, test_share=share, server_test_share=0.0)
    parts = federation.train, federation.test
    entries = {
        "sample": np.concatenate([part.order for part in parts]),
        "client": np.concatenate([part.client_of for part in parts]),
        "test": np.repeat([False, True], [len(part.order) for part in parts]),
    }
    file = tmp_path / ("old.npz" if saved else "old.csv")
    if saved:
        np.savez(file, **entries, server_test=federation.server_test, total=len(federation.x))
    else:
        lines = zip(*(values.astype(int).tolist() for values in entries.values()))
        file.write_text("sample,client,test\n" + "".join(",".join(map(str, line)) + "\n" for line in lines))
    if known:
        assert held(divided(options, **by(file), test_share=read_at)[0]) == held(federation)
    else:
        with pytest.raises(ConfigError, match="does not say which rows of the files it means: the order of samples"):
            divided(options, **by(file), test_share=read_at)


def test_lists_of_tables_with_gaps(tmp_path: Path) -> None:
    """A list of samples may be of those rows alone that have no gap, unless it names a later one."""
    table(tmp_path / "all.csv", 20, gaps=(2, 5))
    options = {"path": str(tmp_path / "all.csv"), "leave_out": ["who"], "missing": "mean", **by(tmp_path / "list.csv")}
    (tmp_path / "list.csv").write_text("sample,client\n" + "".join(f"{i},{i % 2}\n" for i in range(20)))
    divided(options, server_test_share=0.0)
    (tmp_path / "list.csv").write_text("sample,client\n" + "".join(f"{i},{i % 2}\n" for i in range(18)))
    with pytest.raises(ConfigError, match="does not say which rows of the files it means"):
        divided(options)


def test_a_split_of_other_files_is_refused(tmp_path: Path) -> None:
    options, file = folder(tmp_path / "data"), tmp_path / "split.npz"
    write_split(divided(options)[1], file)
    table(tmp_path / "data" / "north.csv", 21)
    with pytest.raises(ConfigError, match=r"is a split of 32 rows, but the files of 'files' have 33"):
        federate(read_data({"name": "files", **options, **by(file)}), 0)
