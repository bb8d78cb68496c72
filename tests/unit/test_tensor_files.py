"""Files of tensors: what safetensors itself makes of them, and which ones are no whole file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from fedtl.disk.tensors import CHECKSUM, DamagedError, load_tensors, save_tensors

KINDS = ("?", "i1", "u1", "i2", "u2", "f2", "i4", "u4", "f4", "i8", "u8", "f8")
TENSORS = {
    **{f"of {kind}": np.arange(6).astype(kind).reshape(2, 3) for kind in KINDS},
    "none": np.zeros((0, 4), np.float32),
    "one": np.array(3.5),
    "every other": np.arange(10)[::2],
    "transposed": np.arange(6.0).reshape(2, 3).T,
    'ü "\\': np.ones(1, np.float32),
}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()) for a, b in ((one[k], other[k]) for k in one)
    )


def test_safetensors_reads_what_is_written(tmp_path: Path) -> None:
    save_tensors(tmp_path / "a", TENSORS, "a")
    assert same(load_file(tmp_path / "a"), TENSORS)
    assert same(load_tensors(tmp_path / "a", "a"), TENSORS)
    with safe_open(tmp_path / "a", framework="numpy") as opened:
        assert opened.metadata().keys() == {CHECKSUM}


def test_what_safetensors_wrote_is_read(tmp_path: Path) -> None:
    """As files of older versions."""
    whole = {name: np.ascontiguousarray(tensor) for name, tensor in TENSORS.items()}
    save_file(whole, tmp_path / "a")
    assert same(load_tensors(tmp_path / "a"), whole)


def test_more_tensors_than_are_written_at_once(tmp_path: Path) -> None:
    many = {f"{place:05d}": np.full(place % 3, place) for place in range(2500)}
    save_tensors(tmp_path / "a", many)
    assert same(load_tensors(tmp_path / "a"), many)


def test_a_write_of_less_than_all_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    def one_by_one(file: int, parts: list[memoryview]) -> int:
        return os.write(file, next((part[:7] for part in parts if len(part)), b""))

    monkeypatch.setattr(os, "writev", one_by_one)
    save_tensors(tmp_path / "a", TENSORS)
    assert same(load_tensors(tmp_path / "a"), TENSORS)


def about(dtype: str, shape: list[int], first: int, last: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


@pytest.mark.parametrize(
    "table",
    [
        {"a": about("F32", [2], 0, 8)},
        {"a": about("F32", [2], 0, 8), "b": about("F32", [2], 4, 12), "c": about("F32", [1], 12, 16)},
        {"a": about("F32", [2], 0, 8), "b": about("F32", [1], 12, 16)},
        {"a": about("F32", [3], 0, 16)},
        {"a": about("F32", [4], 0, 20)},
        {"a": about("F32", [4], -16, 0)},
        {"a": about("Q7", [4], 0, 16)},
        {"a": about("F32", ["x"], 0, 16)},  # type: ignore[list-item]
        {"a": 5},
        {"__metadata__": 5, "a": about("F32", [4], 0, 16)},
        [],
        {},
    ],
)
def test_no_whole_file(table: object, tmp_path: Path) -> None:
    """Whatever its header says of 16 bytes."""
    header = json.dumps(table).encode()
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    for check in (False, True):
        with pytest.raises(DamagedError, match="is no whole safetensors file"):
            load_tensors(tmp_path / "a", check=check)


def test_every_cut_and_every_wrong_byte_is_found(tmp_path: Path) -> None:
    save_tensors(tmp_path / "a", {"w": np.arange(3, dtype=np.float32), "v": np.ones(2)}, "a")
    data = (tmp_path / "a").read_bytes()
    for size in range(len(data)):
        (tmp_path / "a").write_bytes(data[:size])
        with pytest.raises(DamagedError):
            load_tensors(tmp_path / "a", "a")
    whole = load_tensors_of(data, tmp_path)
    for place in range(len(data)):
        wrong = bytearray(data)
        wrong[place] ^= 1 << (place % 8)
        try:
            tensors = load_tensors_of(bytes(wrong), tmp_path)
        except DamagedError:
            continue
        assert same(tensors, whole)  # a blank, or the name of what holds the checksum


def load_tensors_of(data: bytes, folder: Path) -> dict[str, Any]:
    (folder / "a").write_bytes(data)
    return load_tensors(folder / "a", "a")
