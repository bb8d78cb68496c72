"""FedDyn: local losses are changed so that they share the global loss's stationary points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedtl.clients.contract import Count, Gradient, Memory, Probe, State, Vectors, Weighting
from fedtl.clients.settings import Settings
from fedtl.clients.sgd import SGD
from fedtl.clients.unequal import UnequalSettings
from fedtl.losses.batch import Batch


class FedDynSettings(UnequalSettings):
    """Options of FedDyn, and of its local SGD.

    Attributes:
        alpha: α, how strongly a local model is held to the received one.
        mean_samples: n̄, the mean number of training samples of all N clients. If given, client i has
            α_i = α n̄/n_i in α's place, as its authors' code does.
    """

    alpha: float = Field(gt=0)


class FedDyn(SGD):
    """A client's part of Algorithm 1 of Acar et al. 2021 (arXiv 2111.04263), the minimum being sought by SGD.

    θ_i ≈ argmin of L_i(θ) - <∇L_i(θ_i^(t-1)), θ> + α/2 ‖θ - θ^(t-1)‖², and then
    ∇L_i(θ_i^t) = ∇L_i(θ_i^(t-1)) - α (θ_i^t - θ^(t-1)), which is the gradient at an exact minimum. It begins with 0,
    which is also what a client has that has not taken part.

    Differs from the paper: not at all by default. Its authors' code scales α by client (``mean_samples``), clips the
    gradient, linear term included, to a norm of 10, and reports the accuracy of the mean of the θ_i, where the global
    model here is θ^t, from which the clients begin.
    """

    sums: ClassVar[Mapping[str, Weighting]] = {"w": "uniform"}
    needs_whole_model: ClassVar[bool] = True  # what nobody averages, the linear term keeps where it is
    settings_type: ClassVar[type[Settings]] = FedDynSettings
    settings: FedDynSettings

    def alpha(self, samples: Tensor) -> Tensor | float:
        """α, or α_i ``[1]``."""
        o = self.settings
        return o.alpha if o.mean_samples is None else o.alpha * o.mean_samples / samples

    def first_memory(self, received: Vectors) -> Memory:
        """∇L_i = 0."""
        return {"gradient": torch.zeros_like(received["w"])}

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        """Begin at θ^(t-1)."""
        w, alpha = received["w"], self.alpha(probe.samples)
        own = {"alpha": alpha} if isinstance(alpha, Tensor) else {}
        return {"w": w, "anchor": w, "gradient": memory["gradient"], **own, **self.optimizer.init(w)}

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        """One step of the optimiser on the regularised loss."""
        anchor, gradient, alpha = state["anchor"], state["gradient"], state.get("alpha", self.settings.alpha)
        w = state["w"]
        return self.move(state, grad(w, batch).sub_(gradient).add_((w - anchor).mul_(alpha)))

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        """Send θ_i; keep ∇L_i(θ_i)."""
        moved = state["w"] - state["anchor"]
        return {"w": state["w"]}, {"gradient": state["gradient"] - self.alpha(count.samples) * moved}
