"""FedAvg."""

from __future__ import annotations

from typing import Any, ClassVar

from fedtl.clients.contract import ClientUpdate
from fedtl.clients.settings import Settings
from fedtl.clients.sgd import SGD, SGDSettings
from fedtl.optimizers.settings import AveragingSettings
from fedtl.strategies.contract import Strategy, Uploads, Vectors


class FedAvgSettings(SGDSettings, AveragingSettings):
    """Options of FedAvg: local SGD's, and a server optimiser's."""


class FedAvg(Strategy):
    """FedAvg: local SGD, then the sample-weighted mean (McMahan et al. 2017, arXiv 1602.05629, Algorithm 1).

    w ← Σ_i (n_i / n) w_i over the sampled clients; with ``[strategy.server]`` this mean is instead a
    pseudo-gradient of the server's optimiser.
    """

    settings_type: ClassVar[type[Settings]] = FedAvgSettings
    client_update: ClassVar[type[ClientUpdate[Any]]] = SGD
    settings: AveragingSettings  # type: ignore[assignment]

    def update(self, state: Vectors, uploads: Uploads, round: int) -> Vectors:
        """The mean, or the server optimiser's step towards it."""
        server, mean = self.settings.server, uploads.mean("w")
        return {**state, "w": mean} if server == "none" else server.step(state, mean, round)
