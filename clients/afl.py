"""AFL: the worst mixture of clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from fedtl.clients.contract import Count, Memory, Probe, State, Vectors, Weighting
from fedtl.clients.settings import Settings
from fedtl.clients.sgd import SGD, SGDSettings


class AFLSettings(SGDSettings):
    """Options of AFL, and of its local SGD.

    Attributes:
        mixture_lr: γ_λ, the step size of the mixture's weights λ; 0 is FedAvg with equal weights.
        output: the model that is scored and saved: the "average" of w_1, …, w_t, which is what Stochastic-AFL gives
            out and what its bound is of, or the "last" round's w_t. Training is the same. In a phase that averages
            after one that does not, it is of the rounds since.
    """

    mixture_lr: float = Field(ge=0)
    output: Literal["last", "average"] = "average"


class AFL(SGD):
    """A client's part of AFL (Mohri, Sivek, Suresh 2019, arXiv 1902.00146, section 5).

    It sends its loss L_i(w), on all of its training samples, and w + s_i (w_i - w) with its share s_i = |S| λ_i: so the
    plain mean over the clients S is w + Σ λ_i (w_i - w). It also sends the share, as others may fail.

    Differs from the paper: a client may take several local steps, where Stochastic-AFL takes one. L_i is the loss of
    the task alone (cross-entropy, squared error, …), where the ``[[objective]]`` has other terms, weights or label
    smoothing as well. Batch-norm's running statistics are the plain mean of the round's clients, whatever λ is.
    """

    sums: ClassVar[Mapping[str, Weighting]] = {"w": "uniform", "share": "uniform"}
    rows: ClassVar[tuple[str, ...]] = ("loss",)
    settings_type: ClassVar[type[Settings]] = AFLSettings
    settings: AFLSettings

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        """Evaluate L_i at w, and begin there."""
        w = received["w"]
        own = {"anchor": w, "share": received["share"], "loss": probe.training_loss(w)[..., None]}
        return {"w": w, **own, **self.optimizer.init(w)}

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        """Send the loss, and the model as far as the client counts."""
        w, share = state["anchor"], state["share"]
        return {"w": w + share * (state["w"] - w), "share": share, "loss": state["loss"]}, {}
