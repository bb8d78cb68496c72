"""What clients remember between rounds, on disk and safe against a crash at any instant."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from fedtl.disk.durable import put
from fedtl.disk.tensors import DamagedError, load_tensors, save_tensors
from fedtl.failure import OutputError

BUCKET = 64
"""Clients per folder, so that finding a client's versions lists few names."""

SUFFIX = ".safetensors"
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
    and renamed. A version is given up only when a newer one is older than the round being trained, whose
    checkpoint must therefore be on disk: so a run that is resumed from its checkpoint, and a cohort that is
    trained again because its worker died, both find what they had. Older ones stay where :attr:`keep` says so.
    Files of other names are left alone.

    A version that is given up loses its name first, and then becomes the file of the new one. Whoever reads it
    meanwhile finds its name gone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.durable = False
        """Whether saving waits until the disk has a memory, as real clients' does."""
        self.keep: Sequence[int] = ()
        """Rounds whose memories are to stay besides: those of checkpoints that a power cut leaves."""
        self._listed: dict[int, list[int]] = {}
        """The versions of the clients that were loaded last and not saved since, as nobody else saves them."""

    def load(self, client: int, before: int) -> dict[str, Tensor]:
        """The client's memory as of the rounds before ``before``; empty if it has none.

        Raises:
            DamagedMemoryError: it is not what was saved.
        """
        return self.load_all([client], before)[0]

    def load_all(
        self, clients: Sequence[int], before: int, counts: Callable[[str, int], bool] | None = None
    ) -> list[dict[str, Tensor]]:
        """Several clients' memories as of the rounds before ``before``; empty for those that have none.

        Their checksums are not looked at: this run wrote them, or has verified them when it was resumed.

        Args:
            clients: their ids.
            before: the round that is to come.
            counts: ``counts(name, round)``, whether a vector of a memory of a round is to be used; all if None.

        Raises:
            DamagedMemoryError: one is not what was saved.
        """
        self._listed = self._versions(clients)
        latest = [newest(self._listed[client], before - 1) for client in clients]
        memories = list[dict[str, Tensor]]()
        for client, version in zip(clients, latest):
            memory = {} if version is None else self._read(client, version, check=False)
            if version is not None and counts is not None:
                memory = {name: vector for name, vector in memory.items() if counts(name, version)}
            memories.append(memory)
        return memories

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

    def _write(self, client: int, round: int, memory: dict[str, Tensor]) -> None:
        listed = self._listed.pop(client, None)
        older = [version for version in (self.versions(client) if listed is None else listed) if version < round]
        needed = {newest(older, until) for until in (round - 1, *self.keep)}
        spare = [version for version in older if version not in needed]
        target = self._path(client, round)
        unfinished = f"{target.removesuffix(SUFFIX)}.{os.getpid()}"
        for version in spare:
            with suppress(FileNotFoundError):  # a second try of the same round was here before
                os.rename(self._path(client, version), unfinished)
        tensors = {name: vector.detach().cpu().numpy() for name, vector in memory.items()}
        name = os.path.basename(target)
        try:
            save_tensors(unfinished, tensors, name)
        except FileNotFoundError:
            # Not with parents: a run's folder that is gone is not to come back as its memories alone.
            self.folder.mkdir(exist_ok=True)
            Path(target).parent.mkdir(exist_ok=True)
            save_tensors(unfinished, tensors, name)
        put(unfinished, target, self.durable)

    def forget_after(self, round: int) -> None:
        """Delete all versions of later rounds, and what a crash left half written: the run goes on from here."""
        for file in self.folder.glob("*/*"):
            version = VERSION.fullmatch(file.name)
            if (UNFINISHED.fullmatch(file.name) or (version and int(version[2]) > round)) and file.is_file():
                file.unlink(missing_ok=True)

    def forget_kept(self, but: Sequence[int] = ()) -> None:
        """Delete the versions that :attr:`keep` alone held back, so that what is left does not depend on the disk.

        Args:
            but: rounds whose memories stay.
        """
        for client, versions in self._by_client().items():
            needed = {newest(versions, round) for round in but}
            for version in versions[:-2]:
                if version not in needed:
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
        file = self._path(client, round)
        try:
            tensors = load_tensors(file, os.path.basename(file), check)
            os.stat(file)  # if its name is gone, another version may be written over it while it is read
        except FileNotFoundError as error:
            raise DamagedMemoryError(Path(file), "is missing") from error
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

    def versions(self, client: int) -> list[int]:
        """The rounds of which a client has a memory, ascending."""
        return self._versions([client])[client]

    def _versions(self, clients: Sequence[int]) -> dict[int, list[int]]:
        """Clients' versions, ascending; each folder is listed once."""
        versions: dict[int, list[int]] = {client: [] for client in clients}
        asked = {*map(str, clients)}
        for bucket in {client // BUCKET for client in clients}:
            try:
                names = os.listdir(self._bucket(bucket))
            except (FileNotFoundError, NotADirectoryError):
                continue
            for name in names:
                if name.partition("-")[0] in asked and (version := VERSION.fullmatch(name)):
                    versions[int(version[1])].append(int(version[2]))
        for each in versions.values():
            each.sort()
        return versions

    def _bucket(self, bucket: int) -> str:
        return f"{self.folder}/{bucket:06d}"

    def _path(self, client: int, round: int) -> str:
        return f"{self._bucket(client // BUCKET)}/{client}-{round}{SUFFIX}"

    def _file(self, client: int, round: int) -> Path:
        return Path(self._path(client, round))


def newest(versions: Iterable[int], until: int) -> int | None:
    """The last of ascending versions up to a round; None if there is none."""
    return next((version for version in reversed([*versions]) if version <= until), None)
