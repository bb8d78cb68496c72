"""FedDBE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedtl.clients.contract import ClientUpdate
from fedtl.clients.feddbe import FedDBE as FedDBEClient
from fedtl.clients.feddbe import FedDBESettings, head_with_bias
from fedtl.clients.settings import Settings
from fedtl.strategies.contract import Download, Strategy, Uploads, Vectors


class FedDBE(Strategy):
    """FedAvg with DBE, the domain bias eliminator (Zhang et al. 2023, arXiv 2311.14975).

    The initial round gives the consensual mean of features, z̄^g ← Σ_i n_i/n z̄_i^g, and leaves the model as it was; each
    other round is FedAvg's, θ ← Σ_i n_i/n θ_i. The clients' part is in ``clients/feddbe.py``.
    """

    settings_type: ClassVar[type[Settings]] = FedDBESettings
    client_update: ClassVar[type[ClientUpdate[Any]]] = FedDBEClient
    settings: FedDBESettings

    @classmethod
    def unused(cls, settings: Settings) -> dict[str, str]:
        """Without a regularisation, whatever says how it is made."""
        assert isinstance(settings, FedDBESettings)
        why = "features are held to nothing: kappa = 0"
        return {**super().unused(settings), **({} if settings.kappa else dict.fromkeys(("mu", "initial_clients"), why))}

    def first_state(self, w: Tensor) -> Vectors:
        """No consensus yet."""
        weight, _ = head_with_bias(self.model_layout, self.settings.name)
        return {"w": w, "consensus": torch.zeros(weight.shape[1]), "agreed": torch.zeros(1)}

    def is_initial(self, state: Vectors) -> bool:
        """Whether the next round is the one in which the consensus is found."""
        return bool(self.settings.kappa) and not ("agreed" in state and state["agreed"].item())

    def clients_in_round(self) -> int | None:
        """All in the initial round, unless the settings say otherwise."""
        initial = self.settings.initial_clients == "all" and self.is_initial(self.state)
        return None if initial else super().clients_in_round()

    def send(self, state: Vectors, clients: Sequence[int], round: int) -> Download:
        """θ and z̄^g; and whether clients are to use it, and their own vectors."""
        on = torch.zeros(1) if self.is_initial(state) else torch.ones(1)
        return Download({"w": state["w"], "consensus": state["consensus"], "on": on})

    def update(self, state: Vectors, uploads: Uploads, round: int) -> Vectors:
        """z̄^g, or the mean of the models."""
        if self.is_initial(state):
            return {**self.state, "consensus": uploads.mean("mean"), "agreed": torch.ones(1)}
        return {**state, "w": uploads.mean("w")}
