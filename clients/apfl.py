"""APFL: a personal model that is a mixture of a local and the global one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedtl.clients.contract import ClientUpdate, Count, Ensemble, Gradient, Loop, Memory, Probe, State, Vectors
from fedtl.clients.settings import Counted, Settings
from fedtl.losses.batch import Batch
from fedtl.models.vector import Layout, inner
from fedtl.optimizers.settings import OptimizerSettings
from fedtl.optimizers.stepper import Stepper

PULL = 0.02
"""Of α_i towards 0, in the authors' code."""


class APFLSettings(Settings, OptimizerSettings):
    """Options of APFL, in the paper's symbols (arXiv 2003.13461).

    ``optimizer``, ``clip_norm``, ``schedule`` and ``lr_scale`` are those of the steps of w_i and v_i, each with an
    optimiser of its own; α_i takes plain steps, and follows the schedule.

    Attributes:
        alpha: α_i, the local model's share in the mixture: of all clients, or with ``adaptive`` where each begins.
        adaptive: whether each client learns its α_i.
        alpha_lr: the learning rate of α_i; ``lr`` if not given.
        alpha_steps: in which of a round's steps α_i moves: in "all", or in the "first" alone. If not given, in all
            where parameters are mixed, and in the first where outputs are, as in the authors' code.
        mixing: what is mixed: the models' "parameters" (the paper), or their "outputs", as in the authors' code.
        weighting: the paper takes the plain mean of the sampled clients ("uniform").
    """

    same_in_phases: ClassVar[tuple[str, ...]] = (*Settings.same_in_phases, "alpha")

    alpha: float = Field(0.5, ge=0, le=1)
    adaptive: bool = False
    alpha_lr: float | None = Field(None, gt=0)
    alpha_steps: Literal["all", "first"] | None = None
    mixing: Literal["parameters", "outputs"] = "parameters"
    weighting: Counted = "uniform"

    @property
    def alpha_moves_once(self) -> bool:
        """Whether it is in the first step alone."""
        return (self.alpha_steps or ("all" if self.mixing == "parameters" else "first")) == "first"


