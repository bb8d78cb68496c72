"""The links that optimisers are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fedtl.optimizers.chain import State, Transform

RATE = "rate"
"""In a state: the learning rate, where it is a tensor."""

SecondMoment = Callable[[Tensor, Tensor, float], Tensor]
"""The next v from the present one, g² and β2."""


def rate_tensor(w: Tensor, rate: float, scale: Tensor | None = None) -> Tensor:
    """A learning rate to put into a state as :data:`RATE`.

    Args:
        w: the model ``[..., P]``.
        rate: η of the round.
        scale: a factor for each number of the model ``[P]``; none if None.

    Returns:
        ``[..., 1]``, or ``[..., P]`` with a scale.
    """
    # Through float64: a number beyond float32 is infinite there, and an error here.
    tensor = torch.full((*w.shape[:-1], 1), rate, dtype=torch.float64, device=w.device).to(w.dtype)
    return tensor if scale is None else tensor * scale


def exact_sqrt(v: Tensor) -> Tensor:
    """√v of float32 numbers, correctly rounded, as NumPy's is.

    On a CPU torch leaves float32 roots to a library that gives another last bit for one number in six; a float64 root
    always rounds to the right float32. Two conversions make a client's step of Adam on a small model up to half as long
    again.
    """
    return v.double().sqrt().to(v.dtype) if v.is_cpu else v.sqrt()


@dataclass(frozen=True)
class Rate(Transform):
    """g ← η g.

    A state with the name :data:`RATE` decides η; a traced step then serves every rate. In a state without it η is
    ``lr``, and a traced step has it as a constant, which is faster.
    """

    lr: float

    def of(self, state: State) -> Tensor | float:
        """η: ``[..., 1]``, ``[..., P]`` or a number."""
        return state.get(RATE, self.lr)

    def update(self, g: Tensor, state: State, w: Tensor) -> tuple[Tensor, State]:
        """η g."""
        return self.of(state) * g, state


@dataclass(frozen=True)
class ClipNorm(Transform):
    """g ← g min(1, max_norm / (‖g‖ + 1e-6)), over each client's whole vector, as torch's ``clip_grad_norm_``."""

    max_norm: float

    def update(self, g: Tensor, state: State, w: Tensor) -> tuple[Tensor, State]:
        """The clipped ``g``."""
        # On a CPU a sum's bits depend on how many rows there are; those of a float32 row's norm do not.
        norm = torch.linalg.vector_norm(g, dim=-1, keepdim=True)
        return (self.max_norm / (norm + 1e-6)).clamp(max=1.0) * g, state


@dataclass(frozen=True)
class WeightDecay(Transform):
    """g ← g + λ w: the gradient of λ/2 ‖w‖², before the optimiser.

    Attributes:
        decay: λ.
        decayed: 1 for each number that it is of, else 0, ``[P]``; all if None.
    """

    decay: float
    decayed: Tensor | None = None

    def update(self, g: Tensor, state: State, w: Tensor) -> tuple[Tensor, State]:
        """The gradient of the objective with the penalty."""
        return g + self.decay * _masked(w, self.decayed), state


@dataclass(frozen=True)
class DecoupledDecay(Transform):
    """u ← u + η λ w, after the optimiser (Loshchilov and Hutter 2019, arXiv 1711.05101); see :class:`WeightDecay`."""

    rate: Rate
    decay: float
    decayed: Tensor | None = None

    def update(self, g: Tensor, state: State, w: Tensor) -> tuple[Tensor, State]:
        """The step with the decay's."""
        return g + self.rate.of(state) * (self.decay * _masked(w, self.decayed)), state


def _masked(w: Tensor, mask: Tensor | None) -> Tensor:
    """``w`` ``[..., P]`` times ``mask`` ``[P]`` of 0 and 1; as it is if None."""
    return w if mask is None else mask.to(w) * w


