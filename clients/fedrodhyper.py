"""FedRoD with a hypernetwork, which makes a personal head of a client's class distribution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor

from fedtl.clients.contract import ClientUpdate, Count, Gradient, Memory, Probe, State, Vectors, Weighting
from fedtl.clients.fedrod import TwoHeads, TwoHeadsSettings, log_prior
from fedtl.clients.heads import LinearHead, head_size
from fedtl.clients.settings import Settings
from fedtl.clients.untrained import Untrained
from fedtl.losses.batch import Batch


class FedRoDHyperSettings(TwoHeadsSettings):
    """Options of FedRoD with a hypernetwork.

    Attributes:
        personal_lr: the learning rate of the hypernetwork; ``lr`` if not given.
        hyper_hidden: the size of the hypernetwork's hidden layer.
    """

    same_in_phases: ClassVar[tuple[str, ...]] = (*TwoHeadsSettings.same_in_phases, "hyper_hidden")

    hyper_hidden: PositiveInt = 32


class FedRoDHyper(TwoHeads):
    """A client's part of FedRoD whose personal heads are φ_m = H(a_m; ν) (Chen and Chao 2022, arXiv 2107.00778).

    a_m is the client's class distribution, n_c / n, and H(a; ν) = W relu(A a + b) + c, a perceptron of one hidden layer
    that all share. On each mini-batch (θ, ψ) step along the balanced softmax as in ``fedrod``, and
    ν ← ν - η ∇_ν L_CE(h(z; ψ) + h(z; H(a_m; ν))), which reaches ν alone. The server's mean of θ, ψ and ν is weighted by
    samples. A client that has never trained has a personal head too, from its class distribution.

    Differs from the paper: W and c begin at zeros, so that at first the generic predictor speaks alone; what is said of
    ``fedrod``'s losses, of terms and of batch-norm holds here, too. In FL-bench the hypernetwork makes a client's first
    personal head alone, and learns from it by squares.
    """

    settings_type: ClassVar[type[Settings]] = FedRoDHyperSettings
    sums: ClassVar[Mapping[str, Weighting]] = {"w": "settings", "nu": "settings"}
    settings: FedRoDHyperSettings

    def decayed(self, which: str) -> Tensor:
        """A and W, and neither b nor c."""
        m = self.settings.hyper_hidden
        weight = LinearHead.of(self.layout, self.settings.name, "its personal heads are linear").weight
        h = head_size(self.layout)
        sizes = (m * weight.shape[0], 1.0), (m, 0.0), (h * m, 1.0), (h, 0.0)
        return torch.cat([torch.full((size,), pulled) for size, pulled in sizes])

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        """Begin with the global θ, ψ and ν."""
        counts, nu = probe.label_counts(), received["nu"]
        distribution = counts / counts.sum(-1, keepdim=True).clamp(min=1)
        own = {"nu": nu, "prior": log_prior(counts, self.settings.gamma), "distribution": distribution}
        return {**super().start(received, memory, probe), **own, **self.personal_optimizer.init(nu, "nu")}

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        """A step of the generic predictor and one of the hypernetwork."""
        w, nu, a = state["w"], state["nu"], state["distribution"]
        A, b, W, c = self.matrices(nu, a.shape[-1])
        hidden = hidden_layer(A, b, a)
        of_w, g = self.gradients(w, apply(W, hidden) + c, state["prior"], batch, grad)
        back = apply(W.mT, g) * (hidden > 0)
        outer = [(back, a), (g, hidden)]
        of_A, of_W = ((left.unsqueeze(-1) * right.unsqueeze(-2)).flatten(-2) for left, right in outer)
        of_nu = torch.cat([of_A, back, of_W, g], -1)
        return self.move(self.move(state, of_w), of_nu, "nu", self.personal_optimizer)

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        """Upload θ, ψ and ν; nothing stays."""
        return {"w": state["w"], "nu": state["nu"]}, {}

    def for_scoring(self) -> ClientUpdate[Any]:
        """No training is needed."""
        return _AsItIs(self.settings, self.layout)

    @classmethod
    def trains_unseen(cls, settings: Settings) -> bool:
        """Nor is any for a client that joins."""
        return False

    def matrices(self, nu: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A ``[..., m, k]``, b ``[..., m]``, W ``[..., h, m]`` and c ``[..., h]`` in ν, as views."""
        m, h = self.settings.hyper_hidden, head_size(self.layout)
        A, b, W, c = torch.split(nu, [m * classes, m, h * m, h], -1)
        return A.reshape(*A.shape[:-1], m, classes), b, W.reshape(*W.shape[:-1], h, m), c


def apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """The product of ``[..., r, s]`` and ``[..., s]``."""
    return (matrix * vector.unsqueeze(-2)).sum(-1)


def hidden_layer(A: Tensor, b: Tensor, a: Tensor) -> Tensor:
    """relu(A a + b)."""
    return (apply(A, a) + b).relu()


class _AsItIs(Untrained, FedRoDHyper):
    """What the hypernetwork makes of the client's class distribution, in place of a round."""

    def first_memory(self, received: Vectors) -> Memory:
        return {"phi": torch.zeros_like(self.head(received["w"]))}

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        a = state["distribution"]
        A, b, W, c = self.matrices(state["nu"], a.shape[-1])
        return {}, {"phi": apply(W, hidden_layer(A, b, a)) + c}
