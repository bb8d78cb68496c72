"""FedProx: local SGD held back by a proximal term."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from fedtl.clients.contract import ClientUpdate, Gradient, Memory, Probe, State, Vectors
from fedtl.clients.settings import Settings
from fedtl.losses.batch import Batch
from fedtl.optimizers.settings import OptimizerSettings


class FedProxSettings(Settings, OptimizerSettings):
    """Options of FedProx.

    Attributes:
        mu: µ, how strongly the local model is held to the global one; with 0 it is FedAvg.
    """

    mu: float = Field(ge=0)


class FedProx(ClientUpdate[FedProxSettings]):
    """SGD on h_i(w; w^t) = f_i(w) + µ/2 ‖w - w^t‖² (Li et al. 2020, arXiv 1812.06127, eq. 2).

    The paper leaves the solver open; like its experiments without stragglers this is SGD for a fixed number of epochs.

    Differs from the paper: its Algorithm 2 samples clients with probability n_i / n and takes the plain mean, which is
    ``sampling = "samples"`` with ``weighting = "uniform"``; by default, as in its authors' code, clients are sampled
    uniformly and the mean is weighted by samples. Its experiments also let 50 % or 90 % of the clients, drawn anew in
    each round, stop after a random number of epochs, which is ``stragglers = 0.9``: there so many of a round's clients
    do, here each does with that probability.
    """

    settings_type: ClassVar[type[Settings]] = FedProxSettings

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        """Begin from the global model, and remember it as w^t."""
        return {"w": received["w"], "anchor": received["w"], **self.optimizer.init(received["w"])}

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        """One step of the optimiser on h_i."""
        w, options = state["w"], self.settings
        h = grad(w, batch).add_(w - state["anchor"], alpha=options.mu)
        return self.optimizer.step(state, h)
