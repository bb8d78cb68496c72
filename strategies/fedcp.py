"""FedCP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedtl.clients.contract import ClientUpdate
from fedtl.clients.fedcp import CONTEXT, GLOBAL, HEAD, FedCPSettings
from fedtl.clients.fedcp import FedCP as FedCPClient
from fedtl.clients.settings import Settings
from fedtl.strategies.contract import Download, Uploads, Vectors
from fedtl.strategies.fedavg import FedAvg
from fedtl.strategies.travelling import places


class FedCP(FedAvg):
    """FedCP: conditional policies separate features (Zhang et al. 2023, arXiv 2307.01217).

    W^fe, W^hd and Θ are the means of W_i^fe, Ŵ_i^hd and Θ_i, weighted by samples; the clients' part is in
    ``clients/fedcp.py``. With ``global_parts = "last"``, the authors' code, the server remembers of each client the
    W^hd and Θ that came of the last round in which it took part.
    """

    settings_type: ClassVar[type[Settings]] = FedCPSettings
    client_update: ClassVar[type[ClientUpdate[Any]]] = FedCPClient
    settings: FedCPSettings

    def first_state(self, w: Tensor) -> Vectors:
        """The first W^hd and Θ besides, for clients that have not taken part, if clients keep such."""
        return {"w": w} if self.settings.global_parts == "present" else {"w": w, "first": w[self._parts()].clone()}

    def first_tables(self, w: Tensor) -> Vectors:
        """Whether each client has taken part, and the W^hd and Θ that came of it, if they are remembered."""
        if self.settings.global_parts == "present":
            return {}
        return {"parts": w.new_zeros(1 + len(self._parts())).expand(self.population, -1)}

    def send(self, state: Vectors, clients: Sequence[int], round: int) -> Download:
        """W^fe, W^hd and Θ, or the client's own two of the last."""
        if "first" not in state:
            return Download({"w": state["w"]})
        rows = self.tables["parts"].rows(clients)
        return Download({"w": state["w"]}, {"parts": torch.where(rows[:, :1] > 0, rows[:, 1:], state["first"])})

    def update(self, state: Vectors, uploads: Uploads, round: int) -> Vectors:
        """The means, which the round's clients remember."""
        state = super().update(state, uploads, round)
        if "first" in state:
            row = torch.cat([torch.ones(1), state["w"][self._parts()]])
            self.tables["parts"].put(uploads.clients, row.expand(len(uploads.clients), -1))
        return state

    def _parts(self) -> Tensor:
        return places(self.layout, self.parameters, GLOBAL, (HEAD, CONTEXT), self.settings.name)
