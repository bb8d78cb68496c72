"""SCAFFOLD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedtl.clients.contract import ClientUpdate
from fedtl.clients.scaffold import Scaffold as ScaffoldClient
from fedtl.clients.scaffold import ScaffoldSettings
from fedtl.clients.settings import Settings
from fedtl.strategies.contract import Download, Strategy, Uploads, Vectors


class Scaffold(Strategy):
    """SCAFFOLD: control variates against client drift (Karimireddy et al. 2020, arXiv 1910.06378, Algorithm 1).

    x ← x + η_g mean_S (y_i - x) and c ← c + 1/N Σ_S (c_i⁺ - c_i); the clients' part is in ``clients/scaffold.py``.
    """

    settings_type: ClassVar[type[Settings]] = ScaffoldSettings
    client_update: ClassVar[type[ClientUpdate[Any]]] = ScaffoldClient
    settings: ScaffoldSettings

    def first_state(self, w: Tensor) -> Vectors:
        """A control variate of 0."""
        return {"w": w, "c": torch.zeros_like(w)}

    def send(self, state: Vectors, clients: Sequence[int], round: int) -> Download:
        """The model x and the control variate c."""
        return Download({"w": state["w"], "c": state["c"]})

    def update(self, state: Vectors, uploads: Uploads, round: int) -> Vectors:
        """Lines 16 and 17 of Algorithm 1; the mean of y_i itself where η_g = 1."""
        rate, share = self.settings.server_lr, len(uploads.clients) / self.population
        x = (1 - rate) * state["w"] + rate * uploads.mean("w")
        return {**state, "w": x, "c": state["c"] + share * uploads.mean("dc")}

    def regrouped(self, state: Vectors, known: float) -> Vectors:
        """The mean c over other clients, whose c_i are 0 where they are new."""
        return {**state, "c": known * state["c"]}
