"""FedRoD with a hypernetwork."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedtl.clients.contract import ClientUpdate
from fedtl.clients.fedrodhyper import FedRoDHyper as FedRoDHyperClient
from fedtl.clients.fedrodhyper import FedRoDHyperSettings
from fedtl.clients.heads import head_size
from fedtl.clients.settings import Settings
from fedtl.random import Purpose, derived_seed
from fedtl.strategies.contract import Download, Strategy, Uploads, Vectors


class FedRoDHyper(Strategy):
    """FedRoD whose personal heads a hypernetwork makes (Chen and Chao 2022, arXiv 2107.00778).

    The server averages the generic predictor and the hypernetwork; the clients' part is in ``clients/fedrodhyper.py``.
    """

    settings_type: ClassVar[type[Settings]] = FedRoDHyperSettings
    client_update: ClassVar[type[ClientUpdate[Any]]] = FedRoDHyperClient
    settings: FedRoDHyperSettings

    def first_state(self, w: Tensor) -> Vectors:
        """The initial model and hypernetwork: A and b as torch's linear layers begin, W and c at zeros."""
        m, classes = self.settings.hyper_hidden, self.classes
        head = head_size(self.model_layout)
        generator = torch.Generator().manual_seed(derived_seed(self.seed, Purpose.HYPERNETWORK))
        first = (2 * torch.rand(m * (classes + 1), generator=generator) - 1) / classes**0.5
        return {"w": w, "nu": torch.cat([first, torch.zeros(head * (m + 1))])}

    def send(self, state: Vectors, clients: Sequence[int], round: int) -> Download:
        """The generic predictor and the hypernetwork."""
        return Download({"w": state["w"], "nu": state["nu"]})

    def update(self, state: Vectors, uploads: Uploads, round: int) -> Vectors:
        """The means of both."""
        return {**state, "w": uploads.mean("w"), "nu": uploads.mean("nu")}
