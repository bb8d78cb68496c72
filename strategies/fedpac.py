"""FedPAC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import Tensor

from fedtl.clients.contract import ClientUpdate
from fedtl.clients.fedpac import FedPAC as FedPACClient
from fedtl.clients.fedpac import FedPACSettings
from fedtl.clients.heads import head_of
from fedtl.clients.settings import Settings
from fedtl.strategies.contract import Download, Strategy, Uploads, Vectors


class FedPAC(Strategy):
    """FedPAC: feature alignment and classifier collaboration (Xu, Tong and Huang 2023, arXiv 2306.11867).

    θ ← Σ_i n_i/n θ_i over the round's clients S; c_k is the mean of their features of class k, sample by sample. The
    head that client i has next is φ_i ← Σ_{j∈S} α_ij φ_j, where α_i ≥ 0, Σ_j α_ij = 1 minimises

    Σ_j α_ij² V_j + ‖Σ_j α_ij (h_i - h_j)‖²,

    a variance that falls with the number of heads and a bias that grows as their clients' data are unlike i's. Clients
    that were not sampled keep their heads. These are |S| problems of |S| unknowns: with a hundred clients, about a
    second of work in each round. The clients' part is in ``clients/fedpac.py``.
    """

    settings_type: ClassVar[type[Settings]] = FedPACSettings
    client_update: ClassVar[type[ClientUpdate[Any]]] = FedPACClient
    settings: FedPACSettings

    @classmethod
    def unused(cls, settings: Settings) -> dict[str, str]:
        """Without a combination, whatever says how it is made."""
        assert isinstance(settings, FedPACSettings)
        without = {} if settings.collaboration else {"smallest_weight": "heads are not combined: collaboration = false"}
        return {**super().unused(settings), **without}

    def first_tables(self, w: Tensor) -> Vectors:
        """Everybody's head is the initial one."""
        return {"phi": head_of(self.model_layout, w).expand(self.numbered, -1)}

    def send(self, state: Vectors, clients: Sequence[int], round: int) -> Download:
        """The model, and to each client its own head."""
        return Download({"w": state["w"]}, {"phi": self.tables["phi"].rows(clients)})

    def send_unseen(self, state: Vectors, clients: Sequence[int], round: int) -> Download:
        """The model, whose head is the mean of the round's heads: nobody has combined any for these clients."""
        phi = head_of(self.model_layout, state["w"])
        return Download({"w": state["w"]}, {"phi": phi.expand(len(clients), -1).clone()})

    def update(self, state: Vectors, uploads: Uploads, round: int) -> Vectors:
        """The mean of the models; a head for each of the round's clients."""
        phi = uploads.rows["phi"]
        if self.settings.collaboration:
            alpha = combination(uploads.rows["h"], uploads.rows["V"][:, 0], self.settings.smallest_weight)
            phi = (alpha @ phi.to(torch.float64)).to(torch.float32)
        self.tables["phi"].put(uploads.clients, phi)
        return {**state, "w": uploads.mean("w")}


def combination(h: Tensor, V: Tensor, smallest: float = 0.0) -> Tensor:
    """Of which heads each client's is made: ``[S, S]`` float64, row i is α_i.

    Args:
        h: ``[S, k·f]``.
        V: ``[S]``, none below 0.
        smallest: weights that are not above it become 0, and the others are scaled up; not where none is above it.
    """
    # Distances alone count, and those between S points are the same in S dimensions.
    points = torch.linalg.qr(h.to(torch.float64).T, mode="r").R.T.numpy()
    deviations = np.diag(np.sqrt(V.to(torch.float64).numpy()))
    alpha = np.stack([_weights(points, deviations, i) for i in range(len(points))])
    above = alpha > smallest
    alpha = np.where(above | ~above.any(1, keepdims=True), alpha, 0)
    return torch.from_numpy(alpha / alpha.sum(1, keepdims=True))


def _weights(points: NDArray[np.float64], deviations: NDArray[np.float64], i: int) -> NDArray[np.float64]:
    """α ``[S]`` that minimises ‖A α‖² on the simplex, where A are deviations above distances from point i.

    It is x / Σx of the x ≥ 0 that minimises ‖A x‖² + (Σx - 1)²: with x = s α the best s leaves q / (1 + q) of
    q = ‖A α‖², which grows with q. That is a problem of non-negative least squares, whose solver is exact.
    """
    A = np.vstack([deviations, (points[i] - points).T])
    scale = np.linalg.norm(A) / len(points) ** 0.5 or 1.0
    order = np.argsort(np.arange(len(points)) != i, kind="stable")  # where α is not unique, with i first
    b = np.zeros(len(A) + 1)
    b[-1] = 1.0
    x = np.empty(len(points))
    x[order], _ = nnls(np.vstack([A / scale, np.ones(len(points))])[:, order], b, maxiter=100 * len(points))
    return cast(NDArray[np.float64], x / x.sum())
