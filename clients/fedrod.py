"""FedRoD: a generic predictor and a personal head beside it, on the same features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedtl.clients.contract import ClientUpdate, Count, Gradient, Loop, Memory, Probe, State, Vectors, Weighting
from fedtl.clients.heads import LinearHead, head_of, scale_of_head, with_head
from fedtl.clients.label_counts import ABSENT, of_present
from fedtl.clients.settings import Settings
from fedtl.clients.sgd import SGD, SGDSettings
from fedtl.clients.untrained import Untrained
from fedtl.losses.batch import Batch
from fedtl.models.vector import Layout
from fedtl.optimizers.stepper import decayed_numbers, stepper_of


class TwoHeadsSettings(SGDSettings):
    """Options of FedRoD with any kind of personal head.

    Attributes:
        personal_lr: the learning rate of the personal head; ``lr`` if not given.
        gamma: γ, how much the generic predictor's softmax is balanced: with 0 its loss is the plain cross-entropy, as
            FedAvg's.
    """

    gamma: float = Field(1.0, ge=0)
    personal_lr: float | None = Field(None, gt=0)

    def no_private(self) -> str:
        """The personal head is added to the model's."""
        return "FedRoD's personal heads are clients' own already"


class FedRoDSettings(TwoHeadsSettings):
    """Options of FedRoD with linear personal heads.

    Attributes:
        personal_start: where a personal head begins: at zeros, with which the generic predictor alone speaks, or as a
            copy of the generic head's first values ("generic"). The paper leaves it open.
    """

    personal_start: Literal["zeros", "generic"] = "zeros"


class TwoHeads(SGD):
    """A generic predictor, trained by balanced softmax, and what personal heads of any kind need of it."""

    tasks: ClassVar[frozenset[str] | None] = frozenset({"classification"})

    personalises: ClassVar[bool] = True
    settings: TwoHeadsSettings

    def __init__(self, settings: TwoHeadsSettings, layout: Layout) -> None:
        super().__init__(settings, layout)
        scale, _ = scale_of_head(layout, settings.lr_scale)
        optimizer = settings.optimizer
        rate = None if optimizer.lr is None else scale * optimizer.lr
        chosen = {"lr_scale": {}, "optimizer": optimizer.model_copy(update={"lr": rate})}
        personal = None if settings.personal_lr is None else scale * settings.personal_lr
        own = settings.model_copy(update=chosen)
        self.personal_optimizer = stepper_of(own, personal, scale * settings.lr, layout, self.decayed)

    def decayed(self, which: str) -> Tensor:
        """The numbers of what makes the personal head that weight decay pulls: the head's own, as of ψ."""
        return self.head(decayed_numbers(self.layout, which))

    def loops(self) -> Sequence[Loop]:
        """One, if the model has a head that trains and is one linear layer, as what is added to ψ is added to h then.

        Raises:
            ConfigError: it has not.
        """
        LinearHead.of(self.layout, self.settings.name, "its personal heads are linear")
        return super().loops()

    def gradients(self, w: Tensor, phi: Tensor, prior: Tensor, batch: Batch, grad: Gradient) -> tuple[Tensor, Tensor]:
        """∇ L_BSM of the generic predictor ``[..., P]``, and ∇_φ L_CE of the personal one ``[..., h]``.

        Of labelled samples the generic predictor's logits are balanced, of no others.

        Args:
            w: θ and ψ.
            phi: φ, ``[..., h]``.
            prior: γ log n_c, ``[..., k]``.
            batch: the mini-batch.
            grad: of the objective.
        """
        of_personal = self.personal_gradient(w, phi, batch, grad)
        if batch.labelled:
            batch = batch.with_logits(torch.ones_like(prior[..., :1]), prior.unsqueeze(-2))
        return grad(w, batch), of_personal

    def personal_gradient(self, w: Tensor, phi: Tensor, batch: Batch, grad: Gradient) -> Tensor:
        """∇_φ L_CE ``[..., h]``, without what terms on parameters have of it: they are about θ and ψ."""
        return self.head(grad(self.with_head(w, phi), batch.with_parameters(w)))

    def personal(self, received: Vectors, memory: Memory) -> Tensor:
        """The present generic predictor with the client's own head."""
        return self.with_head(received["w"], memory["phi"])

    def head(self, w: Tensor) -> Tensor:
        """The numbers of the head in a vector ``[..., P]``."""
        return head_of(self.layout, w)

    def with_head(self, w: Tensor, phi: Tensor) -> Tensor:
        """A copy of ``w`` ``[..., P]`` to whose head ``phi`` is added."""
        return with_head(self.layout, w, self.head(w) + phi)


