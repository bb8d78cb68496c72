"""FedSAM: local training by sharpness-aware minimisation."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedtl.clients.contract import Gradient, State
from fedtl.clients.settings import Settings
from fedtl.clients.sgd import SGD, SGDSettings
from fedtl.losses.batch import Batch
from fedtl.models.vector import Layout

TINY = 1e-12
"""Added to a norm, as in the code of SAM's authors: where the gradient is 0, nothing is perturbed."""


class SAMSettings(SGDSettings):
    """Options of sharpness-aware minimisation; the optimiser is the one that takes its steps.

    Attributes:
        rho: ρ, how far from w the gradient is taken: a length, or with ``adaptive`` one relative to w.
        adaptive: whether each number of w is perturbed in proportion to itself: ASAM.
        eta: η of ASAM, added to these proportions.
        adaptive_biases: whether that includes biases, and all else that is not called a weight; the code of ASAM's
            authors leaves them out.
    """

    rho: float = Field(0.05, ge=0)
    adaptive: bool = False
    eta: float = Field(0.01, ge=0)
    adaptive_biases: bool = True


class SAM(SGD):
    """SGD on max over ‖ε‖ ≤ ρ, or ‖T⁻¹ ε‖ ≤ ρ, of f_i(w + ε): w ← w - η ∇f_i(w + ε), ε on the same mini-batch.

    - SAM (Foret et al. 2021, arXiv 2010.01412, eq. 2): ε = ρ g / ‖g‖, g = ∇f_i(w).
    - ASAM (Kwon et al. 2021, arXiv 2102.11600, eq. 5): ε = ρ T² g / ‖T g‖, T = |w| + η.

    Recorded losses are means over both points. Batch-norm's running statistics see each mini-batch twice.
    """

    settings_type: ClassVar[type[Settings]] = SAMSettings
    settings: SAMSettings

    def __init__(self, settings: SAMSettings, layout: Layout) -> None:
        super().__init__(settings, layout)
        self._weights: Tensor | None = None
        if settings.adaptive and not settings.adaptive_biases:
            self._weights = torch.zeros(layout.parameters)
            for slot in layout.trained:
                if "weight" in slot.name:
                    self._weights[slot.start : slot.stop] = 1

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        """One step of the optimiser, along the gradient at w + ε."""
        w = state["w"]
        return self.move(state, grad(w + self.epsilon(w, grad(w, batch)), batch))

    def epsilon(self, w: Tensor, g: Tensor) -> Tensor:
        """The perturbation ε ``[..., P]``."""
        o = self.settings
        if not o.adaptive:
            return o.rho * g / length(g)
        t = w.abs() + o.eta
        if self._weights is not None:
            weights = self._weights.to(w.device)
            t = weights * t + (1 - weights)
        scaled = t * g
        return o.rho * t * scaled / length(scaled)


def length(g: Tensor) -> Tensor:
    """‖g‖ ``[..., 1]`` of ``g`` ``[..., P]``, not 0."""
    norm: Tensor = torch.linalg.vector_norm(g, dim=-1, keepdim=True)
    return norm + TINY
