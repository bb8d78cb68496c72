"""FedDC: each client learns its drift, and is corrected by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fedtl.clients.contract import Count, Gradient, Memory, Probe, State, Vectors, Weighting
from fedtl.clients.settings import Counted, Settings
from fedtl.clients.unequal import Unequal, UnequalSettings
from fedtl.losses.batch import Batch


class FedDCSettings(UnequalSettings):
    """Options of FedDC, and of its local SGD.

    Attributes:
        alpha: α, how strongly θ_i + h_i is held to the received model.
        weighting: how the server takes the mean of the sampled clients.
        correction: g_i: the client's last "update" (w - θ_i) / (ηK) itself, as the paper has it; or a control variate
            that is renewed as "scaffold" does in option II, as in its authors' code.
        drifts: the server adds to the mean of the θ_i the mean of the h_i of the "sampled" clients, which is the
            paper's mean of θ_i + h_i, or of "all" N, as in its authors' code.
        mean_samples: n̄, the mean number of training samples of all N clients. If given, client i has
            α_i = α n̄/n_i and g n̄/n_i in the place of α and g, and its g_i counts n_i/n̄ times at the server, as in its
            authors' code.
    """

    alpha: float = Field(ge=0)
    weighting: Counted = "uniform"
    correction: Literal["update", "scaffold"] = "update"
    drifts: Literal["sampled", "all"] = "sampled"

    @model_validator(mode="after")
    def _of_all_alike(self) -> FedDCSettings:
        if self.drifts == "all" and self.weighting == "samples":
            raise ValueError(
                "drifts = 'all' and weighting = 'samples' exclude each other: the drifts' mean over all clients is a "
                "plain one, of which the server learns by the sampled clients' plain mean alone"
            )
        return self


class FedDC(Unequal):
    """A client's part of Algorithm 1 of Gao et al. 2022 (arXiv 2203.11751).

    From θ_i = w, K steps on L_i(θ) + α/2 ‖θ - (w - h_i)‖² + <θ, g - g_i>; then the drift is h_i ← h_i + θ_i - w. g_i is
    (w - θ_i) / (ηK) of the client's last round, and g the mean over the clients of the last round. h_i, g_i and g begin
    with 0. Instead of θ_i and h_i the client sends their sum, of which the server takes the mean.

    Differs from the paper: it was not at hand; this is what the notes of the reference cases say of it. Its authors'
    code is ``correction = "scaffold"``, ``drifts = "all"`` and ``mean_samples``; it divides by the K of a client of
    mean size and by η as it was in the first round, for all clients and rounds, and clips gradients to a norm of 10.
    """

    sums: ClassVar[Mapping[str, Weighting]] = {"w": "settings", "g": "uniform"}
    settings_type: ClassVar[type[Settings]] = FedDCSettings
    settings: FedDCSettings

    def first_memory(self, received: Vectors) -> Memory:
        """No drift, and no update."""
        return {"h": torch.zeros_like(received["w"]), "g": torch.zeros_like(received["w"])}

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        """θ_i = w; what is added to each gradient and does not depend on θ stays the same all round."""
        w, h, own, share = received["w"], memory["h"], memory["g"], self.share(probe.samples)
        correction, alpha = received["g"] / share - own, self.settings.alpha / share
        state = {"w": w, "anchor": w, "h": h, "g": own, "correction": correction, "shift": correction + alpha * h}
        if isinstance(alpha, Tensor):
            state["alpha"] = alpha
        return {**state, **self.optimizer.init(w)}

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        """One step of the optimiser on the corrected loss."""
        w, anchor, alpha = state["w"], state["anchor"], state.get("alpha", self.settings.alpha)
        return self.move(state, grad(w, batch).add_(state["shift"]).add_((w - anchor).mul_(alpha)))

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        """Send θ_i, with its drift or without, and g_i or its change; keep both."""
        o, share = self.settings, self.share(count.samples)
        moved = state["w"] - state["anchor"]
        h, g = state["h"] + moved, -moved / (count.steps * self.optimizer.rate(state))
        if o.correction == "scaffold":
            g = g - state["correction"]
        g = self.where_moving(state, g, state["g"])
        change = g - state["g"] if o.correction == "scaffold" else g
        sent = state["w"] + h if o.drifts == "sampled" else state["w"]
        return {"w": sent, "g": change * share}, {"h": h, "g": g}