@dataclass(frozen=True)
class Momentum(Transform):
    """m ← β m + (1 - dampening) g, undamped in the first step as in ``torch.optim.SGD``; gives m.

    With ``nesterov`` it gives g + β m.
    """

    momentum: float
    dampening: float = 0.0
    nesterov: bool = False

    def init(self, w: Tensor) -> State:
        """The sum m = 0; with dampening the next gradient's weight too, which is 1 once."""
        state = {"m": torch.zeros_like(w)}
        return state | {"m_gain": torch.ones_like(w[..., :1])} if self.dampening else state

    def update(self, g: Tensor, state: State, w: Tensor) -> tuple[Tensor, State]:
        """The accumulated gradient."""
        m = self.momentum * state["m"] + (state["m_gain"] * g if self.dampening else g)
        state = {**state, "m": m}
        if self.dampening:
            state["m_gain"] = torch.full_like(state["m_gain"], 1 - self.dampening)
        return g + self.momentum * m if self.nesterov else m, state


def accumulated(v: Tensor, square: Tensor, beta2: float) -> Tensor:
    """The sum v + g²; there is no β2."""
    return v + square


def averaged(v: Tensor, square: Tensor, beta2: float) -> Tensor:
    """The mean β2 v + (1 - β2) g²."""
    return beta2 * v + (1 - beta2) * square


def additive(v: Tensor, square: Tensor, beta2: float) -> Tensor:
    """The mean v - (1 - β2) g² sign(v - g²)."""
    return v - (1 - beta2) * square * torch.sign(v - square)


@dataclass(frozen=True)
class Adaptive(Transform):
    """m ← β1 m + (1 - β1) g; v by ``second_moment``; gives the step η m / (√v + ε).

    The product comes before the quotient, as in Algorithm 2 of Reddi et al. 2021.

    Attributes:
        rate: η.
        second_moment: how v follows g².
        beta1, beta2: β1 and β2; without β1 there is no m.
        eps: ε.
        initial: v before the first step.
        bias_correction: divide m by 1 - β1^t and v by 1 - β2^t in step t (Kingma and Ba 2015, Algorithm 1).
        amsgrad: the greatest v so far in v's place (Reddi et al. 2018, arXiv 1904.09237).
        exact_root: correctly rounded roots, at the price that :func:`exact_sqrt` names.
    """

    rate: Rate
    second_moment: SecondMoment
    eps: float
    beta1: float = 0.0
    beta2: float = 0.0
    initial: float = 0.0
    bias_correction: bool = False
    amsgrad: bool = False
    exact_root: bool = False

    def init(self, w: Tensor) -> State:
        """The moments, and of each the weight that it has gathered."""
        state = {"v": torch.full_like(w, self.initial)}
        weights = {"v_weight": torch.zeros_like(w[..., :1])}
        if self.beta1:
            state["m"] = torch.zeros_like(w)
            weights["m_weight"] = torch.zeros_like(w[..., :1])
        if self.amsgrad:
            state["v_max"] = torch.full_like(w, self.initial)
        return state | weights if self.bias_correction else state

    def update(self, g: Tensor, state: State, w: Tensor) -> tuple[Tensor, State]:
        """The step."""
        state = {**state, "v": self.second_moment(state["v"], g * g, self.beta2)}
        m, v, rate, eps = g, state["v"], self.rate.of(state), self.eps
        sqrt = exact_sqrt if self.exact_root else torch.sqrt
        if self.beta1:
            m = state["m"] = self.beta1 * state["m"] + (1 - self.beta1) * g
        if self.amsgrad:
            v = state["v_max"] = torch.maximum(state["v_max"], v)
        if not self.bias_correction:
            return rate * m / (sqrt(v) + eps), state
        # 1 - β^t is the mean of t ones that forgets as m and v do. It counts the steps by products and sums alone: a
        # power's last bit depends on how many clients' powers are taken at once.
        state["v_weight"] = averaged(state["v_weight"], torch.ones_like(state["v_weight"]), self.beta2)
        root = sqrt(state["v_weight"])
        if self.beta1:
            state["m_weight"] = averaged(state["m_weight"], torch.ones_like(state["m_weight"]), self.beta1)
            rate = rate / state["m_weight"]
        # m / (√(v / b) + ε) = √b m / (√v + ε √b), where √b is one number per client.
        return (rate * root) * m / (sqrt(v) + eps * root), state
