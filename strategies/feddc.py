"""FedDC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedtl.clients.contract import ClientUpdate
from fedtl.clients.feddc import FedDC as FedDCClient
from fedtl.clients.feddc import FedDCSettings
from fedtl.clients.settings import Settings
from fedtl.strategies.contract import Download, Strategy, Uploads, Vectors


class FedDC(Strategy):
    """FedDC: local drifts decoupled and corrected (Gao et al. 2022, arXiv 2203.11751).

    w ← mean_S (θ_i + h_i) and g ← mean_S g_i; or, as its authors' code has it, w ← mean_S θ_i + mean_N h_i and
    g ← g + 1/N Σ_S (g_i⁺ - g_i). The clients' part is in ``clients/feddc.py``.
    """

    settings_type: ClassVar[type[Settings]] = FedDCSettings
    client_update: ClassVar[type[ClientUpdate[Any]]] = FedDCClient
    settings: FedDCSettings

    def first_state(self, w: Tensor) -> Vectors:
        """No drift, and no update; h is the mean of all clients' drifts."""
        return {"w": w, "g": torch.zeros_like(w), "h": torch.zeros_like(w)}

    def send(self, state: Vectors, clients: Sequence[int], round: int) -> Download:
        """The model, and g."""
        return Download({"w": state["w"], "g": state["g"]})

    def update(self, state: Vectors, uploads: Uploads, round: int) -> Vectors:
        """The mean of θ_i + h_i, or of θ_i with all clients' drifts."""
        o, share, w, g = self.settings, len(uploads.clients) / self.population, uploads.mean("w"), uploads.mean("g")
        if o.correction == "scaffold":
            g = state["g"] + share * g
        if o.drifts == "sampled":
            return {**state, "w": w, "g": g}
        h = state["h"] + share * (w - state["w"])
        return {**state, "w": w + h, "g": g, "h": h}

    def regrouped(self, state: Vectors, known: float) -> Vectors:
        """The means h and g over other clients, whose drifts are 0 where they are new; g may be of a round's alone."""
        g = known * state["g"] if self.settings.correction == "scaffold" else state["g"]
        return {**state, "g": g, "h": known * state["h"]}
