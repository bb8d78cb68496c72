"""FedPAC: features aligned with global class means, and heads combined at the server for each client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedtl.clients.contract import ClientUpdate, Count, Loop, Memory, Probe, State, Vectors, Weighting
from fedtl.clients.heads import head_of, with_head
from fedtl.clients.parts import HeadFirst, HeadFirstSettings
from fedtl.clients.settings import Settings
from fedtl.clients.untrained import Untrained
from fedtl.losses.objective import with_term
from fedtl.losses.term import Term
from fedtl.losses.terms.prototypes import Prototype
from fedtl.models.vector import Layout, inner
from fedtl.optimizers.stepper import stepper_of


class FedPACSettings(HeadFirstSettings):
    """Options of FedPAC; ``local_epochs`` or ``local_steps`` are those of the feature extractor.

    Attributes:
        lam: λ, how strongly features are held to the global mean of their class; 1 as in the paper's experiments.
        head_epochs: passes over the client's samples that train φ_i, before θ_i trains; 1 as in the paper, if neither
            this nor head_steps is given.
        head_lr: η_g, the learning rate of φ_i; ``lr`` if not given. The authors' code has 0.1.
        collaboration: whether the server combines heads; without, each client keeps its own.
        smallest_weight: weights of a combination that are not above it become 0; 0.001 in the authors' code.
    """

    lam: float = Field(1.0, ge=0)
    head_lr: float | None = Field(None, gt=0)
    collaboration: bool = True
    smallest_weight: float = Field(0.0, ge=0, lt=1)

    def no_private(self) -> str:
        """The server makes each client's head."""
        return "FedPAC's heads are each client's own already, and the server combines them"


class FedPAC(HeadFirst):
    """A client's part of Algorithm 1 of Xu, Tong and Huang 2023 (arXiv 2306.11867).

    The client receives the feature extractor θ, its own head φ_i and, from the second round on, the global mean c_k of
    the features of each class k.

    - Before it trains, it takes the statistics of its features z = f_θ(x) that the server combines heads by: with
      p_k its share of samples of class k and E_k the mean over these, h_i = (p_k E_k z)_k and
      V_i = 1/n_i Σ_k (p_k E_k ‖z‖² - p_k² ‖E_k z‖²).
    - φ_i ← φ_i - η_g ∇_φ F_i, while θ stands still; then θ_i ← θ_i - η ∇_θ (F_i + λ R_i), while φ_i does, where R_i is
      the mean over samples and features of (f_θ(x) - c_y)², the term "prototype".
    - It sends θ_i, φ_i, h_i, V_i and, for c_k, the sums of the trained model's features by class.

    The server's part is in ``strategies/fedpac.py``. A client that has never been sampled has the present θ with the
    initial head.

    Differs from the paper: not at all by default, but that a class that none of the round's clients holds keeps its
    last c_k. The authors' code has a momentum of 0.5, a weight decay of 0.0005, ``head_lr = 0.1`` and
    ``smallest_weight = 0.001``. With θ the mean of the heads travels too, which makes of the server's model one that
    can be scored; clients do not train it.
    """

    tasks: ClassVar[frozenset[str] | None] = frozenset({"classification"})

    settings_type: ClassVar[type[Settings]] = FedPACSettings
    rows: ClassVar[tuple[str, ...]] = ("phi", "h", "V")
    personalises: ClassVar[bool] = True
    settings: FedPACSettings

    def __init__(self, settings: FedPACSettings, layout: Layout) -> None:
        super().__init__(settings, layout)
        self.head_optimizer = stepper_of(settings, settings.head_lr, settings.lr, layout)

    @classmethod
    def unused(cls, settings: Settings) -> dict[str, str]:
        """The head's learning rate, where it takes no step."""
        still = not cls.trains_unseen(settings)
        return {"head_lr": "the head takes no step: head_epochs or head_steps = 0"} if still else {}

    @classmethod
    def objective(cls, settings: Settings, terms: tuple[Term, ...]) -> tuple[Term, ...]:
        """With the alignment of features."""
        assert isinstance(settings, FedPACSettings)
        return with_term(terms, Prototype(term="prototype", weight=settings.lam), settings.name)

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        """Begin with the present θ and the client's own φ_i; the statistics of its features by this θ."""
        own = {"w": self.personal(received, memory)}
        state = {**self.start_parts(own, "head", by=self.head_optimizer), **self.start_parts(own, "body")}
        classes = probe.label_counts().shape[-1]

        def of(z: Tensor, labels: Tensor) -> Tensor:
            """n_i, Σ ‖z‖² and, by class, Σ z."""
            rows = z.to(torch.float64)
            by_class = rows.new_zeros(classes, rows.shape[1]).index_add_(0, labels, rows)
            count = rows.new_full((1,), len(rows))
            return torch.cat([count, rows.square().sum().view(1), by_class.view(-1)])

        sums = probe.sums(own["w"], of)
        n = sums[..., :1].clamp(min=1)
        h = sums[..., 2:] / n
        V = (sums[..., 1:2] / n - inner(h, h)).clamp(min=0) / n
        return {**state, "h": h.to(torch.float32), "V": V.to(torch.float32)}

    def loops(self) -> Sequence[Loop]:
        """The head's steps, then those of everything else."""
        return self.head_then_body(self.mask_of(["head"]), self.head_optimizer)

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        """Upload the model, its head by itself and the statistics; nothing stays."""
        w = state["w"]
        return {"w": w, "phi": head_of(self.layout, w), "h": state["h"], "V": state["V"]}, {}

    def for_unseen(self) -> ClientUpdate[Any]:
        """The head's steps, from the mean of the others' heads."""
        return _Joining(self.settings, self.layout)

    def for_scoring(self) -> ClientUpdate[Any]:
        """No training is needed."""
        return _AsItIs(self.settings, self.layout)

    def personal(self, received: Vectors, memory: Memory) -> Tensor:
        """The present θ with the client's own head."""
        return with_head(self.layout, received["w"], received["phi"])


class _Joining(FedPAC):
    """φ_i of a client that joins after training, while θ stands still; nobody combines heads for it."""

    sums: ClassVar[Mapping[str, Weighting]] = {}
    rows: ClassVar[tuple[str, ...]] = ()

    def first_memory(self, received: Vectors) -> Memory:
        return {"phi": received["phi"].clone()}

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        return self.start_parts({"w": FedPAC.personal(self, received, memory)}, "head", by=self.head_optimizer)

    def loops(self) -> Sequence[Loop]:
        return super().loops()[:-1]

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        return {}, {"phi": head_of(self.layout, state["w"])}

    def personal(self, received: Vectors, memory: Memory) -> Tensor:
        return with_head(self.layout, received["w"], memory["phi"])


class _AsItIs(Untrained, FedPAC):
    """What the client receives, in place of a round."""

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        return {"w": received["w"]}
