"""Clients' optimisers, with the options and defaults of ``torch.optim``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator
from torch import Tensor

from fedtl.choice import Choice
from fedtl.optimizers.chain import Chain, Transform
from fedtl.optimizers.transforms import (
    Adaptive,
    DecoupledDecay,
    Momentum,
    Rate,
    WeightDecay,
    accumulated,
    additive,
    averaged,
)

Beta = Annotated[float, Field(ge=0, lt=1)]
"""How much of a moving average stays in each step."""


class Optimizer(Choice):
    """How a client moves along its gradients, as ``strategy.optimizer`` names it; subclasses add options.

    Attributes:
        lr: the learning rate; the method's own ``lr`` if not given.
        weight_decay: λ, adds ``weight_decay * w`` to the gradient.
        decayed: of which parameters: of "all", of all but biases ("weights"), or of all but vectors, as biases and the
            scales of norm layers are ("matrices").
        keep: whether a client keeps the optimiser's state between rounds; it starts anew each round if not.
    """

    lr: float | None = Field(None, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    decayed: Literal["all", "weights", "matrices"] = "all"
    keep: bool = False

    def without_use(self) -> Mapping[str, str]:
        """Options that do nothing beside the others."""
        return {} if self.weight_decay else {"decayed": "there is no weight decay"}

    def rate(self, lr: float) -> float:
        """η before any schedule, where the method's own is ``lr``."""
        return lr if self.lr is None else self.lr

    def without_rate(self) -> Optimizer:
        """The same at the method's own learning rate."""
        return self.model_copy(update={"lr": None})

    def chain(self, lr: float, decayed: Tensor | None = None) -> Chain:
        """The optimiser itself.

        Args:
            lr: the method's own learning rate.
            decayed: 1 for each parameter that weight decay pulls, else 0, ``[P]``; all if None.
        """
        return Chain(self.links(Rate(self.rate(lr)), decayed))

    def links(self, rate: Rate, decayed: Tensor | None) -> tuple[Transform, ...]:
        """From the gradient to the step u of w ← w - u."""
        decay = (WeightDecay(self.weight_decay, decayed),) if self.weight_decay else ()
        return (*decay, *self.moments(rate))

    def moments(self, rate: Rate) -> tuple[Transform, ...]:
        """From the gradient of the objective, penalty included, to the step."""
        raise NotImplementedError


class SGD(Optimizer):
    """Stochastic gradient descent, as ``torch.optim.SGD``: w ← w - η m.

    Attributes:
        momentum: β; without it m is the gradient.
        dampening: m ← β m + (1 - dampening) g, but for the first step.
        nesterov: g + β m in m's place.
    """

    momentum: float = Field(0.0, ge=0, lt=1)
    dampening: float = Field(0.0, ge=0, lt=1)
    nesterov: bool = False

    @model_validator(mode="after")
    def _has_effect(self) -> SGD:
        if self.dampening and not self.momentum:
            raise ValueError(f"dampening = {self.dampening:g} damps momentum: give momentum, as 0.9, or leave it out")
        if self.nesterov and (self.dampening or not self.momentum):
            raise ValueError("nesterov = true needs momentum, as 0.9, and no dampening")
        return self

    def without_use(self) -> Mapping[str, str]:
        """Without momentum there is nothing to keep."""
        idle = {} if self.momentum else {"keep": "sgd without momentum has no state"}
        return {**super().without_use(), **idle}

    def moments(self, rate: Rate) -> tuple[Transform, ...]:
        """Momentum, and the rate."""
        return (Momentum(self.momentum, self.dampening, self.nesterov), rate) if self.momentum else (rate,)


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, arXiv 1412.6980), as ``torch.optim.Adam``.

    Attributes:
        betas: β1 and β2.
        eps: ε.
        amsgrad: divide by the greatest v so far.
    """

    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    amsgrad: bool = False

    def moments(self, rate: Rate) -> tuple[Transform, ...]:
        """Adam's step."""
        beta1, beta2 = self.betas
        step = Adaptive(rate, averaged, self.eps, beta1, beta2, bias_correction=True, amsgrad=self.amsgrad)
        return (step,)


class AdamW(Adam):
    """Adam whose weight decay leaves the moments alone (Loshchilov and Hutter 2019), as ``torch.optim.AdamW``."""

    weight_decay: float = Field(0.01, ge=0)

    def links(self, rate: Rate, decayed: Tensor | None) -> tuple[Transform, ...]:
        """Adam's step, then the decay's."""
        decay = (DecoupledDecay(rate, self.weight_decay, decayed),) if self.weight_decay else ()
        return (*self.moments(rate), *decay)


class Adagrad(Optimizer):
    """Adagrad (Duchi et al. 2011), as ``torch.optim.Adagrad``: v ← v + g²; w ← w - η g / (√v + ε).

    Attributes:
        eps: ε.
        initial_accumulator: v before the first step.
    """

    eps: float = Field(1e-10, gt=0)
    initial_accumulator: float = Field(0.0, ge=0)

    def moments(self, rate: Rate) -> tuple[Transform, ...]:
        """Adagrad's step."""
        return (Adaptive(rate, accumulated, self.eps, initial=self.initial_accumulator),)


class Yogi(Optimizer):
    """Yogi (Zaheer et al. 2018): Adam with v ← v - (1 - β2) g² sign(v - g²).

    The moments are corrected for bias as Adam's are. The defaults are those of TensorFlow Federated's ``build_yogi``,
    which corrects the step as a whole, so that its ε counts for more in the first steps.

    Attributes:
        betas: β1 and β2.
        eps: ε.
        initial_accumulator: v before the first step.
    """

    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: float = Field(1e-3, gt=0)
    initial_accumulator: float = Field(1e-6, ge=0)

    def moments(self, rate: Rate) -> tuple[Transform, ...]:
        """Yogi's step."""
        beta1, beta2 = self.betas
        return (Adaptive(rate, additive, self.eps, beta1, beta2, self.initial_accumulator, bias_correction=True),)
