"""IFCA (Ghosh et al. 2020, arXiv 2006.04088, Algorithm 1, model averaging): k models, each client trains its best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor

from fedtl.clients.contract import ClientUpdate, Count, Loop, Memory, Probe, State, Weighting
from fedtl.clients.settings import Settings
from fedtl.strategies.contract import Download, Strategy, Uploads, Vectors


class IFCASettings(Settings):
    clusters: PositiveInt = 2
    spread: float = 0.1  # of the first models around the initial one


class IFCAClient(ClientUpdate[IFCASettings]):
    sums: ClassVar[Mapping[str, Weighting]] = {"models": "uniform", "members": "uniform"}
    personalises: ClassVar[bool] = True

    def first_memory(self, received: Vectors) -> Memory:
        return {"chosen": torch.zeros_like(received["models"][..., 0])}

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        losses = probe.loss(received["models"])
        places = torch.arange(self.settings.clusters, device=losses.device)
        chosen = (places == losses.argmin(-1, keepdim=True)).to(torch.float32)
        return {"w": (chosen[..., None] * received["models"]).sum(-2), "chosen": chosen}

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        chosen = state["chosen"]
        return {"models": chosen[..., None] * state["w"][..., None, :], "members": chosen}, {"chosen": chosen}

    def for_scoring(self) -> ClientUpdate[IFCASettings]:
        return IFCAChoice(self.settings, self.layout)

    def personal(self, received: Vectors, memory: Memory) -> Tensor:
        return (memory["chosen"][..., None] * received["models"]).sum(-2)


class IFCAChoice(IFCAClient):
    """The choice alone: the model of a client is one of those that it received, and needs no training."""

    def loops(self) -> Sequence[Loop]:
        return ()


class IFCA(Strategy):
    settings_type = IFCASettings
    client_update = IFCAClient
    global_model = False
    settings: IFCASettings

    def first_state(self, w: Tensor) -> Vectors:
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(self.settings.clusters, len(w), generator=generator)
        return {"models": w + self.settings.spread * noise}

    def send(self, state: Vectors, clients: Sequence[int], round: int) -> Download:
        return Download(state)

    def update(self, state: Vectors, uploads: Uploads, round: int) -> Vectors:
        members = uploads.sums["members"][:, None]
        means = (uploads.sums["models"] / members.clamp(min=1)).to(torch.float32)
        return {"models": torch.where(members > 0, means, state["models"])}
