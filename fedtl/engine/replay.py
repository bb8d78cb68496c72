"""Synthesised samples at clients: made of the model that they receive, when first needed, and kept for the round."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedtl.data.federation import Federation, Shards
from fedtl.data.replay import Replay
from fedtl.data.samples import in_order
from fedtl.distill.impressions import class_impressions
from fedtl.engine.task import REPLAYED, RoundContext, Task
from fedtl.models.composite import model_of
from fedtl.random import Purpose, derived_seed

KEPT_BYTES = 2**28
"""Sets of samples are kept up to this much memory, and at least one; others are made again."""


class Replays:
    """A worker's synthesised samples; they depend on (seed, round, model), and on the client where each has its own.

    Args:
        task: what is trained; its module is copied, as that one is bound to vectors of clients.
        how: the options.
    """

    def __init__(self, task: Task, how: Replay) -> None:
        self.task, self.how = task, how
        self._module = deepcopy(task.module).requires_grad_(False)
        self._bounds = bounds(task.samples.federation)
        self._made: int | None = None
        self._vector: Tensor | None = None
        self._of: tuple[int, Tensor, Shards] | None = None
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def enter(self, w: Tensor, round: int, context: RoundContext) -> None:
        """Go into a round, in which clients receive the model ``w`` ``[d]``."""
        self._made = self.how.made_in(round)
        self._vector = w if self._made == round else context.vectors.get(REPLAYED)

    def places(self, client: int) -> NDArray[np.int64]:
        """Which samples of its set a client replays; none in rounds without replay."""
        how, federation = self.how, self.task.samples.federation
        if self._made is None:
            return np.empty(0, np.int64)
        if how.by == "client":
            return np.arange(len(self._classes(client)) * how.per_class)
        wanted = np.arange(federation.classes) if how.classes == "all" else self._classes(client)
        return (wanted[:, None] * how.per_class + np.arange(how.per_class)).reshape(-1)

    def batch(self, client: int, places: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Model inputs ``[*places.shape, *shape]`` and labels ``[*places.shape]``."""
        x, y = self._set(-1 if self.how.by == "server" else client)
        where = torch.from_numpy(places).to(x.device)
        return in_order(x[where], self.task.samples.channels_last), y[where]

    def _classes(self, client: int) -> NDArray[np.int64]:
        federation = self.task.samples.federation
        everything = np.arange(federation.classes)
        if self.how.classes == "all":
            return everything
        return np.setdiff1d(everything, federation.y[federation.train[client]])

    def _set(self, client: int) -> tuple[Tensor, Tensor]:
        """A client's own set, or with -1 the one that all share."""
        vector, made = self._vector, self._made
        if vector is None or made is None:
            raise ValueError(f"the model of round {made}, of which samples are to be synthesised, did not come along")
        # The same model comes twice where a client adapts it to be scored after one round and trains it in the next;
        # the classes that a client lacks may have changed in between.
        train, of = self.task.samples.federation.train, self._of
        if of is None or of[0] != made or of[2] is not train or not torch.equal(of[1], vector):
            self._kept, self._of = {}, (made, vector.clone(), train)
        if client not in self._kept:
            x, _ = self._kept[client] = self._make(vector, made, client)
            while len(self._kept) > max(1, KEPT_BYTES // (4 * x.numel() + 1)):
                self._kept.pop(next(iter(self._kept)))
        return self._kept[client]

    def _make(self, vector: Tensor, made: int, client: int) -> tuple[Tensor, Tensor]:
        how, task = self.how, self.task
        federation = task.samples.federation
        task.layout.load(self._module, vector)
        classes = range(federation.classes) if client < 0 else self._classes(client).tolist()
        return class_impressions(
            model_of(self._module),
            list(classes),
            how.per_class,
            federation.shape,
            how.steps,
            how.lr,
            derived_seed(task.seed, Purpose.REPLAY, made, client),
            confidence=(how.least, how.most),
            augment=how.augment,
            noise=how.noise,
            bounds=self._bounds,
        )


def bounds(federation: Federation) -> tuple[Tensor, Tensor] | None:
    """The inputs of a black and of a white pixel, where samples are stored bytes: what any client knows of them."""
    if federation.x.dtype != np.uint8:
        return None
    black = torch.tensor(federation.shift)
    return black, black + 255 * torch.tensor(federation.scale)
