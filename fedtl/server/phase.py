"""A run's phases as the server sees them: rounds that share one local objective."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedtl.clients.settings import Settings
from fedtl.data.replay import Replay
from fedtl.losses.aggregate import ClientAggregate
from fedtl.optimizers.settings import OptimizerSettings


@dataclass(frozen=True)
class Phase:
    """Some rounds in a row.

    Attributes:
        settings: the method's options in them.
        first, last: the rounds, from 1.
        clients: who can take part, ascending ids; None for everybody.
        statistics: what clients send besides models.
        keeps_start: whether clients are given the global model that the phase began with.
        restart: the global model's numbers to begin with in place of the present ones; None to go on.
        replay: how clients synthesise samples, where they do in any of the run's phases.
    """

    settings: Settings
    first: int
    last: int
    clients: NDArray[np.int64] | None = None
    statistics: tuple[ClientAggregate, ...] = ()
    keeps_start: bool = False
    restart: NDArray[np.float32] | None = None
    replay: Replay | None = None

    def progress(self, round: int) -> float:
        """p: 0 in the first round, 1 in the last."""
        return (round - self.first) / (self.last - self.first) if self.last > self.first else 1.0

    def lr_factor(self, round: int) -> float | None:
        """The factor of clients' learning rates in a round; None where the rates stay as they are."""
        options: object = self.settings
        if not isinstance(options, OptimizerSettings) or not options.schedule.varies:
            return None
        return options.schedule.factor(min(round, self.last) - self.first + 1, self.last - self.first + 1)
