"""Terms on unlabelled target data alone: source-free adaptation."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from fedtl import losses
from fedtl.losses.term import Term, TermContext
from fedtl.losses.unlabelled import entropies


class OnTarget(Term):
    """A term of the target's logits alone."""

    tasks: ClassVar[frozenset[str] | None] = frozenset({"classification"})

    needs: ClassVar[frozenset[str]] = frozenset({"target"})


class Entropy(OnTarget):
    """Entropy of the predictions; see :func:`fedtl.losses.entropy`."""

    per_sample: ClassVar[bool] = True

    def value(self, context: TermContext) -> Tensor:
        """The mean entropy."""
        return context.target.mean(entropies(context.target.logits))


class BNM(OnTarget):
    """Batch nuclear-norm maximisation; see :func:`fedtl.losses.bnm`."""

    variant: Literal["paper", "mean"] = "paper"

    def value(self, context: TermContext) -> Tensor:
        """Minus the nuclear norm of the predictions."""
        return losses.bnm(context.target.logits, variant=self.variant)


class MCC(OnTarget):
    """Minimum class confusion; see :func:`fedtl.losses.mcc`."""

    temperature: PositiveFloat = 2.5

    def value(self, context: TermContext) -> Tensor:
        """The mean confusion of pairs of classes."""
        return losses.mcc(context.target.logits, temperature=self.temperature)


class RobustPseudoLabels(OnTarget):
    """Generalised cross-entropy with the model's own labels (RPL, Rusak et al.).

    See :func:`fedtl.losses.generalized_cross_entropy`.
    """

    q: float = Field(0.8, gt=0, le=1)

    def value(self, context: TermContext) -> Tensor:
        """The mean over samples."""
        return losses.generalized_cross_entropy(context.target.logits, self.q)


class AdaBN(OnTarget):
    """Batch-norm statistics of the target's own (AdaBN, Li et al. 2016): a forward pass that trains nothing.

    The statistics follow the target's mini-batches because its samples pass through the model in training mode; with
    ``strategy.private = ["batch-norm"]`` each client keeps its own.
    """

    tasks: ClassVar[frozenset[str] | None] = None

    def idle(self, model: nn.Module) -> str | None:
        """Where there are no statistics that could follow the target."""
        norms = [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._NormBase)]
        if not any(norm.track_running_stats for norm in norms):
            return "the model has no batch-norm layer with running statistics"
        if not any(norm.track_running_stats and norm.training for norm in norms):
            return "all batch-norm layers are frozen"
        return None

    def value(self, context: TermContext) -> Tensor:
        """Zero."""
        return 0 * context.target.logits.sum()
