"""Plain local SGD: FedAvg's client."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from fedtl.clients.settings import Settings
from fedtl.clients.update import ClientUpdate, Gradient, Memory, State
from fedtl.losses.batch import Batch


class SGDSettings(Settings):
    """Options of plain local SGD.

    Attributes:
        momentum: heavy-ball momentum within a round, as in ``torch.optim.SGD``; starts anew each round.
        weight_decay: adds ``weight_decay * w`` to the gradient.
    """

    momentum: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)


class SGD(ClientUpdate[SGDSettings]):
    """w ← w - η ∇f_i(w; batch) (McMahan et al. 2017, ClientUpdate of Algorithm 1)."""

    def start(self, w: Tensor, memory: Memory) -> State:
        """Begin from the global model."""
        return {"w": w}

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        """One step of SGD."""
        w, options = state["w"], self.settings
        g = grad(w, batch)
        if options.weight_decay:
            g.add_(w, alpha=options.weight_decay)
        if options.momentum:
            g = state["velocity"].mul_(options.momentum).add_(g) if "velocity" in state else g
            state = {**state, "velocity": g}
        w.sub_(g, alpha=options.lr)
        return state

    def finish(self, state: State) -> tuple[Tensor | None, Memory]:
        """Upload w_i; keep nothing."""
        return state["w"], {}
