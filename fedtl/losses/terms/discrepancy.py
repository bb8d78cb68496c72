"""Terms that measure how far apart the source's and the target's features lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from fedtl import losses
from fedtl.losses.discrepancy import DSAN
from fedtl.losses.term import Term, TermContext
from fedtl.losses.terms.layer import OfLayer, still_features

BOTH = frozenset({"source", "target"})

PAIRS = ("linear", "circular")
"""Estimators that take samples in pairs, as many of the one domain as of the other."""


def nothing(*layers: Tensor) -> Tensor:
    """0, with a gradient of zeros: where a mini-batch is too small for a loss."""
    return torch.stack([0 * layer.sum() for layer in layers]).sum()


def has_pairs(context: TermContext) -> bool:
    """Whether each domain has two samples or more in the mini-batch: one alone has no distribution."""
    return min(len(context.source.x), len(context.target.x)) > 1


Bandwidths = Literal["median", "mean"] | tuple[PositiveFloat, ...]


class Between(OfLayer):
    """A term between one layer's outputs for the source and for the target.

    Attributes:
        layer: "features" (the head's inputs), "logits", "probabilities", or a submodule's name.
    """

    needs: ClassVar[frozenset[str]] = BOTH
    beside: ClassVar[bool] = True

    def value(self, context: TermContext) -> Tensor:
        """:meth:`between` the two domains; 0 for a mini-batch of a single sample, which has no distribution."""
        source, target = context.source.layer(self.layer), context.target.layer(self.layer)
        return self.between(source, target) if self.there(context) else nothing(source, target)

    def there(self, context: TermContext) -> bool:
        """Whether both domains have two samples, or more."""
        return has_pairs(context)

    def between(self, source: Tensor, target: Tensor) -> Tensor:
        """The loss of two batches of features ``[n, d]`` and ``[m, d]``."""
        raise NotImplementedError


class MMD(Between):
    """Maximum mean discrepancy with several kernels (DAN); see :func:`fedtl.losses.mmd`.

    ``multipliers`` are five kernels here, not DAN's 33, which cost four times as much; give them to have them.
    """

    bandwidths: Bandwidths = "median"
    multipliers: tuple[PositiveFloat, ...] = DSAN
    estimator: Literal["biased", "unbiased", "linear", "circular"] = "biased"
    kernels: Literal["mean", "sum"] = "mean"

    def without_use(self) -> Mapping[str, str]:
        """See :class:`~fedtl.losses.term.Term`."""
        named = {} if isinstance(self.bandwidths, str) else {"multipliers": "bandwidths are numbers"}
        return {**super().without_use(), **named}

    def between(self, source: Tensor, target: Tensor) -> Tensor:
        """The squared MMD; pairs are made of as many samples as the smaller mini-batch has."""
        n = min(len(source), len(target)) if self.estimator in PAIRS else None
        return losses.mmd(
            source[:n],
            target[:n],
            bandwidths=self.bandwidths,
            multipliers=self.multipliers,
            estimator=self.estimator,
            kernels=self.kernels,
        )


class JointMMD(Term):
    """MMD of the joint distribution of several layers (JAN); see :func:`fedtl.losses.joint_mmd`.

    Attributes:
        joint: the layers.
        bandwidths: of all of them.
    """

    needs: ClassVar[frozenset[str]] = BOTH
    beside: ClassVar[bool] = True

    joint: tuple[str, ...] = Field(("features", "probabilities"), min_length=1)
    bandwidths: Literal["median", "mean"] = "median"
    estimator: Literal["biased", "unbiased", "linear", "circular"] = "biased"

    def layers(self) -> frozenset[str]:
        """Those that are compared."""
        return frozenset(self.joint)

    def idle(self, model: nn.Module) -> str | None:
        """As of a term of one layer."""
        return still_features(model) if self.layers() == {"features"} and self.weight else None

    def value(self, context: TermContext) -> Tensor:
        """The squared joint MMD."""
        source, target = ([stream.layer(layer) for layer in self.joint] for stream in (context.source, context.target))
        if not self.there(context):
            return nothing(*source, *target)
        n = min(len(source[0]), len(target[0]))
        if self.estimator in PAIRS:
            source, target = ([layer[:n] for layer in layers] for layers in (source, target))
        return losses.joint_mmd(source, target, bandwidths=self.bandwidths, estimator=self.estimator)

    def there(self, context: TermContext) -> bool:
        """Whether both domains have two samples, or more."""
        return has_pairs(context)


class LocalMMD(OfLayer):
    """MMD class by class, the target's classes as the model predicts them (DSAN); see :func:`fedtl.losses.local_mmd`.

    The paper lets its weight grow: ``weight = 0.5`` with ``ramp = "dann"`` is its authors' code, which takes γ = 10;
    DeepDA's is 1.

    Attributes:
        layer: as for "mmd".
    """

    tasks: ClassVar[frozenset[str] | None] = frozenset({"classification"})

    needs: ClassVar[frozenset[str]] = BOTH
    beside: ClassVar[bool] = True

    bandwidths: Bandwidths = "mean"
    kernels: Literal["mean", "sum"] = "sum"

    def value(self, context: TermContext) -> Tensor:
        """The sum over classes."""
        source, target = context.source.layer(self.layer), context.target.layer(self.layer)
        logits = context.target.logits
        return losses.local_mmd(
            source, target, context.labels, logits, bandwidths=self.bandwidths, kernels=self.kernels
        )

    def there(self, context: TermContext) -> Tensor:
        """Whether a class is among the source's labels and the target's predicted ones."""
        logits = context.target.logits
        return (context.labels.unsqueeze(1) == logits.argmax(1)).any().to(logits.dtype)


class CORAL(Between):
    """Distance of the covariances (Deep CORAL); see :func:`fedtl.losses.coral`."""

    variant: Literal["paper", "mean"] = "paper"

    def between(self, source: Tensor, target: Tensor) -> Tensor:
        """The squared distance."""
        return losses.coral(source, target, variant=self.variant)


class CMD(Between):
    """Central moment discrepancy of squashed features; see :func:`fedtl.losses.cmd`.

    Attributes:
        moments: K, how many.
        squash: what brings the features into an interval, as the paper's hidden layer does: "sigmoid" or "tanh";
            "none" where the layer's outputs lie in 0..1 already.
    """

    moments: PositiveInt = 5
    squash: Literal["sigmoid", "tanh", "none"] = "sigmoid"

    def between(self, source: Tensor, target: Tensor) -> Tensor:
        """The sum of the moments' distances."""
        source, target = squashed(source, self.squash), squashed(target, self.squash)
        return losses.cmd(source, target, moments=self.moments, interval=INTERVALS[self.squash])


INTERVALS = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "none": (0.0, 1.0)}


def squashed(features: Tensor, how: str) -> Tensor:
    """Features in an interval, one of :data:`INTERVALS`."""
    return features if how == "none" else getattr(torch, how)(features)


class Associative(Term):
    """Association of source and target by a round trip (Haeusser et al.); see :func:`fedtl.losses.associative`."""

    tasks: ClassVar[frozenset[str] | None] = frozenset({"classification"})

    needs: ClassVar[frozenset[str]] = BOTH | {"features"}

    walker: float = Field(1.0, ge=0)
    visit: float = Field(1.0, ge=0)

    def idle(self, model: nn.Module) -> str | None:
        """As of a term of one layer."""
        return still_features(model) if self.weight else None

    def value(self, context: TermContext) -> Tensor:
        """Walker and visit loss."""
        source, target = context.source.features, context.target.features
        return losses.associative(source, target, context.labels, walker=self.walker, visit=self.visit)
