"""FedCP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

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

    def first_tables(self, w: Tensor) -> Vectors:
        """The W^hd and Θ that each client goes on with, the first ones to begin with, if they are remembered."""
        if self.settings.global_parts == "present":
            return {}
        return {"parts": w[self._parts()].expand(self.numbered, -1)}

    def send(self, state: Vectors, clients: Sequence[int], round: int) -> Download:
        """W^fe, W^hd and Θ, or the client's own two of the last."""
        tables = self.tables
        return Download({"w": state["w"]}, {"parts": tables["parts"].rows(clients)} if "parts" in tables else {})

    def send_unseen(self, state: Vectors, clients: Sequence[int], round: int) -> Download:
        """The present W^fe, W^hd and Θ."""
        return Download({"w": state["w"]})

    def update(self, state: Vectors, uploads: Uploads, round: int) -> Vectors:
        """The means, which the round's clients remember."""
        state = super().update(state, uploads, round)
        if "parts" in self.tables:
            parts = state["w"][self._parts()]
            self.tables["parts"].put(uploads.clients, parts.expand(len(uploads.clients), -1))
        return state

    def _parts(self) -> Tensor:
        return places(self.model_layout, self.parameters, GLOBAL, (HEAD, CONTEXT), self.settings.name)
