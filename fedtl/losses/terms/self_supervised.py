"""Self-supervised terms: two random views of a sample should agree, and not all samples should look alike.

They need no labels: with ``data.labelled_fraction = 0`` and a table ``[views]`` clients train on images alone. The
model's head then keeps its first random numbers, so a run's accuracies mean nothing; ``fedtl probe RUN`` scores the
features.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from fedtl import losses
from fedtl.losses.batch import Sizes
from fedtl.losses.moments import unit
from fedtl.losses.term import TermContext
from fedtl.losses.terms.layer import OfLayer


class TwoViews(OfLayer):
    """A term between z_a and z_b ``[n, d]``, what a projector makes of a layer's outputs for two views.

    The views are of a client's unlabelled samples, where it has such beside those that it trains on, else of these.

    Attributes:
        layer: what the projector sees: "features" (the head's inputs), or a submodule's name.
        projector: the sizes of its linear layers, with ReLU between them; [] for none, so that the layer's own
            outputs are compared.
        batch_norm: whether a batch-norm stands before each ReLU, and linear layers have no bias. It has no running
            statistics, which nobody would read: the projector is there for training alone.
        shared: whether the projector travels and is averaged as the model is; else each client keeps its own.
        least: samples of a mini-batch that trains. A smaller one, as an epoch's last may be, has the value 0, and no
            part in the mean that is recorded: a few samples say little of what all have in common, and correlations
            over them have steep gradients.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"views"})

    projector: tuple[PositiveInt, ...] = (256, 256, 256)
    batch_norm: bool = True
    shared: bool = True
    least: int = Field(2, ge=2)

    def without_use(self) -> Mapping[str, str]:
        """See :class:`~fedtl.losses.term.Term`."""
        none = {} if self.projector else dict.fromkeys(("batch_norm", "shared"), "there is no projector")
        return {**super().without_use(), **none}

    def modules(self, sizes: Sizes) -> dict[str, nn.Module]:
        """The projector, if any."""
        if not self.projector:
            return {}
        widths = [sizes.layers[self.layer], *self.projector]
        parts: list[nn.Module] = []
        for before, after in pairwise(widths):
            # A batch-norm takes away what a bias adds, and so do the losses that come with one.
            parts.append(nn.Linear(before, after, bias=not self.batch_norm))
            parts += [nn.BatchNorm1d(after, track_running_stats=False)] if self.batch_norm else []
            parts.append(nn.ReLU())
        return {"projector": nn.Sequential(*parts[: -2 if self.batch_norm else -1])}

    def private(self) -> frozenset[str]:
        """The projector, where it is not shared."""
        return frozenset({"projector"} if self.projector and not self.shared else ())

    def value(self, context: TermContext) -> Tensor:
        """:meth:`between` the two views."""
        a, b = (context.stream(name).layer(self.layer) for name in ("view_a", "view_b"))
        if not self.there(context):
            return 0 * (a + b).sum()
        if self.projector:
            project = self.module(context, "projector")
            a, b = project(a), project(b)
        return self.between(a, b)

    def there(self, context: TermContext) -> bool:
        """Whether the mini-batch is one that trains."""
        return len(context.stream("view_a").x) >= self.least

    def between(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """The loss of two views' embeddings ``[n, d]``."""
        raise NotImplementedError


class BarlowTwins(TwoViews):
    """Redundancy reduction (Barlow Twins, Zbontar et al. 2021); see :func:`fedtl.losses.barlow_twins`.

    Differs from the paper: its projector has 3 x 8192 after ResNet-50's 2048 features; its optimiser is LARS with
    batches of 2048. Give ``eps = 0.00001`` to have its code's.
    """

    lam: float = Field(0.0051, ge=0)
    eps: float = Field(0.0, ge=0)

    def between(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """How far the cross-correlation is from the identity."""
        return losses.barlow_twins(z_a, z_b, lam=self.lam, eps=self.eps)


class InvariantSpreading(TwoViews):
    """Invariant and spreading instance features (Ye et al. 2019); see :func:`fedtl.losses.invariant_spreading`.

    The embedding is one linear layer of 128, as in the paper, scaled to length 1.

    Differs from the paper: both are random views, as in its code, where the paper compares the image itself with a
    view. The paper's loss is a sum over the mini-batch, so its gradient grows with it: choose ``weight`` so.
    """

    projector: tuple[PositiveInt, ...] = (128,)
    batch_norm: bool = False
    tau: PositiveFloat = 0.1
    variant: Literal["paper", "authors"] = "paper"

    def between(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """How hard it is to tell which sample a view is of."""
        return losses.invariant_spreading(unit(z_a), unit(z_b), tau=self.tau, variant=self.variant)


class SimCLR(TwoViews):
    """Contrastive learning (SimCLR, Chen et al. 2020), the loss NT-Xent; see :func:`fedtl.losses.nt_xent`.

    Differs from the paper: its projector's hidden layer is as wide as the features, ResNet-50's 2048; its optimiser
    is LARS with batches of 4096, and there are so many others to tell a view from.
    """

    projector: tuple[PositiveInt, ...] = (128, 128)
    batch_norm: bool = False
    tau: PositiveFloat = 0.5

    def between(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """How hard it is to find a view's partner."""
        return losses.nt_xent(z_a, z_b, tau=self.tau)


class VICReg(TwoViews):
    """Variance, invariance and covariance (VICReg, Bardes et al. 2022); see :func:`fedtl.losses.vicreg`.

    Differs from the paper: its projector has 3 x 8192 after ResNet-50's 2048 features; its optimiser is LARS with
    batches of 2048.
    """

    lam: float = Field(25.0, ge=0)
    mu: float = Field(25.0, ge=0)
    nu: float = Field(1.0, ge=0)
    eps: PositiveFloat = 1e-4
    variant: Literal["paper", "authors"] = "paper"

    def between(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """The weighted sum of the three."""
        return losses.vicreg(z_a, z_b, lam=self.lam, mu=self.mu, nu=self.nu, eps=self.eps, variant=self.variant)
