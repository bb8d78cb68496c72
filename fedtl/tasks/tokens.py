"""The task of language models: each token from those before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedtl.choice import ConfigError
from fedtl.tasks.contract import LearningTask, Tally, how_many
from fedtl.tasks.outcomes import Outcomes

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100
"""Stands for a place without a token to predict, as torch's cross-entropy has it."""


class NextToken(LearningTask):
    """The token after each of a sequence's tokens; a model gives k logits for each, ``[B, T, k]``.

    Samples are whole numbers ``[n, T]``, and so is ``y``, ``[n, T]``: the token that follows, -100 where none is to be
    predicted; -100 also stands where ``y`` is :attr:`padding`. All sums are over tokens: a client of twice the tokens
    counts twice. Partitions by label see one group.

    Attributes:
        vocabulary: k; the largest token and one, if not given.
        padding: a token that is none, and is never predicted.
    """

    kind: ClassVar[str] = "next_token"
    name: str = "next_token"
    term: ClassVar[str] = "token_cross_entropy"
    metrics: ClassVar[tuple[str, ...]] = ("perplexity",)
    per_token: ClassVar[bool] = True

    vocabulary: int | None = Field(None, gt=0)
    padding: int | None = Field(None, ge=0)

    def outcomes(self, where: str, y: NDArray[Any], n: int) -> Outcomes:
        """Tokens ``[n, T]``."""
        if y.dtype.kind not in "iu" or y.ndim != 2 or len(y) != n:
            raise ConfigError(
                f"{where} is {y.dtype} {list(y.shape)}; data.task = 'next_token' needs [{n}, T] whole numbers, the "
                "token that follows each"
            )
        tokens = y.astype(np.int64)
        least, most = int(tokens.min(initial=0)), int(tokens.max(initial=0))
        if least < 0 and not np.isin(tokens[tokens < 0], (IGNORED,)).all():
            raise ConfigError(f"{where} has the token {least}; tokens begin at 0, and {IGNORED} is none")
        if self.vocabulary is not None and most >= self.vocabulary:
            raise ConfigError(f"data.task.vocabulary = {self.vocabulary}: {where} has the token {most}")
        if self.padding is not None:
            tokens = np.where(tokens == self.padding, IGNORED, tokens)
        return Outcomes(tokens, self.vocabulary or most + 1)

    def seen_by_metrics(self, outputs: Tensor, y: Tensor, outcomes: Outcomes | None) -> tuple[Tensor, Tensor]:
        """The tokens to be predicted ``[n]``, and their probabilities ``[n, k]``, one sequence after another."""
        there = y != IGNORED
        return y[there], self.predictions(outputs[there], outcomes)

    def tally(self, outputs: Tensor, y: Tensor) -> Tally:
        """Cross-entropy, and the likeliest token, over the tokens that are to be predicted."""
        from torch.nn import functional as F

        there = y != IGNORED
        right = (outputs.argmax(-1) == y) & ~outputs.isnan().any(-1)
        loss = F.cross_entropy(outputs.flatten(0, 1), y.flatten(), ignore_index=IGNORED, reduction="sum")
        return Tally(how_many(there), float(loss), how_many(right & there))
