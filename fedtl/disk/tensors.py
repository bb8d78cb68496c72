"""Files of named tensors that know whether their data are still what was written."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError

CHECKSUM = "crc32"
"""In a file's metadata: the checksum of its tensors. A file without it, as older versions wrote, is not checked."""

MOST_PARTS = 1024
"""What POSIX systems write at once."""

REMEDY = "restore it from a copy, or start the run again in another folder"

Tensors = Mapping[str, NDArray[Any]]


class DamagedError(ConfigError):
    """A file of a run is not what was written.

    Args:
        file: which one.
        what: what is wrong with it, in a few words.
    """

    def __init__(self, file: Path, what: str) -> None:
        super().__init__(file, what)
        self.file, self.what = file, what

    def __str__(self) -> str:
        return f"{self.file} {self.what}: {REMEDY}"


def unreadable(file: Path, error: OSError) -> ConfigError:
    """The error of a file that may be whole, but cannot be read now."""
    return ConfigError(f"{file} cannot be read: {error.strerror or error}")


def save_tensors(file: Path | str, tensors: Tensors, of: str = "", about: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, with their checksum in the metadata.

    A file that is there is written over in place, which costs a fraction of a new one: the system need not find room
    and clear it. Safetensors' own writer always makes a new file, and copies all tensors twice.

    Args:
        file: where.
        tensors: by name.
        of: what they belong to, which is part of the checksum: a file under another one's name is found out.
        about: further metadata.

    Raises:
        OSError: the file cannot be written.
    """
    whole = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    # The widest types first, so that each tensor's place is a multiple of its numbers' size.
    names = sorted(whole, key=lambda name: (-whole[name].dtype.itemsize, name))
    header = _header({name: whole[name] for name in names}, {**(about or {}), CHECKSUM: str(checksum(whole, of))})
    opened = _opened(file)
    try:
        parts = [memoryview(header), *(whole[name].reshape(-1).view(np.uint8).data for name in names)]
        size = sum(map(len, parts))
        _write_all(opened, parts)
        if os.fstat(opened).st_size != size:
            os.ftruncate(opened, size)
    finally:
        os.close(opened)


def _opened(file: Path | str) -> int:
    """A descriptor to write a file with, in place of what it holds; only its owner may read a new one."""
    opened = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
    if os.fstat(opened).st_nlink == 1:
        return opened
    os.close(opened)  # a copy of the folder that was made with hard links is to stay as it is
    os.unlink(file)
    return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


def _write_all(opened: int, parts: list[memoryview]) -> None:
    """Write parts of a file one after another, as few calls as the system allows."""
    while parts:
        written = os.writev(opened, parts[:MOST_PARTS])
        while parts and written >= len(parts[0]):
            written -= len(parts.pop(0))
        if written:
            parts[0] = parts[0][written:]


def _header(tensors: Tensors, metadata: Mapping[str, str]) -> bytes:
    """What a safetensors file begins with, of tensors that follow each other in this order."""
    table: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, tensor in tensors.items():
        kind = "BOOL" if tensor.dtype == np.bool_ else f"{tensor.dtype.kind.upper()}{8 * tensor.dtype.itemsize}"
        begin, end = end, end + tensor.nbytes
        table[name] = {"dtype": kind, "shape": tensor.shape, "data_offsets": (begin, end)}
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def load_tensors(file: Path | str, of: str = "", check: bool = True) -> dict[str, NDArray[Any]]:
    """Read what :func:`save_tensors` wrote.

    Args:
        file: where.
        of: what they should belong to.
        check: whether the checksum is looked at, which takes as long as reading does.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it is cut, overwritten, or a bit of it has changed.
    """
    try:
        data = _read_all(file)
    except FileNotFoundError:
        raise
    except IsADirectoryError as error:
        raise DamagedError(Path(file), "is a folder") from error
    except OSError as error:
        raise unreadable(Path(file), error) from error
    try:
        written, tensors = _parsed(data)
    except MemoryError:
        raise
    except Exception as error:  # a damaged header may say anything
        raise DamagedError(Path(file), "is no whole safetensors file") from error
    if check and written is not None and written != str(checksum(tensors, of)):
        raise DamagedError(Path(file), "is damaged or another one's, as its data do not match their checksum")
    return tensors


def _read_all(file: Path | str) -> NDArray[np.uint8]:
    with FileIO(file) as opened:
        data = np.empty(os.fstat(opened.fileno()).st_size, np.uint8)
        there = 0
        while there < len(data) and (more := opened.readinto(data[there:].data)):
            there += more
    return data[:there]


def _parsed(data: NDArray[np.uint8]) -> tuple[str | None, dict[str, NDArray[Any]]]:
    """The checksum and the tensors of a safetensors file, which are views of its bytes.

    Safetensors' own reader opens a file by name only, and copies each tensor: for small files, of which a round reads
    many, most of the time.

    Raises:
        Exception: it is no such file, or not all of it.
    """
    begin = 8 + int.from_bytes(data[:8].tobytes(), "little")
    table, data = json.loads(data[8:begin].tobytes()), data[begin:]
    written = table.pop("__metadata__", {}).get(CHECKSUM)
    tensors, end = dict[str, NDArray[Any]](), 0
    for name, about in sorted(table.items(), key=lambda item: item[1]["data_offsets"]):
        first, last = about["data_offsets"]
        if first != end or last < first:
            raise ValueError(f"{name} is not where the tensor before it ends")
        kind, end = about["dtype"], last
        dtype = np.dtype("?" if kind == "BOOL" else f"{kind[0].lower()}{int(kind[1:]) // 8}")
        tensors[name] = data[first:last].view(dtype).reshape(about["shape"])
    if end != len(data):
        raise ValueError("its tensors are not all of the file")
    return written, tensors


def checksum(tensors: Tensors, of: str) -> int:
    """CRC-32 of what they belong to, and of names, types, shapes and data, in the order of the names.

    It finds every change of up to 32 bits in a row at some 4 GB/s. It is no signature: nobody is suspected.
    """
    crc = zlib.crc32(of.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        crc = zlib.crc32(f"{name} {tensor.dtype.str} {tensor.shape}".encode(), crc)
        crc = zlib.crc32(np.ascontiguousarray(tensor).data, crc)
    return crc
