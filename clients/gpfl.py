"""GPFL: embeddings of the classes guide features, of which a conditional valve makes global and personal ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from fedtl.clients.contract import ClientUpdate, Count, Loop, Memory, Probe, State, Vectors
from fedtl.clients.parts import PartSteps
from fedtl.clients.settings import Settings
from fedtl.clients.sgd import SGDSettings
from fedtl.clients.untrained import Untrained
from fedtl.losses.batch import Sizes
from fedtl.losses.context import Layers, Net
from fedtl.losses.moments import norm, unit
from fedtl.losses.objective import with_term
from fedtl.losses.term import Term, TermContext, module_name
from fedtl.models.vector import put, take
from fedtl.optimizers.settings import AveragingSettings

TERM, MODULES = "gpfl", ("valve", "embeddings", "inputs")

VALVE, EMBEDDINGS, INPUTS = (f"extras.{TERM}_{part}" for part in MODULES)
"""The parts of the vector that are no part of the model: V, C, and g with p_i."""


class GPFLSettings(SGDSettings, AveragingSettings):
    """Options of GPFL, and a server optimiser's.

    Attributes:
        private: W_i^h and what else of the model stays at each client: the head.
        lam: λ, the weight of the magnitude-level guidance; 0.01 in the authors' script for small networks.
        mu: µ, a weight decay of V and C alone; 0.1 likewise.
        magnitude: what the magnitude-level guidance is over a mini-batch: the mean of the distances of each "sample",
            or the distance of the "batch" as a whole, which grows with its size, as in the authors' code.
        inputs: which embeddings g and p_i are made of: the "received" ones, or, as in the authors' code, the client's
            "own" of the round before, which are those that it trained in it, or held where it did not take part; zeros
            in the first round.
    """

    same_in_phases: ClassVar[tuple[str, ...]] = (*SGDSettings.same_in_phases, "inputs")

    private: tuple[str, ...] = ("head",)
    lam: float = Field(0.01, ge=0)
    mu: float = Field(0.1, ge=0)
    magnitude: Literal["sample", "batch"] = "sample"
    inputs: Literal["received", "own"] = "received"

    @model_validator(mode="after")
    def _has_a_head(self) -> GPFLSettings:
        if not self.private:
            raise ValueError("private = []: GPFL's personal head stays at each client; name it, as ['head']")
        return self


class Valve(nn.Module):
    """CoV(·; V): from a conditional input γ and β, each by a linear layer, ReLU and layer norm."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.gamma, self.beta = (
            nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.LayerNorm(features)) for _ in range(2)
        )

    def forward(self, f: Tensor, condition: Tensor) -> Tensor:
        """ReLU((γ + 1) ⊙ f + β), ``[B, f]``."""
        gamma, beta = self.gamma(condition), self.beta(condition)
        return F.relu((gamma + 1) * f + beta)


class Embeddings(nn.Module):
    """GCE(·; C), an embedding for each class; they begin as torch's do, at normal random numbers."""

    def __init__(self, classes: int, features: int) -> None:
        super().__init__()
        self.C = nn.Parameter(torch.randn(classes, features))

    def forward(self, f: Tensor) -> Tensor:
        """The cosines of features ``[B, f]`` and each of them, ``[B, k]``."""
        return unit(f) @ unit(self.C).mT


class Inputs(nn.Module):
    """The conditional inputs g and p_i, vectors that no gradient moves."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.g, self.p = nn.Parameter(torch.zeros(features)), nn.Parameter(torch.zeros(features))


class Guidance(Term):
    """The predictor of GPFL, and its guidance on angle and magnitude level.

    Attributes:
        lam: see :class:`GPFLSettings`.
        magnitude: likewise.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"source", "features", "model:global"})
    per_sample: ClassVar[bool] = True  # the norm over a batch leaves padding out, too
    of_modules: ClassVar[frozenset[str] | None] = frozenset()

    lam: float
    magnitude: Literal["sample", "batch"]

    def modules(self, sizes: Sizes) -> dict[str, nn.Module]:
        """V, C, and at each client g and p_i."""
        f = sizes.layers["features"]
        return {"valve": Valve(f), "embeddings": Embeddings(sizes.classes, f), "inputs": Inputs(f)}

    def private(self) -> frozenset[str]:
        """The inputs g and p_i."""
        return frozenset({"inputs"})

    def logits(self, net: Net, layers: Layers) -> Tensor:
        """head(f^P; W_i^h) with f^P = CoV(f, p_i; V)."""
        valve, _, inputs = (net.module(module_name(self, name)) for name in MODULES)
        logits: Tensor = net.head()(valve(layers["features"], inputs.p))
        return logits

    def value(self, context: TermContext) -> Tensor:
        """L^alg + λ L^mlg, of f^G = CoV(f, g; V)."""
        valve, embeddings, inputs = (self.module(context, name) for name in MODULES)
        f_G, y = valve(context.features, inputs.g), context.labels
        value = context.mean(F.cross_entropy(embeddings(f_G), y, reduction="none"))
        if not self.lam:
            return value
        slot = context.net.slots(module_name(self, "embeddings"))["C"]
        apart = f_G - slot.view(context.external("model:global"))[y]
        if self.magnitude == "sample":
            return value + self.lam * context.mean(norm(apart))
        real = apart if context.mask is None else apart * context.mask.unsqueeze(-1)
        return value + self.lam * norm(real.flatten())


