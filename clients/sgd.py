"""Plain local SGD: FedAvg's client."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from fedtl.clients.contract import ClientUpdate, Gradient, State
from fedtl.clients.settings import Settings
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

    settings_type: ClassVar[type[Settings]] = SGDSettings

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
