"""The federated view of a data set: one array, and for each client the indices of its samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedtl.data.dataset import Samples


@dataclass(frozen=True)
class Shards:
    """Index lists of all clients in two arrays; client i holds ``order[offsets[i]:offsets[i + 1]]``.

    Two flat arrays, not a list of arrays: a million clients cost 8 bytes each, and Ray shares both
    between processes without a copy.
    """

    order: NDArray[np.int64]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, parts: Sequence[NDArray[np.int64]]) -> Shards:
        """Build from one index array per client."""
        sizes = np.fromiter((len(part) for part in parts), np.int64, len(parts))
        order = np.concatenate(parts).astype(np.int64) if len(parts) else np.empty(0, np.int64)
        return cls.from_sizes(order, sizes)

    @classmethod
    def from_sizes(cls, order: NDArray[np.int64], sizes: NDArray[np.int64]) -> Shards:
        """Cut ``order`` into consecutive pieces of ``sizes``."""
        return cls(order, np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, client: int) -> NDArray[np.int64]:
        return self.order[self.offsets[client] : self.offsets[client + 1]]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Number of samples of each client, ``[clients]``."""
        return np.diff(self.offsets)

    @property
    def client_of(self) -> NDArray[np.int64]:
        """Who holds each entry of ``order``."""
        return np.repeat(np.arange(len(self)), self.sizes)


@dataclass(frozen=True)
class Federation:
    """What all clients hold, and what the server may test with.

    Attributes:
        x, y, classes, label_names: as in :class:`~fedtl.data.dataset.Dataset`.
        scale, shift: a model's input is ``x * scale + shift`` in float32; broadcastable to a sample.
        train, test: each client's own samples; disjoint.
        server_test: indices of the server's test set, which no client holds; may be empty.
    """

    x: Samples
    y: NDArray[np.int64]
    classes: int
    scale: NDArray[np.float32]
    shift: NDArray[np.float32]
    train: Shards
    test: Shards
    server_test: NDArray[np.int64]
    label_names: tuple[str, ...] = ()

    @property
    def clients(self) -> int:
        """Number of clients."""
        return len(self.train)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.x.shape[1:])

    def label_counts(self, first: int | None = None) -> NDArray[np.int64]:
        """How many samples of each class each client holds, train and test together, ``[clients, classes]``.

        Args:
            first: only of so many clients, the first ones; all if None.
        """
        shown = self.clients if first is None else min(first, self.clients)
        counts = np.zeros(shown * self.classes, np.int64)
        for shards in (self.train, self.test):
            held_by = np.repeat(np.arange(shown), np.diff(shards.offsets[: shown + 1]))
            labels = self.y[shards.order[: shards.offsets[shown]]]
            counts += np.bincount(held_by * self.classes + labels, minlength=len(counts))
        return counts.reshape(shown, self.classes)
