"""Per-FedAvg: a global model that a step of a client's own makes a good one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from fedtl.clients.contract import ClientUpdate, Count, Gradient, Loop, Memory, Probe, State, Vectors, Weighting
from fedtl.clients.settings import Counted, Settings
from fedtl.losses.batch import Batch
from fedtl.optimizers.settings import OptimizerSettings


class PerFedAvgSettings(Settings, OptimizerSettings):
    """Options of Per-FedAvg, in the paper's symbols (arXiv 2002.07948).

    A meta-step takes two or three mini-batches, one after another, of the size and the number that ``batch_size``,
    ``local_steps`` and ``local_epochs`` say; those of a round that are too few for a meta-step are left out, but each
    client makes one at least. ``optimizer``, ``clip_norm``, ``schedule`` and ``lr_scale`` are those of the meta-step.

    Attributes:
        lr: β, the learning rate of the meta-step.
        alpha: α, the learning rate of the step that adapts a model to a client.
        hessian: how the meta-gradient's Hessian is treated: as a difference of gradients ("free", Per-FedAvg (HF)), or
            as if it were 0 ("none", Per-FedAvg (FO)).
        delta: δ of that difference.
        adapt_steps: mini-batches on which the global model is adapted to a client before it is scored.
        weighting: the paper takes the plain mean of the sampled clients ("uniform").
    """

    never_cut: ClassVar[tuple[str, ...]] = ("adapt_steps",)

    alpha: float = Field(0.01, ge=0)
    hessian: Literal["free", "none"] = "free"
    delta: float = Field(0.01, gt=0)
    adapt_steps: PositiveInt = 1
    weighting: Counted = "uniform"

    @property
    def batches_of_a_step(self) -> int:
        """How many mini-batches a meta-step takes."""
        return 2 if self.hessian == "none" else 3


class PerFedAvg(ClientUpdate[PerFedAvgSettings]):
    """Per-FedAvg: min (1/n) Σ_i f_i(w - α ∇f_i(w)) (Fallah, Mokhtari, Ozdaglar 2020, arXiv 2002.07948, Algorithm 1).

    With mini-batches D, D', D'', each the next one of the client's:

    - u = w - α ∇f_i(w; D), and g = ∇f_i(u; D');
    - first order: w ← w - β g;
    - Hessian-free: w ← w - β (g - α d), d = [∇f_i(w + δg; D'') - ∇f_i(w - δg; D'')] / 2δ, which is ∇²f_i(w; D'') g.

    The paper's τ meta-steps of a round are ``local_steps`` = 3τ mini-batches, or 2τ of first order. A client is scored
    with the global model after ``adapt_steps`` steps of its own at the rate α; the paper takes one.

    Differs from the paper: the exact Hessian of its Algorithm 1 is not offered, only its two approximations; and the
    mini-batches are those of a pass over the samples, not drawn independently. With batch-norm the running statistics
    follow the passes at u and w ± δg as well as those at w. Its authors published no code; PFLlib's has β = α, trains
    twice in a round and takes the mean by samples: ``hessian = "none"``, ``alpha`` as ``lr``, ``local_epochs = 2``,
    ``weighting = "samples"``.
    """

    settings_type: ClassVar[type[Settings]] = PerFedAvgSettings
    personalises: ClassVar[bool] = True

    @classmethod
    def unused(cls, settings: Settings) -> dict[str, str]:
        """δ where no difference is taken or α = 0 multiplies it, how many steps at the rate 0 there are, stragglers.

        Nobody can stop early in a round of one meta-step.
        """
        assert isinstance(settings, PerFedAvgSettings)
        still = {} if settings.alpha else dict.fromkeys(("delta", "adapt_steps"), "no step adapts a model: alpha = 0")
        first = {"delta": "no difference of gradients is taken: hessian = 'none'"}
        short = settings.local_steps is not None and settings.local_steps < 2 * settings.batches_of_a_step
        one = {
            "stragglers": f"a client takes one meta-step at least, and local_steps = {settings.local_steps} is just one"
        }
        return still | (first if settings.hessian == "none" else {}) | (one if short else {})

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        """Begin at the global model."""
        w = received["w"]
        g = {} if self.settings.hessian == "none" else {"g": torch.zeros_like(w)}
        return {"w": w, "u": w, **g, **self.optimizer.init(w)}

    def loops(self) -> Sequence[Loop]:
        """One, of the steps on D, D' and D'' in turn."""
        after = (self.first_order,) if self.settings.hessian == "none" else (self.look, self.hessian_free)
        return (Loop(self.adapt, replace(self.budget, multiple=self.settings.batches_of_a_step), after),)

    def adapt(self, state: State, batch: Batch, grad: Gradient) -> State:
        """On D: u = w - α ∇f_i(w)."""
        return {**state, "u": state["w"] - self.settings.alpha * grad(state["w"], batch)}

    def first_order(self, state: State, batch: Batch, grad: Gradient) -> State:
        """On D': w ← w - β ∇f_i(u)."""
        return self.optimizer.step(state, grad(state["u"], batch))

    def look(self, state: State, batch: Batch, grad: Gradient) -> State:
        """On D': g = ∇f_i(u)."""
        return {**state, "g": grad(state["u"], batch)}

    def hessian_free(self, state: State, batch: Batch, grad: Gradient) -> State:
        """On D'': w ← w - β (g - α d)."""
        w, g, o = state["w"], state["g"], self.settings
        d = (grad(w + o.delta * g, batch) - grad(w - o.delta * g, batch)) / (2 * o.delta)
        return self.optimizer.step(state, g - o.alpha * d)

    def for_scoring(self) -> ClientUpdate[Any]:
        """The steps that adapt the global model."""
        return Adapted(self.settings, self.layout)


class Adapted(PerFedAvg):
    """Those steps."""

    sums: ClassVar[Mapping[str, Weighting]] = {}

    def first_memory(self, received: Vectors) -> Memory:
        """The global model."""
        return {"u": received["w"].clone()}

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        """Begin at the global model."""
        return {"w": received["w"], **self.optimizer.init(received["w"])}

    def loops(self) -> Sequence[Loop]:
        """One, of plain steps at the rate α."""
        return (Loop(self.step, self.budget.of_steps(self.settings.adapt_steps)),)

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        """A step: w ← w - α ∇f_i(w)."""
        state["w"].sub_(grad(state["w"], batch), alpha=self.settings.alpha)
        return state

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        """Keep the adapted model."""
        return {}, {"u": state["w"]}

    def personal(self, received: Vectors, memory: Memory) -> Tensor:
        """The adapted model."""
        return memory["u"]
