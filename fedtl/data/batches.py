"""Which samples a client trains on, in which order: by (seed, round, client) alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Budget:
    """How much a client trains in a round.

    Attributes:
        batch_size: B, samples in a mini-batch; 0 for all that the client has.
        steps: mini-batches in a round, or None for whole epochs.
        epochs: passes over the client's samples, where ``steps`` is None.
        last: what happens to an epoch's last samples where they are fewer than B: they are a mini-batch of their own
            ("keep"), wait for the next epoch ("drop"), or join the mini-batch before ("merge"). A client that holds
            fewer than B has one mini-batch, of all that it has.
        multiple: a round has so many mini-batches, or twice as many, and so on: what is over is left out, and a round
            that would have fewer has so many.
    """

    batch_size: int
    steps: int | None = None
    epochs: int | None = None
    last: Literal["keep", "drop", "merge"] = "keep"
    multiple: int = 1

    def of_steps(self, steps: int) -> Budget:
        """As many mini-batches of the same size."""
        return replace(self, steps=steps, epochs=None)

    def of_epochs(self, epochs: int) -> Budget:
        """As many passes over the client's samples, in mini-batches of the same size."""
        return replace(self, steps=None, epochs=epochs)

    def of_share(self, share: float) -> Budget:
        """As much of its epochs, or of its mini-batches, as a share in (0, 1] comes to, rounded up."""
        if self.steps is not None:
            return self.of_steps(math.ceil(share * self.steps))
        return self.of_epochs(math.ceil(share * (self.epochs or 1)))

    def epoch_sizes(self, n: int) -> list[int]:
        """Sizes of an epoch's mini-batches for a client of ``n`` samples, one at least."""
        size = min(self.batch_size, n) or n
        full, over = [size] * (n // size), n % size
        if not over or self.last == "drop":
            return full
        return [*full, over] if self.last == "keep" else [*full[:-1], size + over]

    def step_sizes(self, n: int) -> NDArray[np.int64]:
        """Sizes of a round's mini-batches for a client of ``n`` samples: an epoch's last may be of another size."""
        epoch = self.epoch_sizes(n)
        steps = len(epoch) * (self.epochs or 1) if self.steps is None else self.steps
        return np.resize(np.array(epoch, np.int64), max(steps // self.multiple, 1) * self.multiple)

    def most_alike(self, n: int) -> int:
        """The largest number of samples whose mini-batches are as many as those of ``n``, none of them smaller."""
        size = self.batch_size
        if not size:
            return 2**62
        if self.last == "keep":
            return -(-n // size) * size
        if n < size:
            return size
        return n // size * size + (0 if self.last == "drop" else size - 1)

    def order(self, n: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """A round's samples as positions ``0..n-1``, reshuffled each epoch, and the mini-batches' sizes.

        Mini-batch r is ``order[sizes[:r].sum() : sizes[:r + 1].sum()]``.
        """
        sizes = self.step_sizes(n)
        total, of_epoch = int(sizes.sum()), sum(self.epoch_sizes(n))
        passes = math.ceil(total / of_epoch)
        order = np.concatenate([rng.permutation(n)[:of_epoch] for _ in range(passes)])[:total]
        return order, sizes


def equal_batches(n: int, size: int, steps: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """``steps`` mini-batches of equal size out of ``n`` samples, ``[steps, min(size, n) or n]``.

    For a stream that accompanies another: each sample comes once before any comes again, whatever the size.
    """
    size = min(size, n) or n
    passes = math.ceil(steps * size / n)
    order = np.concatenate([rng.permutation(n) for _ in range(passes)])[: steps * size]
    return order.reshape(steps, size)
