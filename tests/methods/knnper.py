"""kNN-Per (Marfoq et al. 2022, arXiv 2111.09360, eq. 4 to 8): the global model and one's own nearest neighbours."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor

from fedtl.clients.contract import ClientUpdate, Count, Memory, State
from fedtl.clients.settings import Settings
from fedtl.losses.context import Layers
from fedtl.strategies.contract import Strategy, Vectors


class KNNPerSettings(Settings):
    neighbours: PositiveInt = 5
    mixing: float = 0.5  # λ
    kernel_scale: float = 1.0


class KNNPer(ClientUpdate[KNNPerSettings]):
    settings_type = KNNPerSettings
    personalises: ClassVar[bool] = True

    def personal(self, received: Vectors, memory: Memory) -> Tensor:
        return received["w"]

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        return {"w": state["w"]}, {}

    def for_scoring(self) -> ClientUpdate[KNNPerSettings]:
        return GlobalModel(self.settings, self.layout)

    def probabilities(self, seen: Tensor, own: Tensor, labels: Tensor, classes: int) -> Tensor:
        """The local estimate ``[B, k]`` of features ``[B, f]``."""
        apart = torch.cdist(seen, own, compute_mode="donot_use_mm_for_euclid_dist") ** 2
        near = apart.topk(min(self.settings.neighbours, len(own)), largest=False)
        weights = torch.exp(-near.values / (seen.shape[1] * self.settings.kernel_scale))
        votes = seen.new_zeros(len(seen), classes).scatter_add_(1, labels[near.indices], weights)
        return votes / votes.sum(1, keepdim=True)

    def answer(self, seen: Layers, own: Layers, labels: Tensor) -> Tensor:
        logits, mixing = seen["logits"], self.settings.mixing
        knn = self.probabilities(seen["features"], own["features"], labels, logits.shape[1])
        return (mixing * knn + (1 - mixing) * logits.softmax(1)).log()


class GlobalModel(KNNPer):
    """No training is needed to answer."""

    def loops(self):  # type: ignore[no-untyped-def]
        return ()


class KNNPerServer(Strategy):
    settings_type = KNNPerSettings
    client_update = KNNPer