def log_prior(counts: Tensor, gamma: float) -> Tensor:
    """γ log n_c of numbers of samples ``[..., k]``; of none, a number far below all others, but that 0⁰ = 1."""
    return of_present(counts, gamma * counts.clamp(min=1).log(), gamma and ABSENT)


class FedRoD(TwoHeads):
    """A client's part of Algorithm 1 of Chen and Chao 2022 (arXiv 2107.00778), with linear personal heads.

    Of features z = f(x; θ) there are two predictors: the generic one, h(z; ψ), and the personal one,
    h(z; ψ) + h(z; φ_m). On each mini-batch
    (θ, ψ) ← (θ, ψ) - η ∇ L_BSM(h(z; ψ)), the balanced softmax, cross-entropy of the logits h + γ log n_c with n_c the
    client's number of samples of class c; and φ_m ← φ_m - η ∇_φ L_CE(h(z; ψ) + h(z; φ_m)), both at the θ and ψ of
    before. The server's mean of θ and ψ is weighted by samples; φ_m stays. As heads are linear, the personal predictor
    is the model whose head is ψ + φ_m.

    Terms of the objective that read logits of labelled samples read the balanced ones; those of other samples (a
    target, views, public samples) read h(z; ψ). For φ_m both read the personal ones. Terms on parameters, as "proximal"
    and "l2", pull θ and ψ, and leave φ_m alone.

    Differs from the paper: of its family of losses for unlike class distributions the balanced softmax alone is here;
    with batch-norm the running statistics see each mini-batch twice. Its authors published no code. PFLlib begins with
    a copy of the generic head, ``personal_start = "generic"``; FL-bench has γ as an option, too, but leaves the generic
    logits out of the personal ones, and lets the personal loss train θ.
    """

    settings_type: ClassVar[type[Settings]] = FedRoDSettings
    settings: FedRoDSettings

    def first_memory(self, received: Vectors) -> Memory:
        """φ_m as it begins."""
        head = self.head(received["initial"])
        return {"phi": head if self.settings.personal_start == "generic" else torch.zeros_like(head)}

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        """Begin with the global θ and ψ, and one's own φ_m."""
        phi = memory["phi"]
        rates = self.personal_optimizer.init(phi, "phi")
        prior = log_prior(probe.label_counts(), self.settings.gamma)
        return {**super().start(received, memory, probe), "phi": phi, "prior": prior, **rates}

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        """A step of the generic predictor and one of the personal head."""
        of_w, of_phi = self.gradients(state["w"], state["phi"], state["prior"], batch, grad)
        return self.move(self.move(state, of_w), of_phi, "phi", self.personal_optimizer)

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        """Upload θ and ψ; keep φ_m."""
        return {"w": state["w"]}, {"phi": state["phi"]}

    def for_unseen(self) -> ClientUpdate[Any]:
        """The personal head's steps."""
        return _Joining(self.settings, self.layout)

    def for_scoring(self) -> ClientUpdate[Any]:
        """No training is needed."""
        return _AsItIs(self.settings, self.layout)


class _Joining(FedRoD):
    """φ_m of a client that joins after training, while θ and ψ stand still."""

    sums: ClassVar[Mapping[str, Weighting]] = {}

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        of_phi = self.personal_gradient(state["w"], state["phi"], batch, grad)
        return self.move(state, of_phi, "phi", self.personal_optimizer)

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        return {}, {"phi": state["phi"]}


class _AsItIs(Untrained, FedRoD):
    """What the client has, in place of a round."""

    shows: ClassVar[Mapping[str, str]] = {"phi": "phi"}
