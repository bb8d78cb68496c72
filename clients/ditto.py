"""Ditto: a personal model beside the global one, held near it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from fedtl.clients.contract import ClientUpdate, Count, Gradient, Loop, Memory, Probe, State, Vectors, Weighting
from fedtl.clients.settings import Counted, Settings, one_length
from fedtl.losses.batch import Batch
from fedtl.models.vector import Layout
from fedtl.optimizers.settings import OptimizerSettings
from fedtl.optimizers.stepper import stepper_of


class DittoSettings(Settings, OptimizerSettings):
    """Options of Ditto, in the paper's symbols (arXiv 2012.04221).

    ``optimizer``, ``clip_norm``, ``schedule`` and ``lr_scale`` are those of both models' steps, each model with an
    optimiser of its own.

    Attributes:
        lam: λ, how strongly the personal model v_k is held to the global one.
        personal_lr: the learning rate of v_k; ``lr`` if not given.
        personal_steps: s, mini-batches of v_k's own, after those of w_k. If neither this nor ``personal_epochs`` is
            given, each mini-batch moves both models, as in the authors' code.
        personal_epochs: the same in passes over the client's samples.
        personal_start: v_k of a client that trains for the first time: the run's initial model (the paper), or the
            global model that it "received", as in the code of FedRep's authors.
        weighting: the paper takes the plain mean of the sampled clients ("uniform").
    """

    one_of: ClassVar[tuple[tuple[str, str], ...]] = (*Settings.one_of, ("personal_steps", "personal_epochs"))

    lam: float = Field(1.0, ge=0)
    personal_lr: float | None = Field(None, gt=0)
    personal_steps: PositiveInt | None = None
    personal_epochs: PositiveInt | None = None
    personal_start: Literal["initial", "received"] = "initial"
    weighting: Counted = "uniform"

    @model_validator(mode="before")
    @classmethod
    def _one_personal_budget(cls, table: Any) -> Any:
        return one_length(table, "personal_steps", "personal_epochs", {})


class Ditto(ClientUpdate[DittoSettings]):
    """Ditto: min h_k(v_k; w*) = F_k(v_k) + λ/2 ‖v_k - w*‖², with w* from FedAvg (Li et al. 2021, arXiv 2012.04221).

    Algorithm 1: from the received w^t, w_k ← w_k - η ∇F_k(w_k), which the server averages; and s times
    v_k ← v_k - η (∇F_k(v_k) + λ (v_k - w^t)), which stays. A client that is not sampled keeps its v_k, and one that has
    never been sampled the v_k^0 that all begin with.

    Differs from the paper: not in training. The paper ends with the v_k that clients keep, which its authors' code
    scores: ``evaluate.personal = "stored"``; by default s steps towards the present w^t come first, as in a round. Its
    authors' code trains likewise, draws the clients of a round in proportion to their samples (which is ``sampling =
    "samples"``), and may choose each client's λ among 0.1, 1 and 2 by validation, which is not offered here. The
    sample-weighted mean of other libraries is ``weighting = "samples"``. With batch-norm each model has running
    statistics of its own: those of w_k are averaged, and those of v_k stay.
    """

    settings_type: ClassVar[type[Settings]] = DittoSettings
    personalises: ClassVar[bool] = True

    def __init__(self, settings: DittoSettings, layout: Layout) -> None:
        super().__init__(settings, layout)
        self.personal_optimizer = stepper_of(settings, settings.personal_lr, settings.lr, layout)
        self.serves_untrained = settings.personal_start == "initial"  # else there is no v_k before the first round
        self.own_statistics = settings.personal_start

    def first_memory(self, received: Vectors) -> Memory:
        """v_k^0."""
        return {"v": received["w" if self.settings.personal_start == "received" else "initial"].clone()}

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        """w_k begins at w^t, to which v_k is held."""
        w, v = received["w"], memory["v"]
        moments = {**self.optimizer.init(w), **self.personal_optimizer.init(v, "v")}
        return {"w": w, "anchor": w, "v": v, **moments}

    def loops(self) -> Sequence[Loop]:
        """One that moves both models, or w_k's and then v_k's."""
        o = self.settings
        if o.personal_steps is None and o.personal_epochs is None:
            return (Loop(self.step, self.budget),)
        budget = replace(self.budget, steps=o.personal_steps, epochs=o.personal_epochs)
        return Loop(self.global_step, self.budget), Loop(self.personal_step, budget)

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        """A step of each model on the same mini-batch."""
        return self.personal_step(self.global_step(state, batch, grad), batch, grad)

    def global_step(self, state: State, batch: Batch, grad: Gradient) -> State:
        """A step on F_k."""
        return self.optimizer.step(state, grad(state["w"], batch))

    def personal_step(self, state: State, batch: Batch, grad: Gradient) -> State:
        """A step on h_k."""
        v = state["v"]
        h = grad.own(v, batch).add_(v - state["anchor"], alpha=self.settings.lam)  # ∇h_k(v) = ∇F_k(v) + λ(v - w^t)
        return self.personal_optimizer.step(state, h, "v")

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        """Upload w_k, keep v_k."""
        return {"w": state["w"]}, {"v": state["v"]}

    def for_unseen(self) -> ClientUpdate[Any]:
        """Steps on h_k alone, from the global model w*."""
        return _Joining(self.settings, self.layout)

    def personal(self, received: Vectors, memory: Memory) -> Tensor:
        """v_k."""
        return memory["v"]


class _Joining(Ditto):
    """v_k of a client that joins after training: it sends nothing."""

    sums: ClassVar[Mapping[str, Weighting]] = {}

    def __init__(self, settings: DittoSettings, layout: Layout) -> None:
        super().__init__(settings, layout)
        self.own_statistics = "received"

    def first_memory(self, received: Vectors) -> Memory:
        return {"v": received["w"].clone()}

    def loops(self) -> Sequence[Loop]:
        loops = super().loops()
        return (Loop(self.personal_step, loops[-1].budget),)

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        return {}, {"v": state["v"]}
