"""Supervised terms."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from fedtl.losses.term import Term, TermContext


class CrossEntropy(Term):
    """Cross-entropy of the labels, mean over the batch.

    Attributes:
        label_smoothing: ε of Szegedy et al. (2016), the share of a label that is spread over all classes.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"source"})
    per_sample: ClassVar[bool] = True

    label_smoothing: float = Field(0.0, ge=0, lt=1)

    def value(self, context: TermContext) -> Tensor:
        """-Σ_k q_k log softmax(logits)_k, averaged over the batch."""
        smoothing = self.label_smoothing
        if context.mask is None:
            return F.cross_entropy(context.logits, context.labels, label_smoothing=smoothing)
        return context.mean(
            F.cross_entropy(context.logits, context.labels, reduction="none", label_smoothing=smoothing)
        )


class L2(Term):
    """½‖w‖² over all trainable parameters: with weight µ, f_i becomes µ-strongly convex for a convex model."""

    needs: ClassVar[frozenset[str]] = frozenset({"samples"})
    per_sample: ClassVar[bool] = True

    def value(self, context: TermContext) -> Tensor:
        """½‖w‖²."""
        return 0.5 * context.w.square().sum()
