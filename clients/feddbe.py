"""FedDBE: a client's bias in representation space is kept apart from features, which are held to a common mean."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedtl.choice import ConfigError, shown
from fedtl.clients.contract import ClientUpdate, Count, Gradient, Memory, Probe, State, Vectors, Weighting
from fedtl.clients.heads import LinearHead
from fedtl.clients.settings import Settings
from fedtl.clients.sgd import SGD, SGDSettings
from fedtl.clients.untrained import Untrained
from fedtl.losses.batch import Batch
from fedtl.losses.objective import with_term
from fedtl.losses.term import Term, TermContext
from fedtl.models.vector import Layout
from fedtl.optimizers.stepper import stepper_of
from fedtl.tasks import PER_SAMPLE

MEAN, CONSENSUS, ON = "running mean of features", "consensual mean of features", "domain bias eliminator"
"""In a batch's ``more``: z̄_i^g before the batch, z̄^g, and 1 or 0 where there is none yet."""


class FedDBESettings(SGDSettings):
    """Options of FedDBE, in the paper's symbols.

    Attributes:
        kappa: κ, how strongly the mean of the features is held to the consensual one; 50 as in the authors' script.
            With 0 no consensus is needed, and there is no initial round.
        mu: µ, the share of a mini-batch in the running mean; 1, the mini-batch alone, as in the authors' script.
        personal_lr: the learning rate of z̄_i^p; ``lr`` if not given. With 0 it stays at zeros.
        initial_clients: who takes part in the initial round, of which the consensus is: "all" clients, as in the
            paper, or as many as are "sampled" in any other.
    """

    same_in_phases: ClassVar[tuple[str, ...]] = (*SGDSettings.same_in_phases, "initial_clients")

    kappa: float = Field(50.0, ge=0)
    mu: float = Field(1.0, gt=0, le=1)
    personal_lr: float | None = Field(None, ge=0)
    initial_clients: Literal["all", "sampled"] = "all"

    def no_private(self) -> str:
        """What is a client's own is no part of the model."""
        return "FedDBE's own vectors stay already"


class MeanRegularization(Term):
    """The mean over features of ½ (z̄_i^g - z̄^g)², the running mean's distance from the consensual one."""

    needs: ClassVar[frozenset[str]] = frozenset({"samples", "features"})
    per_sample: ClassVar[bool] = True  # it is none, but padding does not count in the mean over the batch

    mu: float = 1.0

    def value(self, context: TermContext) -> Tensor:
        """The distance; 0 where there is no consensus yet."""
        stream = context.stream("samples")
        now = moved(context.tensor(MEAN), batch_mean(stream.features, stream.mask), self.mu)
        return context.tensor(ON).sum() * 0.5 * (now - context.tensor(CONSENSUS)).square().mean()


def batch_mean(z: Tensor, mask: Tensor | None) -> Tensor:
    """The mean ``[..., f]`` of a batch's features ``[..., B, f]``, of which ``mask`` ``[..., B]`` is 1 for samples."""
    if mask is None:
        return z.mean(-2)
    real = mask.unsqueeze(-1)
    return (z * real).sum(-2) / real.sum(-2)


def moved(mean: Tensor, batch: Tensor, mu: float) -> Tensor:
    """z̄_i^g after a mini-batch of which the mean is ``batch``: (1 - µ) z̄_old + µ z̄_new."""
    return (1 - mu) * mean + mu * batch


