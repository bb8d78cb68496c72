"""Files of named tensors that know whether their data are still what was written."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from fedtl.choice import ConfigError

CHECKSUM = "crc32"
"""In a file's metadata: the checksum of its tensors. A file without it, as older versions wrote, is not checked."""

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


def save_tensors(file: Path, tensors: Tensors, of: str = "") -> None:
    """Write tensors as safetensors, with their checksum in the metadata.

    Args:
        file: where.
        tensors: by name.
        of: what they belong to, which is part of the checksum: a file under another one's name is found out.

    Raises:
        OSError, SafetensorError: the file cannot be written.
    """
    whole = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    save_file(whole, file, {CHECKSUM: str(checksum(whole, of))})


def load_tensors(file: Path, of: str = "", check: bool = True) -> dict[str, NDArray[Any]]:
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
        file.open("rb").close()  # safetensors calls whatever keeps it from opening a file a missing one
    except FileNotFoundError:
        raise
    except IsADirectoryError as error:
        raise DamagedError(file, "is a folder") from error
    except OSError as error:
        raise unreadable(file, error) from error
    try:
        with safe_open(file, framework="numpy") as opened:
            written = (opened.metadata() or {}).get(CHECKSUM)
            names = opened.keys()
            tensors = {name: opened.get_tensor(name) for name in names}
    except MemoryError:
        raise
    except Exception as error:  # a damaged header may say anything
        raise DamagedError(file, "is no whole safetensors file") from error
    if check and written is not None and written != str(checksum(tensors, of)):
        raise DamagedError(file, "is damaged or another one's, as its data do not match their checksum")
    return tensors


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
