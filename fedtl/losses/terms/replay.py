"""A term on samples that were synthesised out of the global model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from fedtl.losses.teaching import distillation
from fedtl.losses.term import Term, TermContext


class Replayed(Term):
    """Keep what the received model knows, by samples made of it; the table ``[replay]`` says how they are made.

    In rounds without such samples, and at clients that hold all classes, there is no such term.

    Attributes:
        loss: "labels": cross-entropy of the classes that the samples were made for; "soft": distillation of what the
            received model says of them.
        temperature: T of the latter.
    """

    tasks: ClassVar[frozenset[str] | None] = frozenset({"classification"})

    needs: ClassVar[frozenset[str]] = frozenset({"replay"})
    per_sample: ClassVar[bool] = True

    loss: Literal["labels", "soft"] = "labels"
    temperature: PositiveFloat = 2.0

    def without_use(self) -> Mapping[str, str]:
        """See :class:`~fedtl.losses.term.Term`."""
        other = {} if self.loss == "soft" else {"temperature": f"loss = {self.loss!r}"}
        return {**super().without_use(), **other}

    def wants(self) -> frozenset[str]:
        """The samples, and with "soft" the model that teaches."""
        return self.needs | {"model:global"} if self.loss == "soft" else self.needs

    def value(self, context: TermContext) -> Tensor:
        """The mean over the mini-batch of synthesised samples."""
        samples = context.stream("replay")
        if self.loss == "labels":
            return F.cross_entropy(samples.logits, context.tensor("replay_y"))
        return distillation(samples.logits, samples.under("global").logits, temperature=self.temperature)
