"""Parquet in place of .csv files: the same numbers, words and gaps, in a simulation, at a client and in predictions."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedtl.choice import ConfigError
from fedtl.data import read_data
from fedtl.data.own.lines import header_of
from fedtl.data.own.read import read_own
from fedtl.data.schema import DataSchema
from fedtl.export.predict import read_samples

TABLES: dict[str, dict[str, list[Any]]] = {
    "bern": {
        "age": [40, 50, None, 71],
        "weight": [60.1, 1 / 3, 1e-7, float("nan")],
        "smoker": [True, False, None, True],
        "ward": ["A", "B", "A", None],
        "sick": [0, 1, 0, 1],
    },
    "basel": {
        "age": [30, 35, 45],
        "weight": [70.5, 80.0, 90.25],
        "smoker": [False, None, True],
        "ward": ["C", "A", "A"],
        "sick": [1, 0, 0],
    },
}
OPTIONS = {"missing": "mean", "indicators": True, "categorical": ["ward"], "label": "sick", "test_share": 0.3}


def write(folder: Path, name: str, columns: dict[str, list[Any]], ending: str = "parquet") -> Path:
    """A table as Parquet, or as a .csv file with the same cells."""
    file = folder / f"{name}.{ending}"
    file.parent.mkdir(parents=True, exist_ok=True)
    if ending == "csv":
        rows = [",".join(map(_word, row)) for row in zip(*columns.values())]
        file.write_text("\n".join([",".join(columns), *rows]))
        return file
    arrow = pytest.importorskip("pyarrow", reason="pyarrow, of the extra parquet, is not installed")
    arrays = {key: arrow.array(cells) for key, cells in columns.items()}
    if "ward" in arrays:  # as pandas writes its categories
        arrays["ward"] = arrays["ward"].dictionary_encode()
    pytest.importorskip("pyarrow.parquet").write_table(arrow.table(arrays), file)
    return file


def _word(cell: Any) -> str:
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return "" if cell is None else repr(cell).strip("'")


def test_the_same_cells_are_the_same_samples(tmp_path: Path) -> None:
    both = []
    for ending in ("parquet", "csv"):
        for name, columns in TABLES.items():
            write(tmp_path / ending, name, columns, ending)
        both.append(read_data({"name": "files", "path": str(tmp_path / ending), **OPTIONS}).load())
    here, there = both
    assert np.array_equal(here.x, there.x)
    assert np.array_equal(here.y, there.y)
    assert here.columns == there.columns
    assert here.held_out is not None
    assert np.array_equal(here.held_out, there.held_out)


def test_a_clients_parts(tmp_path: Path) -> None:
    numbers = {"a": [1.5, 2.5, 3.5], "b": [1, 2, 3], "label": ["x", "y", "x"]}
    for part in ("train", "test"):
        write(tmp_path, part, numbers)
    own = read_own(str(tmp_path))
    assert own.x.tolist() == [[1.5, 1], [2.5, 2], [3.5, 3]] * 2
    assert (own.names, own.columns) == (("x", "y"), ("a", "b"))
    assert own.train.tolist() == [0, 1, 2]
    write(tmp_path, "test", numbers, "csv")
    with pytest.raises(ConfigError, match=r"holds both test\.csv and test\.parquet; keep one"):
        read_own(str(tmp_path))
    (tmp_path / "test.parquet").unlink()
    assert read_own(str(tmp_path)).x.tolist() == own.x.tolist()
    np.savez(tmp_path / "test.npz", x=np.ones((2, 2)), y=np.arange(2))
    (tmp_path / "test.csv").unlink()
    with pytest.raises(ConfigError, match=r"holds both \.npz and \.parquet files of train"):
        read_own(str(tmp_path))
    one = write(tmp_path / "one", "a", numbers)
    assert len(read_own(str(one), test_share=0.3).test) == 1


def test_one_file_of_several_owners(tmp_path: Path) -> None:
    file = write(
        tmp_path, "all", {"who": ["zoe", "ann", "zoe", "ann"], "v": [1, 2, 3, 4], "sick": [0, 1, 1, 0]}, "parquet"
    )
    dataset = read_data({"name": "files", "path": str(file), "label": "sick", "owner": "who", "test_share": 0.0}).load()
    assert dataset.owner is not None
    assert dict(zip(dataset.x[:, 0].tolist(), dataset.owner.tolist())) == {2: 0, 4: 0, 1: 1, 3: 1}


def test_a_models_columns_are_found_in_it(tmp_path: Path) -> None:
    for name, columns in TABLES.items():
        write(tmp_path / "clients", name, columns)
    dataset = read_data({"name": "files", "path": str(tmp_path / "clients"), **OPTIONS}).load()
    one = np.ones(1, np.float32)
    frame = DataSchema(dataset.x.shape[1:], "float32", 2, (), one, one * 0, columns=dataset.columns)
    mixed = {key: TABLES["bern"][key] for key in ("ward", "sick", "weight", "smoker", "age")}
    samples = read_samples(write(tmp_path, "new", mixed), frame, "sick")
    assert dataset.owner is not None
    assert sorted(samples.x.tolist()) == sorted(dataset.x[dataset.owner == 1].tolist())
    assert samples.y is not None
    assert samples.y.tolist() == TABLES["bern"]["sick"]
    assert (
        len(read_samples(write(tmp_path, "old", {"a": [1.0], "b": [2.0]}), replace(frame, shape=(2,), columns=None)).x)
        == 1
    )


def test_what_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("age,label\n1,0\n")
    with pytest.raises(ConfigError, match=r"a\.parquet is no Parquet file: "):
        write(tmp_path, "ok", {"a": [1.0], "label": [0]})
        read_own(str(tmp_path / "a.parquet"))
    nested = write(tmp_path, "b", {"a": [[1, 2], [3]], "label": [0, 1]})
    with pytest.raises(ConfigError, match=r"b\.parquet: column 'a' holds list<.*>, not one number or word in each row"):
        read_own(str(nested))
    gap = write(tmp_path, "c", {"a": [1.0, None], "label": [0, 1]})
    with pytest.raises(ConfigError, match=r"c\.parquet: line 2, column 'a': the cell is empty"):
        read_own(str(gap))
    empty = write(tmp_path, "d", {"a": [], "label": []})
    with pytest.raises(ConfigError, match=r"d\.parquet has no row besides its header"):
        read_own(str(empty))


def test_row_numbers_of_pandas_are_left_out(tmp_path: Path) -> None:
    file = write(tmp_path, "a", {"a": [1.0, 2.0], "label": [0, 1], "__index_level_0__": [7, 9]})
    own = read_own(str(file))
    assert own.columns == ("a",)
    assert any(note.endswith("the row numbers of pandas, '__index_level_0__', are left out") for note in own.notes)


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"a\.parquet needs the package pyarrow: pip install 'fedtl\[parquet\]'$"):
        read_own(str(tmp_path / "a.parquet"))


def test_times_are_words_in_any_unit(tmp_path: Path) -> None:
    """Without pandas too, and where Python's own objects have no such time."""
    arrow = pytest.importorskip("pyarrow", reason="pyarrow, of the extra parquet, is not installed")
    writer = pytest.importorskip("pyarrow.parquet")
    options = {"name": "files", "path": str(tmp_path), "label": "sick", "test_share": 0.0}
    whole = {unit: [2 * factor, 3 * factor] for unit, factor in (("s", 1), ("ms", 1000), ("ns", 10**9))}
    columns = {unit: arrow.array(cells, arrow.timestamp(unit)) for unit, cells in whole.items()}
    columns["fine"] = arrow.array([1, 1_500_000_000], arrow.timestamp("ns", tz="UTC"))
    columns["far"] = arrow.array([2**55, 2**55], arrow.timestamp("us"))
    columns["long"] = arrow.array([2**60, 1], arrow.duration("ns"))
    writer.write_table(arrow.table({**columns, "sick": [0, 1], "x": [1.0, 2.0]}), tmp_path / "a.parquet")
    read = read_data({**options, "categorical": list(columns)}).load().columns
    assert read is not None
    words = {column.name: column.words for column in read.each}
    for unit in whole:
        assert words[unit] == ("1970-01-01 00:00:02", "1970-01-01 00:00:03")
    assert words["fine"] == ("1970-01-01 00:00:00.000000001Z", "1970-01-01 00:00:01.5Z")
    assert words["long"] == ("1 ns", "1152921504606846976 ns")
    assert read_data({**options, "leave_out": list(columns)}).load().x.tolist() == [[1.0], [2.0]]


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="pyarrow, of the extra parquet, is not installed")
    table = arrow.Table.from_arrays([arrow.array([1.0, 2.0])] * 2 + [arrow.array([0, 1])], ["a", "a", "label"])
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"a\.parquet: two columns have the name 'a'$"):
        read_own(str(tmp_path / "a.parquet"))


def test_a_header_is_read_without_the_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a prediction asks of a file first, which is then read once."""
    file = write(tmp_path, "bern", TABLES["bern"])
    reader, reads = pytest.importorskip("pyarrow.parquet").ParquetFile, list[object]()
    read = reader.read
    monkeypatch.setattr(reader, "read", lambda self, *args, **kwargs: reads.append(1) or read(self, *args, **kwargs))
    assert header_of(file, "sick") == [*TABLES["bern"]]
    assert not reads
    (tmp_path / "no.parquet").write_text("a,b")
    assert header_of(tmp_path / "no.parquet", "a") == header_of(tmp_path / "none.parquet", "a") == []
