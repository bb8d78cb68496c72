"""pFedHN (Shamsian et al. 2021, arXiv 2103.04628, Algorithm 1): a hypernetwork at the server, moved by autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from fedtl.clients.contract import ClientUpdate, Count, Memory, Probe, State
from fedtl.clients.settings import Settings
from fedtl.strategies.contract import Download, Strategy, Uploads, Vectors

EMBEDDING, HIDDEN = 3, 7


class PFedHNSettings(Settings):
    hyper_lr: float = 0.05
    embed_lr: float = 0.05


class PFedHNClient(ClientUpdate[PFedHNSettings]):
    sums: ClassVar = {}
    rows: ClassVar[tuple[str, ...]] = ("delta",)
    personalises: ClassVar[bool] = True

    def first_memory(self, received: Vectors) -> Memory:
        return {"w": received["w"].clone()}

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        return {"w": received["w"], "theta": received["w"]}

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        return {"delta": state["theta"] - state["w"]}, {"w": state["w"]}

    def personal(self, received: Vectors, memory: Memory) -> Tensor:
        return memory["w"]


class PFedHN(Strategy):
    settings_type = PFedHNSettings
    client_update = PFedHNClient
    global_model = False
    settings: PFedHNSettings

    def first_state(self, w: Tensor) -> Vectors:
        generator = torch.Generator().manual_seed(self.seed)

        def near(*shape: int, scale: float = 0.1) -> Tensor:
            return scale * torch.randn(*shape, generator=generator)

        return {"a": near(HIDDEN, EMBEDDING), "b": near(HIDDEN), "out": near(len(w), HIDDEN, scale=0.01), "bias": w}

    def first_tables(self, w: Tensor) -> Vectors:
        generator = torch.Generator().manual_seed(self.seed + 1)
        return {"v": torch.randn(self.numbered, EMBEDDING, generator=generator)}

    def models(self, phi: Vectors, v: Tensor) -> Tensor:
        return torch.relu(v @ phi["a"].T + phi["b"]) @ phi["out"].T + phi["bias"]

    def send(self, state: Vectors, clients: Sequence[int], round: int) -> Download:
        return Download({}, {"w": self.models(state, self.tables["v"].rows(clients))})

    def update(self, state: Vectors, uploads: Uploads, round: int) -> Vectors:
        phi = {name: tensor.clone().requires_grad_() for name, tensor in state.items()}
        v = self.tables["v"].rows(uploads.clients).requires_grad_()
        gradients = torch.autograd.grad(self.models(phi, v), [*phi.values(), v], uploads.rows["delta"])
        *of_phi, of_v = gradients
        self.tables["v"].put(uploads.clients, v - self.settings.embed_lr * of_v)
        rate = self.settings.hyper_lr / len(uploads.clients)
        return {name: tensor - rate * g for (name, tensor), g in zip(phi.items(), of_phi)}
