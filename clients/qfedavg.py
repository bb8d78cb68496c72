"""q-FedAvg: clients of large loss count for more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, PositiveFloat

from fedtl.clients.contract import Count, Memory, Probe, State, Vectors, Weighting
from fedtl.clients.settings import Counted, Settings
from fedtl.clients.sgd import SGD, SGDSettings

SMALL = 1e-10
"""Added to F_i, as its authors do: F_i^(q - 1) is to be finite at a loss of 0 too."""


class QFedAvgSettings(SGDSettings):
    """Options of q-FedAvg, and of its local SGD.

    Attributes:
        q: how strongly large losses count; 0 is FedAvg in which clients count as objective_weighting says.
        lipschitz: L, an estimate of the Lipschitz constant of the gradients at q = 0; 1/η if not given, of the η that
            steps begin with, whatever the ``schedule``.
        objective_weighting: p_i of the objective f_q: all alike, or n_i / n ("samples"), by which each client's Δ_i and
            h_i count.
    """

    q: float = Field(ge=0)
    lipschitz: PositiveFloat | None = None
    objective_weighting: Counted = "uniform"

    @property
    def smoothness(self) -> float:
        """L, or 1/η."""
        return self.lipschitz or 1 / self.optimizer.rate(self.lr)


class QFedAvg(SGD):
    """A client's part of q-FedAvg (Li, Sanjabi, Beirami, Smith 2020, arXiv 1905.10497, Algorithm 2).

    F_i is the loss of w^t on all of the client's training samples. After local SGD that ends in w̄_i, with
    Δw_i = L (w^t - w̄_i), it sends Δ_i = F_i^q Δw_i, and what h_i = q F_i^(q-1) ‖Δw_i‖² + L F_i^q is made of: F_i and
    ‖w^t - w̄_i‖. Instead of Δ_i itself it sends w^t - Δ_i / L, which is a model: so its batch-norm statistics are
    averaged as everybody's. With ``local_steps = 1``, ``batch_size = 0`` and L = 1/η this is q-FedSGD, Algorithm 1.

    Differs from the paper: F_i is the loss of the task alone, as in its experiments (cross-entropy, squared error, …),
    where the ``[[objective]]`` has other terms, weights or label smoothing as well. The paper samples clients with
    probability p_i = n_i / n and adds up plainly, which is ``sampling = "samples"``; where all take part, they count
    n_i / n in the sums with ``objective_weighting = "samples"``. By default all are sampled and count alike, as with
    "uniform sampling" in the authors' code. 1e-10 is added to F_i, as there.
    """

    sums: ClassVar[Mapping[str, Weighting]] = {"w": "uniform"}
    rows: ClassVar[tuple[str, ...]] = ("loss", "distance")
    settings_type: ClassVar[type[Settings]] = QFedAvgSettings
    settings: QFedAvgSettings

    @classmethod
    def counts(cls, settings: Settings) -> dict[str, Counted]:
        """As p_i of the objective."""
        assert isinstance(settings, QFedAvgSettings)
        return {"w": settings.objective_weighting}

    @classmethod
    def unused(cls, settings: Settings) -> dict[str, str]:
        """L where q = 0: it divides what it multiplies."""
        assert isinstance(settings, QFedAvgSettings)
        return {} if settings.q else {"lipschitz": "Δ_i and h_i both have the factor L, and no other, at q = 0"}

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        """Evaluate F_i at w^t, and begin there."""
        w = received["w"]
        loss = probe.training_loss(w)[..., None] + SMALL
        return {"w": w, "anchor": w, "loss": loss, **self.optimizer.init(w)}

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        """Send w^t - Δ_i / L, F_i, and how far the local model has moved."""
        w, loss = state["anchor"], state["loss"]
        moved = w - state["w"]
        distance = moved.square().sum(-1, keepdim=True).sqrt()
        return {"w": w - loss**self.settings.q * moved, "loss": loss, "distance": distance}, {}
