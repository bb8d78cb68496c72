"""Supervised terms of labels, and the L2 penalty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional as F

from fedtl.choice import ConfigError
from fedtl.data.federation import ClassCounts
from fedtl.losses.term import Sizes, Term, TermContext
from fedtl.tasks.contract import as_column

Balanced = Literal["balanced"]


class CrossEntropy(Term):
    """Cross-entropy of the labels, mean over the batch.

    Attributes:
        label_smoothing: ε of Szegedy et al. (2016), the share of a label that is spread over all classes.
        class_weights: what each sample's loss is multiplied by, one number for each class; "balanced": n / (k n_c),
            of all clients' n training samples, of which n_c are of class c, as scikit-learn has it; a class without
            any has weight 0. The mean stays one over samples, and scores stay without weights.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"source"})
    per_sample: ClassVar[bool] = True
    constant: ClassVar[bool] = True
    tasks: ClassVar[frozenset[str] | None] = frozenset({"classification"})

    label_smoothing: float = Field(0.0, ge=0, lt=1)
    class_weights: Balanced | tuple[PositiveFloat, ...] | None = None

    def brings(self) -> bool:
        """Whether it has weights of classes."""
        return self.class_weights is not None

    def frozen(self, sizes: Sizes) -> dict[str, nn.Module]:
        """The weights of classes, if there are such."""
        if self.class_weights is None:
            return {}
        if self.class_weights == "balanced":
            samples, each = counts_of(sizes, "class_weights")
            weights = torch.tensor([samples / (len(each) * n) if n else 0.0 for n in each])
        else:
            weights = as_many(self.class_weights, sizes, "class_weights")
        return {"class_weights": Numbers(weights)}

    def value(self, context: TermContext) -> Tensor:
        """-Σ_k q_k log softmax(logits)_k, averaged over the batch."""
        smoothing = self.label_smoothing
        if context.mask is None and self.class_weights is None:
            return F.cross_entropy(context.logits, context.labels, label_smoothing=smoothing)
        each = F.cross_entropy(context.logits, context.labels, reduction="none", label_smoothing=smoothing)
        return self.weighted(context, each)

    def weighted(self, context: TermContext, each: Tensor) -> Tensor:
        """The mean over the batch of the samples' losses ``[B]``, by the weights of their classes."""
        if self.class_weights is not None:
            each = each * self.module(context, "class_weights")()[context.labels]
        return context.mean(each)


class BinaryCrossEntropy(Term):
    """Cross-entropy of yes and no, mean over the batch and, where samples have several labels, over these.

    Attributes:
        pos_weight: what the loss of a yes is multiplied by, one number for all or one for each label; "balanced": of
            all clients' training samples, how many are a no for each that is a yes.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"source"})
    per_sample: ClassVar[bool] = True
    constant: ClassVar[bool] = True
    tasks: ClassVar[frozenset[str] | None] = frozenset({"binary", "multilabel"})

    pos_weight: Balanced | PositiveFloat | tuple[PositiveFloat, ...] = 1.0

    def brings(self) -> bool:
        """Whether a yes has another weight than a no."""
        return self.pos_weight != 1.0

    def frozen(self, sizes: Sizes) -> dict[str, nn.Module]:
        """The weights of yes, if there are such."""
        if self.pos_weight == 1.0:
            return {}
        if self.pos_weight == "balanced":
            samples, each = counts_of(sizes, "pos_weight")
            yes = each[1:] if sizes.classes == 1 else each
            if 0 in yes:
                raise ConfigError("pos_weight = 'balanced': a label has no yes among all training samples")
            weights = torch.tensor([(samples - n) / n for n in yes])
        else:
            numbers = self.pos_weight if isinstance(self.pos_weight, tuple) else (self.pos_weight,) * sizes.classes
            weights = as_many(numbers, sizes, "pos_weight")
        return {"pos_weight": Numbers(weights)}

    def value(self, context: TermContext) -> Tensor:
        """-(p y log σ(f) + (1 - y) log(1 - σ(f))), averaged over the batch."""
        logits, yes = context.logits, context.labels
        if yes.dim() < logits.dim():
            logits = as_column(logits)
        weight = None if self.pos_weight == 1.0 else self.module(context, "pos_weight")()
        each = F.binary_cross_entropy_with_logits(logits, yes.to(logits.dtype), pos_weight=weight, reduction="none")
        return context.mean(each if each.dim() == 1 else each.mean(-1))


class Numbers(nn.Module):
    """Numbers that stay as they are.

    Args:
        values: of any shape.
    """

    values: Tensor

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values)

    def forward(self) -> Tensor:
        """The numbers."""
        return self.values


def counts_of(sizes: Sizes, option: str) -> ClassCounts:
    """How many samples are trained on, and how many of each class.

    Raises:
        ConfigError: nobody says.
    """
    counts = sizes.counts()
    if counts is None or not counts.samples:
        raise ConfigError(
            f"{option} = 'balanced': it is not known how many samples of each class there are, which real clients do "
            "not tell; give numbers"
        )
    return counts


def as_many(weights: Sequence[float], sizes: Sizes, option: str) -> Tensor:
    """A weight for each of the model's outputs ``[k]``.

    Raises:
        ConfigError: there are more, or fewer.
    """
    if len(weights) != sizes.classes:
        raise ConfigError(f"{option} has {len(weights)} numbers; give {sizes.classes}, one for each")
    return torch.tensor(weights)


class L2(Term):
    """½‖w‖² over all trainable parameters: with weight µ, f_i becomes µ-strongly convex for a convex model."""

    needs: ClassVar[frozenset[str]] = frozenset({"samples"})
    per_sample: ClassVar[bool] = True
    beside: ClassVar[bool] = True

    def value(self, context: TermContext) -> Tensor:
        """½‖w‖²."""
        return 0.5 * context.w.square().sum()
