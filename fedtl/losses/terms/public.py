"""What clients say of public samples, and a term that learns from it: only logits travel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from fedtl.losses.aggregate import ClientAggregate
from fedtl.losses.context import Layers
from fedtl.losses.teaching import distillation
from fedtl.losses.term import Term, TermContext


@dataclass(frozen=True)
class PublicLogits(ClientAggregate):
    """A client's logits of all public samples; the server makes of them the mean over the round's clients.

    The models may differ in all but the number of classes.
    """

    on: ClassVar[str] = "public"

    def collect(self, blocks: Iterable[tuple[Layers, Tensor]]) -> Tensor:
        """``[1 + n·k]``: 1, and the logits sample by sample."""
        logits = torch.cat([layers["logits"] for layers, _ in blocks]).to(torch.float64)
        return torch.cat([logits.new_ones(1), logits.reshape(-1)])

    def merge(self, before: Tensor | None, total: Tensor) -> Tensor:
        """The consensus ``[n·k]``: the mean over those who sent."""
        return total[1:] / total[0]


class Consensus(Term):
    """FedMD: each client's model is led to the mean of all models' logits on public samples.

    Li and Wang, "FedMD: Heterogenous Federated Learning via Model Distillation", 2019 (arXiv 1910.03581). With
    ``strategy.name = "local"`` no model travels, as in the paper. The consensus of a round is of the models that the
    round before left; in a run's first round there is none.

    Differs from the paper: a client digests the consensus and revisits its own samples in the same steps, on the sum
    of both losses, where the paper does first the one and then the other; public samples are drawn for each
    mini-batch, where the paper draws some for each round; and the paper first trains each model on labelled public
    samples, which here have no labels.

    Attributes:
        loss: "mae": the mean absolute difference of logits, as in the authors' code; "mse": the squared one; "kl":
            distillation.
        temperature: T of "kl".
    """

    tasks: ClassVar[frozenset[str] | None] = frozenset({"classification"})

    needs: ClassVar[frozenset[str]] = frozenset({"public"})
    per_sample: ClassVar[bool] = True

    loss: Literal["mae", "mse", "kl"] = "mae"
    temperature: PositiveFloat = 1.0

    def without_use(self) -> Mapping[str, str]:
        """See :class:`~fedtl.losses.term.Term`."""
        other = {} if self.loss == "kl" else {"temperature": f"loss = {self.loss!r}"}
        return {**super().without_use(), **other}

    def statistic(self) -> ClientAggregate:
        """All public samples' logits."""
        return PublicLogits(self.key)

    def value(self, context: TermContext) -> Tensor:
        """The mean over the mini-batch of public samples."""
        logits = context.stream("public").logits
        agreed = context.external(f"statistic:{self.key}").view(-1, logits.shape[1])[context.tensor("public_at")]
        if self.loss == "kl":
            return distillation(logits, agreed, temperature=self.temperature)
        return F.l1_loss(logits, agreed) if self.loss == "mae" else F.mse_loss(logits, agreed)
