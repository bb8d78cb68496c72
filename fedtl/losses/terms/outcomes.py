"""Supervised terms of what is no label: numbers, tokens, times of events."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from fedtl.losses.term import Term, TermContext
from fedtl.tasks.numbers import cox
from fedtl.tasks.tokens import IGNORED


class OfNumbers(Term):
    """A mean over samples, and over each one's numbers."""

    needs: ClassVar[frozenset[str]] = frozenset({"source"})
    per_sample: ClassVar[bool] = True
    tasks: ClassVar[frozenset[str] | None] = frozenset({"regression"})

    def each(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The loss of each number ``[B, m]``."""
        raise NotImplementedError

    def value(self, context: TermContext) -> Tensor:
        """The mean."""
        return context.mean(self.each(context.logits, context.labels).mean(-1))


class SquaredError(OfNumbers):
    """The mean squared error, (f - y)²."""

    def each(self, outputs: Tensor, y: Tensor) -> Tensor:
        """(f - y)²."""
        return (outputs - y).square()


class AbsoluteError(OfNumbers):
    """The mean absolute error, |f - y|."""

    def each(self, outputs: Tensor, y: Tensor) -> Tensor:
        """|f - y|."""
        return (outputs - y).abs()


class Huber(OfNumbers):
    """Huber's loss (1964): ½ (f - y)² where the error is at most δ, else δ (|f - y| - δ / 2).

    Attributes:
        delta: δ, in the units in which models are trained.
    """

    delta: float = Field(1.0, gt=0)

    def each(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Quadratic, then linear."""
        return F.huber_loss(outputs, y, reduction="none", delta=self.delta)


class TokenCrossEntropy(Term):
    """Cross-entropy of each next token, mean over the batch's tokens, of which padding is none."""

    needs: ClassVar[frozenset[str]] = frozenset({"source"})
    per_sample: ClassVar[bool] = True
    tasks: ClassVar[frozenset[str] | None] = frozenset({"next_token"})

    def value(self, context: TermContext) -> Tensor:
        """-Σ log softmax(logits)_y over tokens, divided by their number."""
        logits, y, there = context.logits, context.labels, self._tokens(context)
        each = F.cross_entropy(logits.flatten(0, 1), y.clamp(min=0).flatten(), reduction="none").view(y.shape)
        return (each * there).sum() / there.sum().clamp(min=1)

    def there(self, context: TermContext) -> Tensor:
        """Whether there is a token to predict."""
        return self._tokens(context).sum().clamp(max=1)

    def _tokens(self, context: TermContext) -> Tensor:
        """``[B, T]``: 1 for a token to predict."""
        logits, y = context.logits, context.labels
        there = (y != IGNORED).to(logits.dtype)
        return there if context.mask is None else there * context.mask.unsqueeze(-1)


class Cox(Term):
    """-log of Cox's partial likelihood of the mini-batch, divided by its samples; see the task ``survival``."""

    needs: ClassVar[frozenset[str]] = frozenset({"source"})
    tasks: ClassVar[frozenset[str] | None] = frozenset({"survival"})

    def value(self, context: TermContext) -> Tensor:
        """By :func:`fedtl.tasks.numbers.cox`."""
        return cox(context.logits[:, 0], context.labels, context.mask)
