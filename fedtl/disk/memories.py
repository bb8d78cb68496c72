"""What clients remember between rounds, on disk and safe against a crash at any instant."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from fedtl.disk.durable import put
from fedtl.disk.tensors import DamagedError, load_tensors, save_tensors
from fedtl.failure import OutputError

BUCKET = 64
"""Clients per folder, so that finding a client's versions lists few names."""

VERSION = re.compile(r"(\d+)-(\d+)\.safetensors")
UNFINISHED = re.compile(r"\d+-\d+\.\d+")


Sizes = Callable[[int, int], Mapping[str, int] | None]
"""``sizes(client, round)``: of the vectors that a client keeps of a round, how many numbers each has; None for none."""


class StoreError(OutputError):
    """A client's memory cannot be kept."""


class DamagedMemoryError(DamagedError, StoreError):
    """A client's memory is not what was saved."""


class MemoryStore:
    """One folder for all clients of a run; safe for many processes, each with clients of its own.

    Each version is a file of its own, ``<bucket>/<client>-<round>.safetensors``, written under another name
    and renamed. A version is deleted only when a newer one is older than the round being trained, whose
    checkpoint must therefore be on disk: so a run that is resumed from its checkpoint, and a cohort that is
    trained again because its worker died, both find what they had. Older ones stay where :attr:`keep` says so.
    Files of other names are left alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.durable = False
        """Whether saving waits until the disk has a memory, as real clients' does."""
        self.keep: Sequence[int] = ()
        """Rounds whose memories are to stay besides: those of checkpoints that a power cut leaves."""

    def load(self, client: int, before: int) -> dict[str, Tensor]:
        """The client's memory as of the rounds before ``before``; empty if it has none.

        Its checksum is not looked at: this run wrote it, or has verified it when it was resumed.

        Raises:
            DamagedMemoryError: it is not what was saved.
        """
        version = max((round for round in self._versions(client) if round < before), default=None)
        return {} if version is None else self._read(client, version, check=False)

    def save(self, client: int, round: int, memory: dict[str, Tensor]) -> None:
        """Keep a client's memory of a round; an empty one is nothing to keep.

        Raises:
            StoreError: the disk is full, the folder cannot be written, or the run's folder is gone.
        """
        if not memory:
            return
        try:
            self._write(client, round, memory)
        except OSError as error:
            raise StoreError(f"{error.filename or self.folder} cannot be written: {error.strerror or error}") from error
        except SafetensorError as error:  # which wraps the system's errors in its own
            raise StoreError(f"{self.folder} cannot be written: {error}") from error

    def _write(self, client: int, round: int, memory: dict[str, Tensor]) -> None:
        target = self._file(client, round)
        if not target.parent.is_dir():
            # Not with parents: a run's folder that is gone is not to come back as its memories alone.
            self.folder.mkdir(exist_ok=True)
            target.parent.mkdir(exist_ok=True)
        unfinished = target.with_suffix(f".{os.getpid()}")
        save_tensors(unfinished, {name: vector.detach().cpu().numpy() for name, vector in memory.items()}, target.name)
        put(unfinished, target, self.durable)
        older = sorted(version for version in self._versions(client) if version < round)
        needed = {newest(older, until) for until in (round - 1, *self.keep)}
        for version in older:
            if version not in needed:
                self._file(client, version).unlink(missing_ok=True)

    def forget_after(self, round: int) -> None:
        """Delete all versions of later rounds, and what a crash left half written: the run goes on from here."""
        for file in self.folder.glob("*/*"):
            version = VERSION.fullmatch(file.name)
            if (UNFINISHED.fullmatch(file.name) or (version and int(version[2]) > round)) and file.is_file():
                file.unlink(missing_ok=True)

    def forget_kept(self) -> None:
        """Delete the versions that :attr:`keep` alone held back, so that what is left does not depend on the disk."""
        for client, versions in self._by_client().items():
            for version in versions[:-2]:
                self._file(client, version).unlink(missing_ok=True)

    def clients(self) -> list[int]:
        """Who remembers something."""
        return sorted(self._by_client())

    def verify(self, trained: Mapping[int, int], until: int, sizes: Sizes) -> None:
        """Check that clients' newest memories up to a round are whole, theirs, and no older than they should be.

        Args:
            trained: for each client to look at, a round in which it trained; 0 if it need not have.
            until: the last round that counts.
            sizes: what clients keep.

        Raises:
            DamagedMemoryError: one is missing, or not what was saved.
        """
        versions = self._by_client()
        for client, round in trained.items():
            kept = newest(versions.get(client, []), until)
            if kept is None and not round:
                continue
            if kept is None or kept < round:
                raise DamagedMemoryError(self._file(client, round), "is missing")
            expected = sizes(client, kept) or {}
            if {name: vector.numel() for name, vector in self._read(client, kept).items()} != expected:
                what = "is no memory of this run, as its vectors have other names or sizes"
                raise DamagedMemoryError(self._file(client, kept), what)

    def _read(self, client: int, round: int, check: bool = True) -> dict[str, Tensor]:
        file = self._file(client, round)
        try:
            tensors = load_tensors(file, file.name, check)
        except FileNotFoundError as error:
            raise DamagedMemoryError(file, "is missing") from error
        except DamagedError as error:
            raise DamagedMemoryError(error.file, error.what) from error
        return {name: torch.from_numpy(vector) for name, vector in tensors.items()}

    def _by_client(self) -> dict[int, list[int]]:
        """All versions' rounds, ascending, by client."""
        versions: dict[int, list[int]] = {}
        for file in self.folder.glob("*/*.safetensors"):
            name = VERSION.fullmatch(file.name)
            if name and self._file(int(name[1]), int(name[2])) == file:
                versions.setdefault(int(name[1]), []).append(int(name[2]))
        return {client: sorted(each) for client, each in versions.items()}

    def _versions(self, client: int) -> list[int]:
        try:
            names = os.listdir(self._file(client, 0).parent)
        except (FileNotFoundError, NotADirectoryError):
            return []
        prefix = f"{client}-"
        matches = [VERSION.fullmatch(name) for name in names if name.startswith(prefix)]
        return [int(version[2]) for version in matches if version]

    def _file(self, client: int, round: int) -> Path:
        return self.folder / f"{client // BUCKET:06d}" / f"{client}-{round}.safetensors"


def newest(versions: Iterable[int], until: int) -> int | None:
    """The last of ascending versions up to a round; None if there is none."""
    return next((version for version in reversed([*versions]) if version <= until), None)
