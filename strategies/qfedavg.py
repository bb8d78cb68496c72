"""q-FedAvg."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from fedtl.clients.contract import ClientUpdate
from fedtl.clients.qfedavg import QFedAvg as QFedAvgClient
from fedtl.clients.qfedavg import QFedAvgSettings
from fedtl.clients.settings import Settings
from fedtl.strategies.contract import Strategy, Uploads, Vectors


class QFedAvg(Strategy):
    """q-FedAvg: fair resource allocation, where large losses count for more (Li et al. 2020, arXiv 1905.10497).

    It lowers f_q(w) = Σ_i p_i F_i(w)^(q+1) / (q + 1). The server's step is w ← w - Σ_S Δ_i / Σ_S h_i, in which a client
    counts n_i times where p_i = n_i / n and not 1 / N; the clients' part is in ``clients/qfedavg.py``.
    """

    settings_type: ClassVar[type[Settings]] = QFedAvgSettings
    client_update: ClassVar[type[ClientUpdate[Any]]] = QFedAvgClient
    settings: QFedAvgSettings

    def h(self, sent: Vectors) -> Tensor:
        """h_i ``[..., 1]`` float64 of what clients sent, an estimate of the Lipschitz constant of F_i^(q+1) / (q+1)."""
        q, L = self.settings.q, self.settings.smoothness
        loss, moved = sent["loss"].double(), L * sent["distance"].double()
        return q * loss ** (q - 1) * moved**2 + L * loss**q

    def update(self, state: Vectors, uploads: Uploads, round: int) -> Vectors:
        """The last line of Algorithm 2; the mean of what was sent is w - Σ_S Δ_i / (L |S|), or that weighted by n_i."""
        by_samples = self.settings.objective_weighting == "samples"
        count = torch.tensor(uploads.samples if by_samples else [1] * len(uploads.clients), dtype=torch.float64)
        rate = self.settings.smoothness * float(count.sum()) / float((count[:, None] * self.h(uploads.rows)).sum())
        return {**state, "w": state["w"] + rate * (uploads.mean("w") - state["w"])}