class APFL(ClientUpdate[APFLSettings]):
    """Adaptive personalised federated learning (Deng, Kamani, Mahdavi 2020, arXiv 2003.13461, Algorithm 1).

    The personalised model is the mixture v̄_i = α_i v_i + (1 - α_i) w of parameters. On each mini-batch

    - w_i ← w_i - η ∇f_i(w_i), which alone travels, and is averaged;
    - v_i ← v_i - η ∇_v f_i(v̄_i) = v_i - η α_i ∇f_i(v̄_i), with v̄_i as it was before both steps;
    - with ``adaptive``, α_i ← α_i - η ⟨v_i - w_i, ∇f_i(v̄_i)⟩, kept between 0 and 1; with ``alpha_steps = "first"`` on
      the first mini-batch of a round alone.

    v_i begins at the run's initial model. With ``evaluate.personal = "stored"`` a client is scored with the mixture of
    the v_i that it keeps and the present global w, one that has never been sampled with that of its first v_i and α_i;
    by default v_i, and α_i where it learns, first go on for a round that begins at the present w. Of w's private parts,
    where there are any, a client's own are in the mixture.

    Differs from the paper: not in training, but perhaps in how often α_i moves: by default on each mini-batch, in its
    authors' code once a round (``alpha_steps``). That code (FedTorch) is ``mixing = "outputs"``: v_i descends along the
    loss L of the logits α_i f(v_i) + (1 - α_i) f(w_i), w_i as it is after its step, and those logits are scored; α_i
    moves once w_i and v_i have, along ⟨v_i - w_i, α_i ∂L/∂v_i + (1 - α_i) ∂L/∂w_i⟩ + 0.02 α_i. All terms of the
    objective then read the mixed logits, of a target, of views and of public samples, too. With batch-norm the mixture
    has running statistics of its own, which stay; where outputs are mixed, v_i has, and those of w_i follow the passes
    for α_i, too.
    """

    settings_type: ClassVar[type[Settings]] = APFLSettings
    personalises: ClassVar[bool] = True
    serves_untrained = True
    own_statistics: Literal["initial", "received"] | None = "initial"

    def __init__(self, settings: APFLSettings, layout: Layout) -> None:
        super().__init__(settings, layout)
        plain = OptimizerSettings(schedule=settings.schedule)
        self.alpha_stepper = Stepper(plain, settings.alpha_lr or settings.lr, layout)

    @classmethod
    def unused(cls, settings: Settings) -> dict[str, str]:
        """How α_i moves, where it stays."""
        assert isinstance(settings, APFLSettings)
        return {} if settings.adaptive else dict.fromkeys(("alpha_lr", "alpha_steps"), "α stays: adaptive = false")

    def first_memory(self, received: Vectors) -> Memory:
        """v_i and α_i before the first round."""
        v = received["initial"]
        return {"v": v.clone(), "alpha": torch.full_like(v[..., :1], self.settings.alpha)}

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        """w_i begins at the global model, v_i and α_i where they were."""
        w, v, alpha = received["w"], memory["v"], memory["alpha"]
        rates = self.alpha_stepper.init(alpha, "alpha") if self.settings.adaptive else {}
        if self.settings.adaptive and self.settings.alpha_moves_once:
            rates["first"] = torch.ones_like(alpha)
        return {"w": w, "v": v, "alpha": alpha, **self.optimizer.init(w), **self.optimizer.init(v, "v"), **rates}

    def loops(self) -> Sequence[Loop]:
        """One, of the paper's steps or the authors'."""
        return (Loop(self.step if self.settings.mixing == "parameters" else self.authors_step, self.budget),)

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        """A step of w_i, v_i and α_i on one mini-batch."""
        w, v, alpha = state["w"], state["v"], state["alpha"]
        at_w, at_mixture = grad(w, batch), grad.own(mixture(alpha, v, w), batch)
        of_v = alpha * at_mixture
        if self.settings.adaptive:
            state = self.move_alpha(state, inner(v - w, at_mixture))
        return self.optimizer.step(self.optimizer.step(state, at_w), of_v, "v")

    def authors_step(self, state: State, batch: Batch, grad: Gradient) -> State:
        """A step of the authors' code: w_i, then v_i, and then α_i."""
        state, adaptive = self.optimizer.step(state, grad(state["w"], batch)), self.settings.adaptive
        w, v, alpha = state["w"], state["v"], state["alpha"]
        of_v = grad.own(v, mixed(batch, alpha, 1 - alpha, w, grad))
        of_w = grad(w, mixed(batch, 1 - alpha, alpha, v, grad)) if adaptive else of_v
        along = alpha * of_v + (1 - alpha) * of_w
        state = self.optimizer.step(state, of_v, "v")
        return self.move_alpha(state, inner(state["v"] - w, along) + PULL * alpha) if adaptive else state

    def move_alpha(self, state: State, along: Tensor) -> State:
        """A step of α_i, if it moves in this one."""
        once = "first" in state
        state = self.alpha_stepper.step(state, state["first"] * along if once else along, "alpha")
        spent = {"first": torch.zeros_like(state["alpha"])} if once else {}
        return {**state, "alpha": state["alpha"].clamp(0, 1), **spent}

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        """Upload w_i; keep v_i and α_i."""
        return {"w": state["w"]}, {"v": state["v"], "alpha": state["alpha"]}

    def for_unseen(self) -> ClientUpdate[Any]:
        """The same steps, with a v_i that begins at the global model."""
        return _Joining(self.settings, self.layout)

    def personal(self, received: Vectors, memory: Memory) -> Tensor:
        """The mixture of v_i and the global model."""
        return mixture(memory["alpha"], memory["v"], received["w"])

    def ensemble(self, received: Vectors, memory: Memory) -> Ensemble | None:
        """v_i and the global model, where it is their outputs that are mixed."""
        if self.settings.mixing == "parameters":
            return None
        alpha = memory["alpha"]
        return Ensemble(torch.stack([memory["v"], received["w"]]), torch.cat([alpha, 1 - alpha]))


class _Joining(APFL):
    """Of a client that joins after training."""

    own_statistics = "received"

    def first_memory(self, received: Vectors) -> Memory:
        return {**super().first_memory(received), "v": received["w"].clone()}


def mixed(batch: Batch, share: Tensor, rest: Tensor, other: Tensor, grad: Gradient) -> Batch:
    """A mini-batch of which the objective sees ``share`` times the logits and ``rest`` times those of another model.

    Args:
        batch: the mini-batch.
        share: ``[..., 1]``.
        rest: ``[..., 1]``.
        other: that model ``[..., P]``.
        grad: what runs it.
    """

    def of_other(x: Tensor) -> Tensor:
        return rest.unsqueeze(-1) * grad.logits(other, batch._replace(x=x))

    return batch.with_logits(share, of_other(batch.x), {name: of_other(x) for name, x in batch.streams().items()})


def mixture(alpha: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """α v + (1 - α) w, for α ``[..., 1]``."""
    return alpha * v + (1 - alpha) * w
