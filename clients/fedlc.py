"""FedLC: FedAvg with logits that are calibrated by each client's label counts."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedtl.choice import ConfigError
from fedtl.clients.contract import Gradient, Memory, Probe, State, Vectors
from fedtl.clients.label_counts import of_present
from fedtl.clients.settings import Settings
from fedtl.clients.sgd import SGD, SGDSettings
from fedtl.losses.batch import Batch
from fedtl.losses.objective import needs_of
from fedtl.losses.teaching import without_own_class
from fedtl.losses.term import Term, TermContext
from fedtl.losses.terms.classification import CrossEntropy


class FedLCSettings(SGDSettings):
    """Options of FedLC.

    Attributes:
        tau: τ, how much rare classes are calibrated.
        sum_over: the classes c of the sum: "all", or the "others" than a sample's own, as the paper writes it.
    """

    tau: float = Field(1.0, ge=0)
    sum_over: Literal["all", "others"] = "all"


class FedLC(SGD):
    """FedAvg with a calibrated cross-entropy (Zhang et al. 2022, arXiv 2209.00189).

    With n_c the client's number of training samples of class c, the objective sees the logits f_c(x) - τ n_c^(-1/4):
    on a sample of label y, -log(exp(f_y - τ n_y^(-1/4)) / Σ_c exp(f_c - τ n_c^(-1/4))). A class that the client lacks
    leaves its softmax, so that local training does not push it down. With τ = 0 this is FedAvg. Scores are of f(x).
    All terms of the objective that read the logits of labelled samples read the calibrated ones, those of other samples
    (a target, views, public samples) f(x); an objective that learns no labels in any phase is refused.

    Differs from the paper: its equation has the sum over the other classes c ≠ y alone, ``sum_over = "others"``. That
    loss falls without end, with a slope of -1 in f_y however sure the model is of a sample; so the sum is over all
    classes here, as in PFLlib, FL-bench and fluke. In FL-bench a class that is lacking counts 1e-8 samples, and so has
    the logit f_c - 100 τ; PFLlib counts the samples of all clients.
    """

    tasks: ClassVar[frozenset[str] | None] = frozenset({"classification"})

    settings_type: ClassVar[type[Settings]] = FedLCSettings
    settings: FedLCSettings

    @classmethod
    def objective(cls, settings: Settings, terms: tuple[Term, ...]) -> tuple[Term, ...]:
        """With the paper's sum, where that is asked for, in each cross-entropy.

        Raises:
            ConfigError: a cross-entropy has smoothed labels, of which that sum knows nothing.
        """
        assert isinstance(settings, FedLCSettings)
        return terms if settings.sum_over == "all" else tuple(map(_over_others, terms))

    @classmethod
    def idle_under(cls, settings: Settings, terms: tuple[Term, ...]) -> str | None:
        """Where no cross-entropy of labelled samples is trained, nor a term of somebody's own that may read logits."""
        assert isinstance(settings, FedLCSettings)
        others = settings.sum_over == "others"
        if not (settings.tau or others) or any(term.weight and _learns_labels(term) for term in terms):
            return None
        return "it calibrates the cross-entropy of labelled samples; add the term 'cross_entropy'"

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        """Begin at the global model; -τ n_c^(-1/4) ``[k]``."""
        state, tau = super().start(received, memory, probe), self.settings.tau
        if not tau:
            return state
        counts = probe.label_counts()
        return {**state, "margin": of_present(counts, -tau * counts.clamp(min=1).pow(-0.25))}

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        """One step of SGD on the calibrated objective."""
        if self.settings.tau and batch.labelled:
            margin = state["margin"]
            batch = batch.with_logits(torch.ones_like(margin[..., :1]), margin.unsqueeze(-2))
        return super().step(state, batch, grad)


class OverOthers(CrossEntropy):
    """log Σ_{c ≠ y} exp(f_c) - f_y, mean over the batch: the cross-entropy without the label's own class in its sum."""

    def value(self, context: TermContext) -> Tensor:
        """Where the client has no other class, those that it lacks are the others: the limit of small counts."""
        logits, labels = context.logits, context.labels
        others = without_own_class(logits, labels).logsumexp(-1)
        return self.weighted(context, others - logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1))


def _over_others(term: Term) -> Term:
    if type(term) is not CrossEntropy:
        return term
    if term.label_smoothing:
        raise ConfigError(
            f"strategy.sum_over = 'others': the term {term.key!r} has label_smoothing = {term.label_smoothing:g}, and "
            "that sum is of unsmoothed labels; leave one out"
        )
    return OverOthers.model_construct(**{name: getattr(term, name) for name in type(term).model_fields})


def _learns_labels(term: Term) -> bool:
    shipped = type(term).__module__.startswith("fedtl.")
    return isinstance(term, CrossEntropy) if shipped else "source" in needs_of(term)
