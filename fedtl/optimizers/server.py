"""Server optimisers: the mean of the uploads as a pseudo-gradient step (Reddi et al. 2021, arXiv 2003.00295).

What the chain is given in a gradient's place is Δ = mean - w, and the server moves along it.

Differs from its authors' code (google-research/federated) by default: there v begins with 0, where the paper has
v ≥ τ², and Keras's Adam and Yogi correct for bias, which Algorithm 2 does not: ``initial_v = 0`` and
``bias_correction = "keras"``. Flower's FedAdam, FedYogi and FedAdagrad begin with v = 0, too, and its FedAdam alone
corrects for bias, with exponents that are one round ahead: ``initial_v = 0`` and ``bias_correction = "flower"``.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from fedtl.choice import Choice
from fedtl.optimizers.chain import Chain, State
from fedtl.optimizers.local import Beta
from fedtl.optimizers.transforms import (
    RATE,
    Adaptive,
    Momentum,
    Rate,
    SecondMoment,
    accumulated,
    additive,
    averaged,
    rate_tensor,
)

STEPS = "steps"
"""In the server's state: how many steps the optimiser's moments are of."""


class ServerOptimizer(Choice):
    """How the server moves along Δ = mean - w.

    Attributes:
        lr: η.
    """

    lr: float = Field(1.0, gt=0)

    def rate(self, round: int) -> float:
        """η of a round; the server's state has it as a tensor."""
        return self.lr

    def chain(self) -> Chain:
        """The optimiser itself; its state survives between rounds."""
        raise NotImplementedError

    def step(self, state: State, mean: Tensor, round: int) -> State:
        """The server's state after a step towards the mean of the uploads ``[P]``; ``state`` has ``"w"`` ``[P]``."""
        w, chain = state["w"], self.chain()
        rate = {RATE: rate_tensor(w, self.rate(round))}
        u, moved = chain.update(mean - w, {**chain.init(w), **state, **rate}, w)
        return {name: tensor for name, tensor in moved.items() if name != RATE} | {"w": w + u}


def without_moments(state: State, optimizer: ServerOptimizer) -> State:
    """A server's state without what an optimiser remembers."""
    gone = {*optimizer.chain().init(state["w"]), STEPS}
    return {name: tensor for name, tensor in state.items() if name not in gone}


class FedAvgM(ServerOptimizer):
    """FedAvgM (Hsu et al. 2019, arXiv 1909.06335): v ← β v + Δ; w ← w + η v.

    Attributes:
        momentum: β.
        nesterov: whether the step is η (Δ + β v), Nesterov's, as in Flower's reproduction of the paper.
    """

    momentum: Beta = 0.9
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> FedAvgM:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov = true needs momentum, as 0.9: without it the step is the same")
        return self

    def chain(self) -> Chain:
        """Momentum, and the rate."""
        return Chain((Momentum(self.momentum, nesterov=self.nesterov), Rate(self.lr)))


class FedAdaptive(ServerOptimizer):
    """m ← β1 m + (1 - β1) Δ; v by the kind; w ← w + η m / (√v + τ) (Algorithm 2 of Reddi et al.).

    It counts its own steps t, as what the moments lack depends on them: where it begins in a later phase, or anew with
    the model, they are fewer than the run's rounds.

    Attributes:
        beta1: β1.
        tau: τ, the degree of adaptivity.
        initial_v: v before the first round; τ² if not given.
    """

    lr: float = Field(0.1, gt=0)
    beta1: Beta = 0.0
    tau: float = Field(1e-3, gt=0)
    initial_v: float | None = Field(None, ge=0)

    def step(self, state: State, mean: Tensor, round: int) -> State:
        """As of any optimiser, in step t, which is remembered with the moments."""
        t = self._step_number(state, round)
        return super().step(state, mean, t) | {STEPS: torch.full((1,), float(t))}

    def _step_number(self, state: State, round: int) -> int:
        """The number t of the step that a round takes, from 1."""
        if self.chain().init(state["w"]).keys() - state.keys():  # the moments begin with this step
            return 1
        # A checkpoint of an earlier version has moments without their number: it took the round's.
        return int(state[STEPS]) + 1 if STEPS in state else round

    def _chain(self, second_moment: SecondMoment, beta2: float = 0.0) -> Chain:
        first_v = self.tau**2 if self.initial_v is None else self.initial_v
        # Once a round exact roots cost nothing, and a run gives the same bits on every processor's library of roots.
        step = Adaptive(Rate(self.lr), second_moment, self.tau, self.beta1, beta2, first_v, exact_root=True)
        return Chain((step,))


class FedAdagrad(FedAdaptive):
    """FedAdagrad (Reddi et al. 2021, arXiv 2003.00295): v ← v + Δ²."""

    def chain(self) -> Chain:
        """The adaptive step with the sum of squares."""
        return self._chain(accumulated)


def _named(value: Any) -> Any:
    """The name of what older configs and records have as true or false."""
    return {True: "flower", False: "none"}[value] if isinstance(value, bool) else value


class FedYogi(FedAdaptive):
    """FedYogi (Reddi et al. 2021, arXiv 2003.00295): v ← v - (1 - β2) Δ² sign(v - Δ²).

    Attributes:
        beta2: β2.
        bias_correction: "none", as in the paper, or that of its authors' code: "keras" takes η √(1 - β2^t) / (1 - β1^t)
            in its step t.
    """

    beta1: Beta = 0.9
    beta2: Beta = 0.99
    bias_correction: Annotated[Literal["none", "keras"], BeforeValidator(_named)] = "none"

    def rate(self, round: int) -> float:
        """η, or with bias correction that of the optimiser's own step so numbered."""
        return self.lr if self.bias_correction == "none" else _corrected(self.lr, self.beta1, self.beta2, round)

    def chain(self) -> Chain:
        """The adaptive step with a mean of squares that forgets additively."""
        return self._chain(additive, self.beta2)


class FedAdam(FedAdaptive):
    """FedAdam (Reddi et al. 2021, arXiv 2003.00295): v ← β2 v + (1 - β2) Δ².

    Attributes:
        beta2: β2.
        bias_correction: "none", as in the paper, or that of its authors' code: "keras" takes η √(1 - β2^t) / (1 - β1^t)
            in its step t; or "flower", which has t + 1 in the place of t.
    """

    beta1: Beta = 0.9
    beta2: Beta = 0.99
    bias_correction: Annotated[Literal["none", "keras", "flower"], BeforeValidator(_named)] = "none"

    def rate(self, round: int) -> float:
        """η, or with bias correction that of the optimiser's own step so numbered, where Flower counts one more."""
        if self.bias_correction == "none":
            return self.lr
        return _corrected(self.lr, self.beta1, self.beta2, round + (self.bias_correction == "flower"))

    def chain(self) -> Chain:
        """The adaptive step with a mean of squares that forgets exponentially."""
        return self._chain(averaged, self.beta2)


def _corrected(rate: float, beta1: float, beta2: float, t: int) -> float:
    """η √(1 - β2^t) / (1 - β1^t): for what the means of t numbers and of t squares lack."""
    return rate * math.sqrt(1 - beta2**t) / (1 - beta1**t)
