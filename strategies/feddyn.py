"""FedDyn."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from fedtl.clients.contract import ClientUpdate
from fedtl.clients.feddyn import FedDyn as FedDynClient
from fedtl.clients.feddyn import FedDynSettings
from fedtl.clients.settings import Settings
from fedtl.strategies.contract import Strategy, Uploads, Vectors


class FedDyn(Strategy):
    """FedDyn: dynamic regularisation against client drift (Acar et al. 2021, arXiv 2111.04263, Algorithm 1).

    h ← h - α/N Σ_S (θ_i - θ^(t-1)), over all N clients, and θ^t = mean_S θ_i - h/α; the clients' part is in
    ``clients/feddyn.py``.
    """

    settings_type: ClassVar[type[Settings]] = FedDynSettings
    client_update: ClassVar[type[ClientUpdate[Any]]] = FedDynClient
    settings: FedDynSettings

    def first_state(self, w: Tensor) -> Vectors:
        """A server that has seen no client: h = 0."""
        return {"w": w, "h": torch.zeros_like(w)}

    def update(self, state: Vectors, uploads: Uploads, round: int) -> Vectors:
        """The last two lines of Algorithm 1."""
        alpha, mean = self.settings.alpha, uploads.mean("w")
        share = len(uploads.clients) / self.population
        h = state["h"] - alpha * share * (mean - state["w"])
        return {**state, "w": mean - h / alpha, "h": h}

    def regrouped(self, state: Vectors, known: float) -> Vectors:
        """The mean h over other clients, whose gradients are 0 where they are new."""
        return {**state, "h": known * state["h"]}
