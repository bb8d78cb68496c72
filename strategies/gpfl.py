"""GPFL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedtl.clients import gpfl
from fedtl.clients.contract import ClientUpdate
from fedtl.clients.gpfl import EMBEDDINGS, INPUTS, GPFLSettings
from fedtl.clients.settings import Settings
from fedtl.strategies.contract import Download, Uploads, Vectors
from fedtl.strategies.fedavg import FedAvg
from fedtl.strategies.travelling import places


class GPFL(FedAvg):
    """GPFL: global and personal features at once (Zhang et al. 2023, arXiv 2308.10279).

    W^fe, V and C are the means of the clients', weighted by samples; their part is in ``clients/gpfl.py``. With
    ``inputs = "own"``, the authors' code, the server also sends the C that clients held in the round before.
    """

    settings_type: ClassVar[type[Settings]] = GPFLSettings
    client_update: ClassVar[type[ClientUpdate[Any]]] = gpfl.GPFL
    settings: GPFLSettings

    def first_state(self, w: Tensor) -> Vectors:
        """Before the first round, clients held nothing."""
        if self.settings.inputs == "received":
            return {"w": w}
        return {"w": w, "held": torch.zeros_like(w[self._embeddings()])}

    def send(self, state: Vectors, clients: Sequence[int], round: int) -> Download:
        """W^fe, V and C, and what clients held."""
        if "held" not in state:
            return Download({"w": state["w"]})
        return Download({"w": state["w"], "held": state["held"], "round": torch.tensor([float(round)])})

    def update(self, state: Vectors, uploads: Uploads, round: int) -> Vectors:
        """The means; what clients held in this round is what they will have held in the round before the next."""
        new = super().update(state, uploads, round)
        return {**new, "held": state["w"][self._embeddings()].clone()} if "held" in state else new

    def _embeddings(self) -> Tensor:
        private = (*self.settings.private, INPUTS)
        return places(self.model_layout, self.parameters, (EMBEDDINGS,), private, self.settings.name)
