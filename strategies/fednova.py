"""FedNova."""

from __future__ import annotations

from typing import Any, ClassVar

from fedtl.clients.contract import ClientUpdate
from fedtl.clients.fednova import FedNova as FedNovaClient
from fedtl.clients.fednova import FedNovaSettings
from fedtl.clients.settings import Settings
from fedtl.strategies.contract import Strategy, Uploads, Vectors


class FedNova(Strategy):
    """FedNova: normalised averaging for clients of unlike numbers of steps (Wang et al. 2020, arXiv 2007.07481).

    w ← w - τ_eff Σ p_i η d_i with p_i = n_i / n over the sampled clients; with ``[strategy.server]`` this is instead
    where the server's optimiser moves to. The clients' part is in ``clients/fednova.py``.
    """

    settings_type: ClassVar[type[Settings]] = FedNovaSettings
    client_update: ClassVar[type[ClientUpdate[Any]]] = FedNovaClient
    settings: FedNovaSettings

    def update(self, state: Vectors, uploads: Uploads, round: int) -> Vectors:
        """The mean of what was sent is w - Σ p_i η d_i."""
        w, server = state["w"], self.settings.server
        moved = w + uploads.mean("steps") * (uploads.mean("w") - w)
        return {**state, "w": moved} if server == "none" else server.step(state, moved, round)
