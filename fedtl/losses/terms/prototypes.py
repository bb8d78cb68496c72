"""Terms that know of other clients' data a mean for each class: no model need travel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor

from fedtl import losses
from fedtl.losses.aggregate import ClientAggregate
from fedtl.losses.context import Layers
from fedtl.losses.teaching import without_use_of
from fedtl.losses.term import Term, TermContext
from fedtl.losses.terms.layer import OfLayer
from fedtl.losses.terms.rows import one_by_one, over_samples

Average = Literal["samples", "clients"]


@dataclass(frozen=True)
class ClassMeans(ClientAggregate):
    """The mean of a layer's outputs for each class, over the source samples of all clients.

    Attributes:
        layer: whose outputs.
        average: over all samples alike ("samples"), or over clients' own means ("clients").
    """

    layer: str = "features"
    average: Average = "samples"

    def collect(self, blocks: Iterable[tuple[Layers, Tensor]]) -> Tensor:
        """``[2 + k + k·d]``: n, n·k, how many there are of each class, and their sums.

        The first two tell k to who does not know it, and are 0 at a client without samples.
        """
        counts, sums = torch.zeros(0), torch.zeros(0)
        for i, (layers, labels) in enumerate(blocks):
            logits = layers["logits"]
            rows = (logits.softmax(-1) if self.layer == "probabilities" else layers[self.layer]).to(torch.float64)
            if not i:
                counts, sums = rows.new_zeros(logits.shape[1]), rows.new_zeros(logits.shape[1], rows.shape[1])
            counts.index_add_(0, labels, torch.ones_like(rows[:, 0]))
            sums.index_add_(0, labels, rows)
        n = counts.sum()
        if self.average == "clients":
            sums, counts = sums / counts.clamp(min=1).unsqueeze(1), (counts > 0).to(counts.dtype)
        return torch.cat([n.view(1), n.view(1) * len(counts), counts, sums.reshape(-1)])

    def merge(self, before: Tensor | None, total: Tensor) -> Tensor:
        """``[k + k·d]``: whether a class has a mean, and the means; a class that nobody had keeps its last one."""
        k = round(float(total[1] / total[0]))
        counts, sums = total[2 : 2 + k], total[2 + k :].view(k, -1)
        here = counts > 0
        seen, means = here.to(total.dtype), sums / counts.clamp(min=1).unsqueeze(1)
        if before is not None:
            old = before.to(total.dtype)
            seen = torch.maximum(seen, old[:k])
            means = torch.where(here.unsqueeze(1), means, old[k:].view(k, -1))
        return torch.cat([seen, means.reshape(-1)])


class OfClasses(Term):
    """A term towards the mean of each sample's class; it begins when there is one, in the second round."""

    tasks: ClassVar[frozenset[str] | None] = frozenset({"classification"})

    needs: ClassVar[frozenset[str]] = frozenset({"source"})
    per_sample: ClassVar[bool] = True

    def means(self, context: TermContext, d: int) -> tuple[Tensor, Tensor]:
        """Whether a class has a mean ``[k]``, and the means ``[k, d]``."""
        sums = context.external(f"statistic:{self.key}")
        k = len(sums) // (1 + d)
        return sums[:k], sums[k:].view(k, d)


class Prototype(OfLayer, OfClasses):
    """Distance to the prototype of one's class (Tan et al. 2022, FedProto); see :func:`fedtl.losses.prototype`.

    After its training a client sends the mean representation of each of its classes by its own model; the server
    averages them, and sends them out in the next round. FedProto itself is this beside "cross_entropy" under the
    strategy "local", where nothing else travels; λ is the term's weight.

    Differs from the paper: its eq. 6 divides the average over samples by the number of clients once more; and it
    labels a sample by the nearest prototype, where here the head is scored.

    Attributes:
        layer: whose outputs are compared: "features", or as for "mmd".
        average: "samples", by how many samples of a class each client has, as in the paper; "clients", all alike, as
            in the authors' code.
    """

    average: Average = "samples"

    def statistic(self) -> ClientAggregate:
        """Each class's mean."""
        return ClassMeans(self.key, self.layer, self.average)

    def value(self, context: TermContext) -> Tensor:
        """The mean squared distance."""
        z = context.source.layer(self.layer)
        seen, prototypes = self.means(context, z.shape[1])
        distance = partial(_to_prototype, prototypes, seen)
        return over_samples(context.source, distance, z, context.labels)


def _to_prototype(prototypes: Tensor, seen: Tensor, z: Tensor, labels: Tensor) -> Tensor:
    return losses.prototype(z, prototypes, labels, seen=seen)


class ClassLogits(OfClasses):
    """Federated distillation by class (Jeong et al. 2018, FD): towards the mean logits of one's class.

    After its training a client sends its mean logits for each of its classes; the server averages them, and every
    client is taught their softmax. Under the strategy "local" nothing else travels.

    Differs from the paper: the mean is over all clients, the client itself among them, where the paper leaves it out;
    logits are those of the trained model, not collected in training; and KL stands for the paper's cross-entropy,
    whose gradient is the same.

    Attributes:
        temperature: T; the paper has none.
        scale_t2: whether the loss is multiplied by T².
        average: "clients", all alike, as in the paper; or "samples".
    """

    temperature: PositiveFloat = 1.0
    scale_t2: bool = True
    average: Average = "clients"

    def without_use(self) -> Mapping[str, str]:
        """See :class:`~fedtl.losses.term.Term`."""
        return {**super().without_use(), **without_use_of(self.temperature)}

    def statistic(self) -> ClientAggregate:
        """Each class's mean logits."""
        return ClassMeans(self.key, "logits", self.average)

    def value(self, context: TermContext) -> Tensor:
        """T² KL(class's mean ‖ model); samples of a class that nobody had count 0, and stay in the mean."""
        logits = context.source.logits
        seen, means = self.means(context, logits.shape[1])
        kl = partial(losses.distillation, temperature=self.temperature, scale_t2=self.scale_t2)
        each = one_by_one(kl, logits, means[context.labels])
        return context.source.mean(torch.where(seen[context.labels] > 0, each, 0))
