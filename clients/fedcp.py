"""FedCP: a policy network shares each sample's features out to a global and to a personal head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import reduce
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from fedtl import losses
from fedtl.choice import ConfigError, shown
from fedtl.clients.contract import ClientUpdate, Count, Loop, Memory, Probe, State, Vectors
from fedtl.clients.heads import scale_of_head
from fedtl.clients.parts import PartSteps
from fedtl.clients.settings import Settings
from fedtl.clients.sgd import SGDSettings
from fedtl.clients.untrained import Untrained
from fedtl.losses.batch import Sizes
from fedtl.losses.context import Layers, Net
from fedtl.losses.moments import unit
from fedtl.losses.objective import with_term
from fedtl.losses.term import Term, TermContext, module_name
from fedtl.models.head import head_name
from fedtl.models.vector import Layout, put, take
from fedtl.optimizers.settings import AveragingSettings
from fedtl.optimizers.stepper import Stepper
from fedtl.tasks import PER_SAMPLE

TERM, MODULES = "fedcp", ("policy", "head", "context")

POLICY, HEAD, CONTEXT = (f"extras.{TERM}_{part}" for part in MODULES)
"""The parts of the vector that are no part of the model: Θ_i, W_i^hd and v_i."""

GLOBAL = ("head", POLICY)
"""What ``global_parts`` is about: W^hd and Θ."""

KERNELS = (10.0, 15.0, 20.0, 50.0)
"""The σ² of the MMD's Gaussian kernels, as in the authors' code."""


class FedCPSettings(SGDSettings, AveragingSettings):
    """Options of FedCP, and a server optimiser's.

    Attributes:
        lam: λ, the weight of the MMD; 5 in the authors' script.
        tau: the temperature of the policy's softmax.
        gumbel: whether Gumbel noise is added to the policy's intermediates in training, as in the authors' code.
        first_context: v_i of a client that has not trained yet: of its personal "head", as it will be afterwards, or
            "random" numbers of [0, 1), the same for all clients, as in the authors' code.
        global_parts: the W^hd and Θ that a client goes on with: the "present" ones, or those that came of the "last"
            round in which it took part, as in the authors' code.
    """

    same_in_phases: ClassVar[tuple[str, ...]] = (*SGDSettings.same_in_phases, "tau", "gumbel", "global_parts")

    lam: float = Field(5.0, ge=0)
    tau: PositiveFloat = 1.0
    gumbel: bool = False
    first_context: Literal["head", "random"] = "head"
    global_parts: Literal["present", "last"] = "present"

    def no_private(self) -> str:
        """The personal head is a module of its own."""
        return "FedCP's personal head stays already"


class PolicyNetwork(nn.Module):
    """CPN(·; Θ): linear, layer norm, ReLU, and a softmax between the two that it makes of each feature."""

    def __init__(self, features: int, tau: float, gumbel: bool) -> None:
        super().__init__()
        self.fc, self.norm = nn.Linear(features, 2 * features), nn.LayerNorm(2 * features)
        self.tau, self.gumbel = tau, gumbel

    def forward(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """The shares s and r = 1 - s of the personal and of the global head, ``[B, f]`` each."""
        a = self.norm(self.fc(condition)).relu().unflatten(-1, (2, -1))
        if self.gumbel and self.training:
            a = a - torch.empty_like(a).exponential_().log()
        s, r = (a / self.tau).softmax(-2).unbind(-2)
        return s, r


class Context(nn.Module):
    """v_i, a vector that no gradient moves."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.rand(features))

    def forward(self, h: Tensor) -> Tensor:
        """The policy's input v_i / ‖v_i‖₂ ⊙ h, ``[B, f]``."""
        return unit(self.v) * h


class ConditionalPolicy(Term):
    """The predictor of FedCP, and λ times the MMD between the features h_i and those of the received extractor.

    Attributes:
        lam: see :class:`FedCPSettings`.
        tau: likewise.
        gumbel: likewise.
    """

    of_modules: ClassVar[frozenset[str] | None] = frozenset({"tau", "gumbel"})

    lam: float
    tau: float
    gumbel: bool

    def wants(self) -> frozenset[str]:
        """Features, and the received model's."""
        return frozenset({"samples", "features"} | ({"model:global"} if self.lam else set()))

    def draws(self) -> bool:
        """Gumbel noise."""
        return self.gumbel

    def modules(self, sizes: Sizes) -> dict[str, nn.Module]:
        """Θ; and at each client W_i^hd, which begins as the model's head does, and v_i."""
        f, model = sizes.layers["features"], sizes.model
        assert model is not None
        policy, head = PolicyNetwork(f, self.tau, self.gumbel), deepcopy(model.get_submodule(head_name(model)))
        return {"policy": policy, "head": head, "context": Context(f)}

    def private(self) -> frozenset[str]:
        """W_i^hd and v_i."""
        return frozenset({"head", "context"})

    def logits(self, net: Net, layers: Layers) -> Tensor:
        """head(s ⊙ h; W_i^hd) + head(r ⊙ h; W^hd)."""
        h, (policy, head, context) = layers["features"], (net.module(module_name(self, name)) for name in MODULES)
        s, r = policy(context(h))
        logits: Tensor = head(s * h) + net.head()(r * h)
        return logits

    def value(self, context: TermContext) -> Tensor:
        """λ MMD."""
        h = context.features
        if not self.lam:
            return 0 * h.sum()
        still = context.stream("samples").under("global").features
        return self.lam * losses.mmd(h, still, bandwidths=[a**0.5 for a in KERNELS], kernels="sum")