class GPFL(PartSteps):
    """A client's part of GPFL (Zhang et al. 2023, arXiv 2308.10279).

    Of features f_i = φ(x; W^fe) a conditional valve makes global and personal ones,
    f_i^G = σ[(γ + 1) ⊙ f_i + β] with {γ, β} = CoV(g; V), and f_i^P likewise with p_i in place of g. Their conditional
    inputs come of an embedding GCE(u; C) for each class u: g is the mean of all, and p_i their mean weighted by the
    client's samples of each class. W^fe, W_i^h, V and C descend along

        ∇ [ℓ(ψ(f_i^P; W_i^h), y) + L^alg + λ L^mlg] + µ (V, C),
        L^alg = -log exp(cos(f_i^G, GCE(y; C))) / Σ_u exp(cos(f_i^G, GCE(u; C))),  L^mlg = ‖f_i^G - GCE(y; Ĉ)‖₂,

    where Ĉ are the received embeddings, and Ĉ, g and p_i stand still. The server takes the means of W^fe, V and C
    weighted by samples; W_i^h stays. A client's own model is the present W^fe, V and C with its own W_i^h.

    Terms of the objective that read logits read ψ(f_i^P; W_i^h).

    Differs from the paper: γ and β depend on the conditional input alone, as in its authors' code. There, and in
    PFLlib, L^mlg is a norm over the mini-batch (``magnitude``), and the inputs are those of the round before
    (``inputs``).
    """

    tasks: ClassVar[frozenset[str] | None] = frozenset({"classification"})

    settings_type: ClassVar[type[Settings]] = GPFLSettings
    personalises: ClassVar[bool] = True
    settings: GPFLSettings

    @classmethod
    def objective(cls, settings: Settings, terms: tuple[Term, ...]) -> tuple[Term, ...]:
        """With the predictor and the guidance."""
        assert isinstance(settings, GPFLSettings)
        o = settings
        return with_term(terms, Guidance(term=TERM, lam=o.lam, magnitude=o.magnitude), o.name)

    @classmethod
    def unused(cls, settings: Settings) -> dict[str, str]:
        """What a magnitude-level guidance of weight 0 is over."""
        assert isinstance(settings, GPFLSettings)
        return {} if settings.lam else {"magnitude": "there is no magnitude-level guidance: lam = 0"}

    def first_memory(self, received: Vectors) -> Memory:
        """No embeddings of a round before, where they would count."""
        if self.settings.inputs == "received":
            return {}
        return {"C": torch.zeros_like(received["held"]), "round": torch.full_like(received["round"], -1)}

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        """Begin with the global W^fe, V and C, one's own W_i^h, and g and p_i."""
        state = self.start_parts(received, TERM)
        w, counts = state["w"], probe.label_counts()
        C = take(w, self.layout, (EMBEDDINGS,))
        if self.settings.inputs == "own":
            just_trained = memory["round"] == received["round"] - 1
            C = torch.where(just_trained, memory["C"], received["held"])
            state["round"] = received["round"]
        put(w, self.layout, (INPUTS,), inputs_of(C, counts))
        return state

    def loops(self) -> Sequence[Loop]:
        """Steps of everything but g and p_i."""
        moves = 1 - self.mask_of((INPUTS,))
        decay = self.settings.mu * self.mask_of((VALVE, EMBEDDINGS)) if self.settings.mu else None
        return (Loop(self.step_of(TERM, moves, decay=decay), self.budget),)

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        """Upload W^fe, V and C; W_i^h stays, and the embeddings where they count in the round after."""
        w = state["w"]
        if self.settings.inputs == "received":
            return {"w": w}, {}
        return {"w": w}, {"C": take(w, self.layout, (EMBEDDINGS,)), "round": state["round"]}

    def personal(self, received: Vectors, memory: Memory) -> Tensor:
        """The present global parts with the client's own."""
        return memory["own"]

    def for_unseen(self) -> ClientUpdate[Any]:
        """The steps of W_i^h, and p_i of the client's classes."""
        return _Joining(self.settings, self.layout)

    def for_scoring(self) -> ClientUpdate[Any]:
        """No training is needed."""
        return _AsItIs(self.settings, self.layout)


def inputs_of(C: Tensor, counts: Tensor) -> Tensor:
    """The inputs g and p_i, one after the other ``[..., 2 f]``.

    Args:
        C: the embeddings ``[..., k f]``, class by class.
        counts: n_i^u, ``[..., k]``.
    """
    rows = C.reshape(*counts.shape, -1)
    shares = counts / counts.sum(-1, keepdim=True).clamp(min=1)
    return torch.cat([rows.mean(-2), (shares.unsqueeze(-1) * rows).sum(-2)], -1)


class _Joining(GPFL):
    """W_i^h of a client that joins after training, while W^fe, V and C stand still."""

    def loops(self) -> Sequence[Loop]:
        return (Loop(self.step_of(TERM, self.mask_of(self.settings.private)), self.budget),)

    def personal(self, received: Vectors, memory: Memory) -> Tensor:
        return received["w"]


class _AsItIs(Untrained, GPFL):
    """What the client has, in place of a round."""

    shows: ClassVar[Mapping[str, str]] = {"own": "w"}