class FedDBE(SGD):
    """A client's part of FedAvg with DBE, the domain bias eliminator (Zhang et al. 2023, arXiv 2311.14975).

    A representation z = f(x; θ^f) is understood as two parts: z^g, common to clients, which f gives, and a client's own
    bias z̄_i^p, a vector that is learnt and never leaves it (PRBM, the personalised representation bias memory). SGD
    moves θ = (θ^f, θ^g) and z̄_i^p along

    E ℓ(g(f(x; θ^f) + z̄_i^p; θ^g), y) + κ · mean over features of ½ (z̄_i^g - z̄^g)²,

    where z̄_i^g ← (1 - µ) z̄_i^g + µ z̄, with z̄ the mini-batch's mean of f(x; θ^f), and 0 at the beginning of a round (MR,
    the mean regularisation). The consensual mean z̄^g is Σ_i n_i/n z̄_i^g after an initial round, in which all clients
    train as under FedAvg, and of which nothing else is kept; it never changes. The server's mean of θ is weighted by
    samples; z̄_i^p stays, and begins at zeros, with which a client that has never trained is served too. As the head g
    is linear, the client's predictor is the model whose head has the bias b + W z̄_i^p.

    Terms of the objective that read logits read those with z̄_i^p, of all samples: of a target, of views and of public
    ones, too. The models that stand still beside θ (a teacher of "distillation"), and what clients send the server for
    terms, are without it; the latter begins after the initial round. Terms on parameters pull θ alone.

    Differs from the paper: the initial round is the first of the run's rounds, and z̄_i^g and z̄^g travel in every one.
    The half in the mean regularisation, and the zeros from which z̄_i^g begins in each round, are the authors' code.
    With dropout, z̄_i^g is of a forward pass of its own.
    """

    tasks: ClassVar[frozenset[str] | None] = PER_SAMPLE

    settings_type: ClassVar[type[Settings]] = FedDBESettings
    sums: ClassVar[Mapping[str, Weighting]] = {"w": "settings", "mean": "settings"}
    personalises: ClassVar[bool] = True
    settings: FedDBESettings

    def __init__(self, settings: FedDBESettings, layout: Layout) -> None:
        super().__init__(settings, layout)
        own = settings.model_copy(update={"lr_scale": {}})  # whose parts are the model's
        self.personal_optimizer = stepper_of(own, settings.personal_lr, settings.lr, layout, self.decayed)

    def decayed(self, which: str) -> Tensor:
        """Nothing of z̄_i^p, which is a bias."""
        return torch.zeros(self.head.weight.shape[1])

    @classmethod
    def objective(cls, settings: Settings, terms: tuple[Term, ...]) -> tuple[Term, ...]:
        """With the mean regularisation."""
        assert isinstance(settings, FedDBESettings)
        o = settings
        return with_term(terms, MeanRegularization(term="mean_regularization", weight=o.kappa, mu=o.mu), o.name)

    @functools.cached_property
    def head(self) -> LinearHead:
        """Where g lies.

        Raises:
            ConfigError: it is not one linear layer with a bias.
        """
        return head_with_bias(self.layout, self.settings.name)

    def first_memory(self, received: Vectors) -> Memory:
        """z̄_i^p before the first round."""
        return {"own": torch.zeros_like(received["consensus"])}

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        """Begin with the global θ, the client's own z̄_i^p, and z̄_i^g at zeros."""
        own, consensus = memory["own"], received["consensus"]
        means = {"mean": torch.zeros_like(consensus), "consensus": consensus, "on": received["on"]}
        rates = self.personal_optimizer.init(own, "own")
        return {**super().start(received, memory, probe), "own": own, **means, **rates}

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        """A step of θ and z̄_i^p, and the running mean of the features before it.

        The model sees the features without z̄_i^p, and its logits are shifted by W z̄_i^p, which is the same for all
        samples: what W and z̄_i^p have of it follows from the gradient at that shift.
        """
        w, own, on = state["w"], state["own"], state["on"]
        weight, _ = self.head
        W, now = weight.view(w), on * own
        mean = moved(state["mean"], batch_mean(grad.features(w, batch), batch.mask), self.settings.mu)
        seen = {MEAN: state["mean"], CONSENSUS: state["consensus"], ON: on}
        with_means = batch._replace(more={**batch.more, **seen})
        g, of_shift = grad.shifted(w, with_means, (W * now.unsqueeze(-2)).sum(-1))
        each_logit = of_shift.unsqueeze(-1)
        more = weight.turned(each_logit * now.unsqueeze(-2)).flatten(-2)
        of_own = on * (W * each_logit).sum(-2)
        # Put together of its parts: a traced step copies a vector of which a part is changed in place.
        each = {slot: g[..., slot.start : slot.stop] for slot in self.layout.trained}
        parts = [part + more if slot == weight else part for slot, part in each.items()]
        moving = self.move_model({**state, "mean": mean}, torch.cat(parts, -1))
        return self.move(moving, of_own, "own", self.personal_optimizer)

    def move_model(self, state: State, g: Tensor) -> State:
        """One step of θ."""
        return self.move(state, g)

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        """Upload θ and z̄_i^g; keep z̄_i^p."""
        return {"w": state["w"], "mean": state["mean"]}, {"own": state["own"]}

    def only_uploads(self, received: Vectors) -> bool:
        """In the initial round."""
        return not received["on"].any()

    def for_unseen(self) -> ClientUpdate[Any]:
        """The steps of z̄_i^p."""
        return _Joining(self.settings, self.layout)

    def for_scoring(self) -> ClientUpdate[Any]:
        """No training is needed."""
        return _AsItIs(self.settings, self.layout)

    def personal(self, received: Vectors, memory: Memory) -> Tensor:
        """The present global model with W z̄_i^p in its head's bias."""
        w = received["w"].clone()
        weight, bias = self.head
        assert bias is not None
        w[..., bias.start : bias.stop] += (weight.view(w) * memory["own"].unsqueeze(-2)).sum(-1)
        return w


class _Joining(FedDBE):
    """z̄_i^p of a client that joins after training, while θ stands still."""

    sums: ClassVar[Mapping[str, Weighting]] = {}

    def move_model(self, state: State, g: Tensor) -> State:
        return state

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        return {}, {"own": state["own"]}


class _AsItIs(Untrained, FedDBE):
    """What the client has, in place of a round."""

    shows: ClassVar[Mapping[str, str]] = {"own": "own"}


def head_with_bias(layout: Layout, method: str) -> LinearHead:
    """The model's head.

    Raises:
        ConfigError: it is not one linear layer with a bias.
    """
    head = LinearHead.of(layout, method, "clients' own vectors go into its head's bias")
    if head.bias is None:
        raise ConfigError(
            f"strategy.name = {shown(method)}: clients' own vectors go into its head's bias, and the model's head has "
            "none; give it one"
        )
    return head
