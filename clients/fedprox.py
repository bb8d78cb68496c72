"""FedProx: local SGD held back by a proximal term."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from fedtl.clients.settings import Settings
from fedtl.clients.update import ClientUpdate, Gradient, Memory, State
from fedtl.losses.batch import Batch


class FedProxSettings(Settings):
    """Options of FedProx; mu is µ of the paper."""

    mu: float = Field(ge=0)


class FedProx(ClientUpdate[FedProxSettings]):
    """SGD on h_i(w; w^t) = f_i(w) + µ/2 ‖w - w^t‖² (Li et al. 2020, arXiv 1812.06127, eq. 2).

    The paper leaves the solver open; like its experiments this is SGD for a fixed number of epochs.
    """

    def start(self, w: Tensor, memory: Memory) -> State:
        """Begin from the global model, and remember it as w^t."""
        return {"w": w, "anchor": w.clone()}

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        """One step of SGD on h_i."""
        w, options = state["w"], self.settings
        h = grad(w, batch).add_(w - state["anchor"], alpha=options.mu)
        w.sub_(h, alpha=options.lr)
        return state

    def finish(self, state: State) -> tuple[Tensor | None, Memory]:
        """Upload w_i; keep nothing."""
        return state["w"], {}
