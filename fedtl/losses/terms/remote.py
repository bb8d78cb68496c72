"""Terms that align a client's target data with moments of other clients' source data: only moments travel."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from fedtl import losses
from fedtl.losses.aggregate import ClientAggregate
from fedtl.losses.context import Layers
from fedtl.losses.term import TermContext
from fedtl.losses.terms.discrepancy import INTERVALS, nothing, squashed
from fedtl.losses.terms.layer import OfLayer


@dataclass(frozen=True)
class Powers(ClientAggregate):
    """Σ 1, Σ f, Σ f², … Σ f^K of squashed features, or Σ 1, Σ f, Σ f fᵀ."""

    layer: str = "features"
    moments: int = 2
    squash: str = "none"
    cross: bool = False

    def collect(self, blocks: Iterable[tuple[Layers, Tensor]]) -> Tensor:
        """``[1 + K·d]``, or ``[1 + d + d·d]`` with the products of different features."""
        sums = []
        for layers, _ in blocks:
            f = layers[self.layer] if self.layer != "probabilities" else layers["logits"].softmax(-1)
            f = squashed(f.to(torch.float64), self.squash)
            parts = (
                [f.sum(0), (f.T @ f).reshape(-1)]
                if self.cross
                else [f.pow(k).sum(0) for k in range(1, self.moments + 1)]
            )
            sums.append(torch.cat([f.new_full((1,), len(f)), *parts]))
        return torch.stack(sums).sum(0)

    def merge(self, before: Tensor | None, total: Tensor) -> Tensor:
        """Means over all samples behind the sums; the sums of a round replace those before."""
        n = total[0]
        mean = total[1:] / n
        if self.cross:
            d = int((-1 + (1 + 4 * len(mean)) ** 0.5) / 2)
            mu, second = mean[:d], mean[d:].view(d, d)
            covariance = (second - mu[:, None] * mu[None]) * n / (n - 1).clamp(min=1)
            return torch.cat([n[None], mu, covariance.reshape(-1)])
        raw = mean.view(self.moments, -1)
        return torch.cat([n[None], central(raw).reshape(-1)])


def central(raw: Tensor) -> Tensor:
    """Mean and central moments ``[K, d]`` from raw moments ``[K, d]``: Σ_j C(k, j) E[f^j] (-µ)^(k-j)."""
    mu, rows = raw[0], [raw[0]]
    for k in range(2, len(raw) + 1):
        coefficients = [torch.tensor(float(math.comb(k, j)), dtype=raw.dtype) for j in range(k + 1)]
        powers = [torch.ones_like(mu), *raw[:k]]
        rows.append(sum((c * powers[j] * (-mu) ** (k - j) for j, c in enumerate(coefficients)), torch.zeros_like(mu)))
    return torch.stack(rows)


class Remote(OfLayer):
    """A term of target clients; what it aligns with, clients with source data send.

    Attributes:
        layer: "features" (the head's inputs), "logits", "probabilities", or a submodule's name.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"target"})
    beside: ClassVar[bool] = True

    def moments_of(self, context: TermContext) -> Tensor:
        """What the server made of the source clients' sums."""
        return context.external(f"statistic:{self.key}")


class RemoteCORAL(Remote):
    """CORAL to the mean and covariance of source data at other clients.

    Of a source client only Σ1, Σf and Σffᵀ leave it; the server makes of all clients' sums µ and C. See
    :func:`fedtl.losses.coral_to_moments`. After Sun & Saenko 2016.

    Attributes:
        variant: of the covariances' distance, "paper" or "mean", as for :func:`fedtl.losses.coral`.
    """

    variant: Literal["paper", "mean"] = "mean"

    def statistic(self) -> ClientAggregate:
        """Σ1, Σf, Σffᵀ of the source."""
        return Powers(self.key, self.layer, cross=True)

    def value(self, context: TermContext) -> Tensor:
        """The squared distance of the target's mean and covariance from the source's."""
        target, moments = context.target.layer(self.layer), self.moments_of(context)
        if not self.there(context):
            return nothing(target)
        d = target.shape[1]
        mean, covariance = moments[1 : 1 + d], moments[1 + d :].view(d, d)
        return losses.coral_to_moments(target, mean, covariance, variant=self.variant)

    def there(self, context: TermContext) -> bool:
        """Whether there are two samples, or more: one alone has no covariance."""
        return len(context.target.x) > 1


class RemoteCMD(Remote):
    """Central moment discrepancy to source data at other clients, which send sums of powers of their features.

    See :func:`fedtl.losses.cmd_to_moments`. After Zellinger et al. 2017.

    Attributes:
        moments: K, how many are compared.
        squash: what brings features into a bounded interval, as the paper's theory needs it.
    """

    moments: PositiveInt = 5
    squash: Literal["sigmoid", "tanh", "none"] = "sigmoid"

    def statistic(self) -> ClientAggregate:
        """Σ1, Σf, …, Σf^K of the source's squashed features."""
        return Powers(self.key, self.layer, self.moments, self.squash)

    def value(self, context: TermContext) -> Tensor:
        """The sum of the moments' distances."""
        target = squashed(context.target.layer(self.layer), self.squash)
        moments = self.moments_of(context)[1:].view(self.moments, -1)
        return losses.cmd_to_moments(target, moments, interval=INTERVALS[self.squash])