class FedCP(PartSteps):
    """A client's part of FedCP (Zhang et al. 2023, arXiv 2307.01217).

    Of features h_i = f(x; W_i^fe) and the client's vector v_i = Σ_k w_k, the sum of the rows of W_i^hd, a conditional
    policy network makes shares {r_i, s_i} = CPN(v_i / ‖v_i‖₂ ⊙ h_i; Θ_i), r_i + s_i = 1, by a softmax. They separate
    what the global head sees from what the personal one sees: out_i = head(r_i ⊙ h_i; W^hd) + head(s_i ⊙ h_i; W_i^hd).
    W_i^fe, W_i^hd and Θ_i descend along ∇ [ℓ(out_i, y) + λ MMD(h_i, f(x; W^fe))], while the received W^fe and W^hd,
    and v_i, stand still.

    The server receives W_i^fe, Θ_i and Ŵ_i^hd = (W^hd + W_i^hd) / 2, and takes their means weighted by samples; W_i^hd
    stays. A client's own model is the present W^fe, W^hd and Θ with its own W_i^hd.

    Terms of the objective that read logits read out_i. Θ begins as torch's layers do, and W_i^hd as W^hd. A factor of
    the head in ``lr_scale`` is that of W_i^hd.

    Differs from the paper: not knowingly by default, but that with batch-norm the received extractor, which stands
    still, is in evaluation mode; the MMD's kernels, which it leaves open, are those of its authors' code. That code,
    and PFLlib, add Gumbel noise to the policy (``gumbel``; there also when a model is scored), begin with a random v_i
    (``first_context``), and pass W^hd and Θ on to the sampled clients alone, at the end of a round (``global_parts``).
    """

    tasks: ClassVar[frozenset[str] | None] = PER_SAMPLE

    settings_type: ClassVar[type[Settings]] = FedCPSettings
    personalises: ClassVar[bool] = True
    settings: FedCPSettings

    def __init__(self, settings: FedCPSettings, layout: Layout) -> None:
        super().__init__(settings, layout)
        factor, others = scale_of_head(layout, settings.lr_scale)
        if factor != 1:  # W^hd stands still
            scaled = settings.model_copy(update={"lr_scale": {HEAD: factor, **others}})
            self.optimizer = Stepper(scaled, self.driven_lr(settings), layout)

    @classmethod
    def objective(cls, settings: Settings, terms: tuple[Term, ...]) -> tuple[Term, ...]:
        """With the predictor and the MMD."""
        assert isinstance(settings, FedCPSettings)
        o = settings
        return with_term(terms, ConditionalPolicy(term=TERM, lam=o.lam, tau=o.tau, gumbel=o.gumbel), o.name)

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        """Begin with the global W^fe and Θ, one's own W_i^hd, and its v_i."""
        state = self.start_parts(received, TERM)
        w = state["w"]
        if "parts" in received:
            put(w, self.layout, GLOBAL, received["parts"])
        if self.settings.first_context == "head":
            put(w, self.layout, (CONTEXT,), self.context(w))
        return state

    def loops(self) -> Sequence[Loop]:
        """Steps of everything but W^hd and v_i.

        Raises:
            ConfigError: the head is not made of linear layers.
        """
        self.context(torch.zeros(self.layout.parameters))
        still = self.mask_of(("head", CONTEXT))
        return (Loop(self.step_of(TERM, 1 - still), self.budget),)

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        """Upload W_i^fe, Θ_i and Ŵ_i^hd; W_i^hd and v_i stay."""
        w = state["w"]
        upload = w.clone()
        put(upload, self.layout, ("head",), (take(w, self.layout, ("head",)) + take(w, self.layout, (HEAD,))) / 2)
        put(w, self.layout, (CONTEXT,), self.context(w))
        return {"w": upload}, {}

    def context(self, w: Tensor) -> Tensor:
        """v_i ``[..., f]``, the sum of the rows of W_i^hd; of the product of its layers' weights, where it has several.

        Raises:
            ConfigError: the head is not made of linear layers.
        """
        named = {slot.name: slot for slot in self.layout.trained}
        own = [slot for name, slot in named.items() if name.startswith(f"{HEAD}.")]
        weights, features = [slot.view(w) for slot in own if len(slot.shape) == 2], named[f"{CONTEXT}.v"].shape[0]
        try:
            rows = reduce(lambda product, weight: weight @ product, weights)
            if rows.shape[-1] == features:
                return rows.sum(-2)
        except (RuntimeError, TypeError):
            pass
        raise ConfigError(
            f"strategy.name = {shown(self.settings.name)}: its policy looks at the weights of the model's head, which "
            "is to be made of linear layers; use a model that ends in such"
        )

    def personal(self, received: Vectors, memory: Memory) -> Tensor:
        """The present global parts with the client's own."""
        return memory["own"]

    def for_unseen(self) -> ClientUpdate[Any]:
        """The steps of W_i^hd."""
        return _Joining(self.settings, self.layout)

    def for_scoring(self) -> ClientUpdate[Any]:
        """No training is needed."""
        return _AsItIs(self.settings, self.layout)


class _Joining(FedCP):
    """W_i^hd of a client that joins after training, while W^fe, W^hd and Θ stand still."""

    def loops(self) -> Sequence[Loop]:
        return (Loop(self.step_of(TERM, self.mask_of((HEAD,))), self.budget),)

    def personal(self, received: Vectors, memory: Memory) -> Tensor:
        return received["w"]


class _AsItIs(Untrained, FedCP):
    """What the client has, in place of a round."""

    shows: ClassVar[Mapping[str, str]] = {"own": "w"}
