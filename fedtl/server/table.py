"""A server's table with a row for each client, larger than memory if need be."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedtl.disk.memories import MemoryStore


class Table:
    """Rows ``[N, *shape]`` in a memory-mapped file, of which only those that are put take any room.

    Args:
        first: the rows before any is put, ``[N, *shape]``; where all are alike, an expanded tensor takes no room.
    """

    def __init__(self, first: Tensor) -> None:
        self._first = first
        with tempfile.TemporaryFile() as file:  # the mapping keeps it until the table goes
            self._rows = np.memmap(file, np.float32, "w+", shape=tuple(first.shape))
        self._put = np.zeros(len(first), np.bool_)
        self.changed: set[int] = set()
        """Whose rows have been put since this set was last emptied."""

    def rows(self, clients: Sequence[int]) -> Tensor:
        """The rows of some clients, ``[n, *shape]``; a copy."""
        index = np.asarray(clients, np.int64)
        rows, put = self._first[torch.from_numpy(index)].to(torch.float32), self._put[index]
        if put.any():
            rows[torch.from_numpy(put)] = torch.from_numpy(np.array(self._rows[index[put]]))
        return rows

    def __len__(self) -> int:
        """N, how many rows there are."""
        return len(self._first)

    @property
    def width(self) -> int:
        """How many numbers a row has."""
        return int(np.prod(self._first.shape[1:]))

    @property
    def written(self) -> set[int]:
        """Whose rows have ever been put."""
        return {*np.flatnonzero(self._put).tolist()}

    def put(self, clients: Sequence[int], rows: Tensor) -> None:
        """Replace the rows of some clients."""
        index = np.asarray(clients, np.int64)
        self._rows[index] = rows.detach().to(torch.float32).numpy()
        self._put[index] = True
        self.changed.update(index.tolist())


class TableStore:
    """A run's tables on disk: a file for each client and round in which a row of it changed.

    Args:
        folder: where the files are.
        clients: the ids of the clients that the tables' rows are of, ascending; their places are the ids if None.
    """

    def __init__(self, folder: Path, clients: NDArray[np.int64] | None = None) -> None:
        self._store, self._clients = MemoryStore(folder), clients

    def save(self, tables: Mapping[str, Table], round: int, keep: Sequence[int]) -> None:
        """Write the rows that have changed; those of the rounds ``keep`` stay besides the last ones."""
        self._store.keep = keep
        for client in sorted(set[int]().union(*(table.changed for table in tables.values()))):
            rows = {name: table.rows([client])[0] for name, table in tables.items()}
            self._store.save(client if self._clients is None else int(self._clients[client]), round, rows)
        for table in tables.values():
            table.changed.clear()

    def restore(self, tables: Mapping[str, Table], round: int) -> None:
        """Make the tables those of the end of a round; :func:`fedtl.runs.resume.find` has checked the files."""
        for client in self._store.clients():
            for name, row in self._store.load(client, round + 1).items():
                place = client if self._clients is None else int(np.searchsorted(self._clients, client))
                tables[name].put([place], row[None])
        for table in tables.values():
            table.changed.clear()

    def forget_after(self, round: int) -> None:
        """Delete the rows of later rounds; 0 for all."""
        self._store.forget_after(round)
