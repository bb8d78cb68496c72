"""FedAMP (Huang et al. 2021, arXiv 2007.03797, Algorithm 1): a cloud model for each client; rows both ways, a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from fedtl.clients.contract import ClientUpdate, Count, Gradient, Memory, Probe, State
from fedtl.clients.settings import Settings
from fedtl.losses.batch import Batch
from fedtl.strategies.contract import Download, Strategy, Uploads, Vectors


class FedAMPSettings(Settings):
    sigma: float = 20.0
    alpha: float = 5.0
    prox: float = 1.0  # λ / α_k


class FedAMPClient(ClientUpdate[FedAMPSettings]):
    sums: ClassVar = {}
    rows: ClassVar[tuple[str, ...]] = ("w",)
    personalises: ClassVar[bool] = True
    goes_on: ClassVar[bool] = True

    def first_memory(self, received: Vectors) -> Memory:
        return {"w": received["w"].clone()}

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        return {"w": memory["w"], "u": received["w"]}

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        w, o = state["w"], self.settings
        w.sub_(grad(w, batch).add_(w - state["u"], alpha=o.prox), alpha=o.lr)
        return state

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        return {"w": state["w"]}, {"w": state["w"]}

    def personal(self, received: Vectors, memory: Memory) -> Tensor:
        return memory["w"]


class FedAMP(Strategy):
    settings_type = FedAMPSettings
    client_update = FedAMPClient
    global_model = False
    settings: FedAMPSettings

    def first_state(self, w: Tensor) -> Vectors:
        return {}

    def first_tables(self, w: Tensor) -> Vectors:
        return {"models": w.expand(self.numbered, -1)}

    def send(self, state: Vectors, clients: Sequence[int], round: int) -> Download:
        models, o = self.tables["models"].rows(range(self.numbered)), self.settings
        apart = torch.cdist(models, models, compute_mode="donot_use_mm_for_euclid_dist") ** 2
        xi = o.alpha / o.sigma * torch.exp(-apart / o.sigma)
        xi.fill_diagonal_(0)
        xi += torch.diag(1 - xi.sum(1))
        return Download({}, {"w": (xi @ models)[list(clients)]})

    def update(self, state: Vectors, uploads: Uploads, round: int) -> Vectors:
        self.tables["models"].put(uploads.clients, uploads.rows["w"])
        return state
