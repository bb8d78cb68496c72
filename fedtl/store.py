"""What clients remember between rounds, on disk and safe against a crash at any instant."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedtl.durable import put
from fedtl.failure import RunError

BUCKET = 64
"""Clients per folder, so that finding a client's versions lists few names."""


class StoreError(RunError):
    """A client's memory cannot be kept."""


class MemoryStore:
    """One folder for all clients of a run; safe for many processes, each with clients of its own.

    Each version is a file of its own, ``<bucket>/<client>-<round>.safetensors``, written under another name
    and renamed. A version is deleted only when a newer one is older than the round being trained, whose
    checkpoint must therefore be on disk: so a run that is resumed from its checkpoint, and a cohort that is
    trained again because its worker died, both find what they had.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.durable = False
        """Whether saving waits until the disk has a memory, as real clients' does, and simulated ones' does not."""

    def load(self, client: int, before: int) -> dict[str, Tensor]:
        """The client's memory as of the rounds before ``before``; empty if it has none."""
        versions = [round for round in self._versions(client) if round < before]
        return load_file(self._file(client, max(versions))) if versions else {}

    def save(self, client: int, round: int, memory: dict[str, Tensor]) -> None:
        """Keep a client's memory of a round; an empty one is nothing to keep.

        Raises:
            StoreError: the disk is full, or the folder cannot be written.
        """
        if not memory:
            return
        try:
            self._write(client, round, memory)
        except (OSError, SafetensorError) as error:
            raise StoreError(f"{self.folder} cannot be written: {error}") from error

    def _write(self, client: int, round: int, memory: dict[str, Tensor]) -> None:
        target = self._file(client, round)
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_suffix(f".{os.getpid()}")
        save_file({name: vector.cpu().contiguous() for name, vector in memory.items()}, unfinished)
        put(unfinished, target, self.durable)
        older = sorted(version for version in self._versions(client) if version < round)
        for version in older[:-1]:
            self._file(client, version).unlink(missing_ok=True)

    def forget_after(self, round: int) -> None:
        """Delete all versions of later rounds, and what a crash left half written: the run goes on from here."""
        for file in self.folder.glob("*/*"):
            version = file.stem.rpartition("-")[2]
            if file.suffix != ".safetensors" or int(version) > round:
                file.unlink(missing_ok=True)

    def clients(self) -> list[int]:
        """Who remembers something."""
        return sorted({int(file.stem.rpartition("-")[0]) for file in self.folder.glob("*/*.safetensors")})

    def _versions(self, client: int) -> list[int]:
        prefix = f"{client}-"
        try:
            names = os.listdir(self._file(client, 0).parent)
        except FileNotFoundError:
            return []
        return [
            int(name[len(prefix) : -len(".safetensors")])
            for name in names
            if name.startswith(prefix) and name.endswith(".safetensors")
        ]

    def _file(self, client: int, round: int) -> Path:
        return self.folder / f"{client // BUCKET:06d}" / f"{client}-{round}.safetensors"
