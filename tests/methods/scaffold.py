"""SCAFFOLD (Karimireddy et al. 2020, arXiv 1910.06378, Algorithm 1, option II): two names down, two up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from fedtl.clients.contract import ClientUpdate, Count, Gradient, Memory, Probe, State, Weighting
from fedtl.clients.settings import Settings
from fedtl.losses.batch import Batch
from fedtl.strategies.contract import Download, Strategy, Uploads, Vectors


class ScaffoldSettings(Settings):
    server_lr: float = 1.0  # η_g


class ScaffoldClient(ClientUpdate[ScaffoldSettings]):
    sums: ClassVar[Mapping[str, Weighting]] = {"w": "uniform", "dc": "uniform"}

    def first_memory(self, received: Vectors) -> Memory:
        return {"c_i": torch.zeros_like(received["w"])}

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        c_i = memory["c_i"]
        return {"w": received["w"], "anchor": received["w"], "correction": received["c"] - c_i, "c_i": c_i}

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        g = grad(state["w"], batch).add_(state["correction"])
        state["w"].sub_(g, alpha=self.settings.lr)
        return state

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        c_i = (state["anchor"] - state["w"]).div_(count.steps * self.settings.lr).sub_(state["correction"])
        return {"w": state["w"], "dc": c_i - state["c_i"]}, {"c_i": c_i}


class Scaffold(Strategy):
    settings_type = ScaffoldSettings
    client_update = ScaffoldClient
    settings: ScaffoldSettings

    def first_state(self, w: Tensor) -> Vectors:
        return {"w": w, "c": torch.zeros_like(w)}

    def send(self, state: Vectors, clients: Sequence[int], round: int) -> Download:
        return Download({"w": state["w"], "c": state["c"]})

    def update(self, state: Vectors, uploads: Uploads, round: int) -> Vectors:
        w = state["w"] + self.settings.server_lr * (uploads.mean("w") - state["w"])
        share = len(uploads.clients) / self.population
        return {**state, "w": w, "c": state["c"] + share * uploads.mean("dc")}
