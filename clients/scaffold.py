"""SCAFFOLD: local steps corrected by control variates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator

from fedtl.clients.contract import Count, Gradient, Loop, Memory, Probe, State, Vectors, Weighting
from fedtl.clients.settings import Counted, Settings
from fedtl.clients.sgd import PLAIN
from fedtl.clients.unequal import Unequal, UnequalSettings
from fedtl.losses.batch import Batch


class ScaffoldSettings(UnequalSettings):
    """Options of SCAFFOLD, and of its local SGD.

    Attributes:
        option: how a control variate c_i is renewed: "I", the gradient at x of all of the client's samples, which is
            one more pass over them; or "II", the mean of the gradients of the round's steps.
        server_lr: η_g, the server's step size.
        weighting: the paper takes the plain mean of the sampled clients ("uniform").
        control_weighting: how clients count in the mean of the changes of c_i, of which c is made: all alike, as in the
            paper, or by their samples, as Flower's reproduction of NIID-Bench has both means.
        corrects: what c - c_i is added to where a step is more than a gradient (momentum, or another optimiser):
            to the "gradient", or to the "step", whose mean is then c_i, as NIID-Bench and Flower have it.
        mean_samples: n̄, the mean number of training samples of all N clients. If given, the client is corrected by
            c n̄/n_i, though c alone is taken off in option II, and the server adds n_i/n̄ times the change of c_i: what
            FedDyn's authors do for unequal clients.
    """

    option: Literal["I", "II"] = "II"
    server_lr: float = Field(1.0, gt=0)
    weighting: Counted = "uniform"
    control_weighting: Counted = "uniform"
    corrects: Literal["gradient", "step"] = "gradient"

    @model_validator(mode="after")
    def _of_one_kind(self) -> ScaffoldSettings:
        if self.option == "I" and self.corrects == "step":
            raise ValueError(
                "option = 'I' and corrects = 'step' exclude each other: under option I a control variate is a gradient"
            )
        return self


class Scaffold(Unequal):
    """A client's part of Algorithm 1 of Karimireddy et al. 2020 (arXiv 1910.06378).

    y_i = x; K times y_i ← y_i - η_l (g_i(y_i) - c_i + c). Then c_i⁺ = g_i(x) (option I), or
    c_i⁺ = c_i - c + (x - y_i) / (K η_l) (option II), which is the mean of the steps' g_i(y_i). The client sends y_i and
    c_i⁺ - c_i. One that has not taken part has c_i = 0.

    Differs from the paper: not at all. With an optimiser that is not plain SGD the mean of the gradients is taken as
    such, since (x - y_i) / (K η_l) is none then; a weight decay is no part of it.
    """

    sums: ClassVar[Mapping[str, Weighting]] = {"w": "settings", "dc": "uniform"}
    settings_type: ClassVar[type[Settings]] = ScaffoldSettings
    settings: ScaffoldSettings

    @classmethod
    def counts(cls, settings: Settings) -> dict[str, Counted]:
        """The changes of c_i have an option of their own."""
        assert isinstance(settings, ScaffoldSettings)
        return {**super().counts(settings), "dc": settings.control_weighting}

    @classmethod
    def unused(cls, settings: Settings) -> dict[str, str]:
        """What is corrected, where a step is a gradient at the learning rate."""
        o = settings
        assert isinstance(o, ScaffoldSettings)
        more = o.momentum or o.weight_decay or o.clip_norm or o.lr_scale or o.optimizer.without_rate() != PLAIN
        return {} if more else {"corrects": "a step of plain SGD is the gradient times η"}

    @property
    def adds_up(self) -> bool:
        """Whether gradients are added up: plain steps have themselves as their sum."""
        o = self.settings
        plain = self.optimizer.plain and not (o.momentum or o.weight_decay)
        return o.option == "I" or (o.corrects == "gradient" and not plain)

    def first_memory(self, received: Vectors) -> Memory:
        """c_i = 0."""
        return {"c_i": torch.zeros_like(received["w"])}

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        """y_i = x; the correction c - c_i stays the same all round."""
        x, c_i = received["w"], memory["c_i"]
        c = received["c"]
        state = {"w": x, "anchor": x, "correction": c / self.share(probe.samples) - c_i, "c_i": c_i}
        if self.settings.mean_samples is not None:
            state["excess"] = state["correction"] - (c - c_i)
        if self.adds_up:
            state["gradients"] = torch.zeros_like(x)
        return {**state, **self.optimizer.init(x)}

    def loops(self) -> Sequence[Loop]:
        """The steps; before them under option I a pass over all samples."""
        steps = Loop(self.step, self.budget)
        if self.settings.option == "II":
            return (steps,)
        return Loop(self.gradient_at_x, replace(self.budget.of_epochs(1), last="keep")), steps

    def gradient_at_x(self, state: State, batch: Batch, grad: Gradient) -> State:
        """Add up the gradients at x of the samples, of which w has not moved yet."""
        w = state["w"]  # has as many dimensions as a mini-batch has up to that of its samples
        real = batch.y.shape[w.dim() - 1] if batch.mask is None else batch.mask.sum(-1, keepdim=True)
        state["gradients"].add_(grad(w, batch).mul_(real))
        return state

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        """y_i ← y_i - η_l (g_i(y_i) - c_i + c)."""
        o, correction = self.settings, state["correction"]
        g = grad(state["w"], batch)
        if o.option == "II" and "gradients" in state:
            state["gradients"].add_(g)
        moved = self.move(state, g.add_(correction) if o.corrects == "gradient" else g)
        if o.corrects == "step":
            moved["w"].sub_(self.optimizer.rate(moved) * correction)
        return moved

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        """Send y_i and the change of c_i; keep c_i⁺."""
        steps = count.of_loops[-1]
        if self.settings.option == "I":
            c_i = state["gradients"] / count.samples
        elif self.adds_up:
            c_i = state["gradients"] / steps
        else:
            c_i = (state["anchor"] - state["w"]).div_(steps * self.optimizer.rate(state)).sub_(state["correction"])
        if "excess" in state and self.settings.option == "II":
            c_i = c_i + state["excess"]
        if not self.adds_up:
            c_i = self.where_moving(state, c_i, state["c_i"])
        return {"w": state["w"], "dc": (c_i - state["c_i"]) * self.share(count.samples)}, {"c_i": c_i}
