"""Adversarial terms: a discriminator, part of the model's vector, tells source from target features."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar, Literal

from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.func import functional_call

from fedtl import losses
from fedtl.losses.batch import Sizes
from fedtl.losses.term import TermContext
from fedtl.losses.terms.discrepancy import BOTH
from fedtl.losses.terms.layer import OfLayer


class Adversarial(OfLayer):
    """A term with a discriminator: linear layers with ReLU between, and one logit.

    Attributes:
        layer: what the discriminator sees: "features", or as for "mmd".
        hidden: the discriminator's hidden layers.
        shared: whether it travels and is averaged as the model is; else each client keeps its own.
    """

    needs: ClassVar[frozenset[str]] = BOTH
    beside: ClassVar[bool] = True

    hidden: tuple[PositiveInt, ...] = (100,)
    shared: bool = True

    def modules(self, sizes: Sizes) -> dict[str, nn.Module]:
        """The discriminator."""
        widths = [self.inputs(sizes), *self.hidden]
        parts = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
        return {"discriminator": nn.Sequential(*parts, nn.Linear(widths[-1], 1))}

    def inputs(self, sizes: Sizes) -> int:
        """How many numbers the discriminator sees of a sample."""
        return sizes.layers[self.layer]

    def private(self) -> frozenset[str]:
        """The discriminator, where it is not shared."""
        return frozenset() if self.shared else frozenset({"discriminator"})


class Reversed(Adversarial):
    """One whose gradient is reversed between discriminator and model.

    Attributes:
        lam: λ, what the reversed gradient is multiplied by: a number, or "dann", the paper's
            2 / (1 + exp(-gamma p)) - 1 of the round's progress p, which the server sends.
        gamma: of that.
        reduction: how the two domains' losses are put together; see :func:`fedtl.losses.domain_adversarial`.
    """

    needs: ClassVar[frozenset[str]] = BOTH | {"progress"}

    lam: Literal["dann"] | PositiveFloat = "dann"
    gamma: PositiveFloat = 10.0
    reduction: Literal["sum", "mean", "pooled"] = "sum"

    def without_use(self) -> Mapping[str, str]:
        """See :class:`~fedtl.losses.term.Term`."""
        fixed = {} if self.lam == "dann" else {"gamma": f"lam = {self.lam:g}"}
        return {**super().without_use(), **fixed}

    def strength(self, context: TermContext) -> Tensor | float:
        """λ."""
        return losses.dann_lambda(context.progress, self.gamma) if self.lam == "dann" else self.lam

    def judged(self, context: TermContext, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The discriminator's logits, behind a gradient reversal."""
        judge, lam = self.module(context, "discriminator"), self.strength(context)
        return judge(losses.gradient_reversal(source, lam)), judge(losses.gradient_reversal(target, lam))


class DANN(Reversed):
    """Domain-adversarial training (Ganin et al. 2016); see :func:`fedtl.losses.domain_adversarial`."""

    def value(self, context: TermContext) -> Tensor:
        """The discriminator's loss."""
        source, target = context.source.layer(self.layer), context.target.layer(self.layer)
        return losses.domain_adversarial(*self.judged(context, source, target), reduction=self.reduction)


class CDAN(Reversed):
    """Conditional adversarial training (Long et al. 2018): the discriminator sees features ⊗ predictions.

    Attributes:
        entropy: whether samples are weighted by how certain the model is of them (CDAN+E). The weights are part of
            the game: the model ascends through them as through what the discriminator sees.
    """

    tasks: ClassVar[frozenset[str] | None] = frozenset({"classification"})

    entropy: bool = True

    def idle(self, model: nn.Module) -> str | None:
        """Never: it sees predictions, too."""
        return None

    def inputs(self, sizes: Sizes) -> int:
        """Features times classes."""
        return sizes.layers[self.layer] * sizes.classes

    def value(self, context: TermContext) -> Tensor:
        """The discriminator's loss."""
        both = (context.source, context.target)
        seen = [losses.conditioned(stream.layer(self.layer), stream.logits) for stream in both]
        lam = self.strength(context)
        weights = [
            losses.gradient_reversal(losses.entropy_weights(stream.logits), lam) if self.entropy else None
            for stream in both
        ]
        source, target = self.judged(context, *seen)
        return losses.domain_adversarial(
            source, target, reduction=self.reduction, source_weights=weights[0], target_weights=weights[1]
        )


class ADDA(Adversarial):
    """Adversarial discriminative adaptation, second phase (Tzeng et al. 2017, eq. 7-9).

    The source encoder is the global model that the phase began with, and does not move; the discriminator learns to
    tell its source features from the target features of the present model, the mapping M_t, which learns to have
    them mistaken. No gradient reaches the head, so the model is scored as C ∘ M_t. Give it a phase of its own,
    after one of cross-entropy.

    Differs from the paper: discriminator and mapping step at once, each on the other as it was before, where the
    authors' code takes turns within a mini-batch.

    Attributes:
        reduction: of the discriminator's losses on source and target.
    """

    needs: ClassVar[frozenset[str]] = BOTH | {"model:phase"}

    reduction: Literal["sum", "mean"] = "sum"

    def value(self, context: TermContext) -> Tensor:
        """The discriminator's loss, and the mapping's."""
        judge = self.module(context, "discriminator")
        source = context.source.under("phase").layer(self.layer)
        target = context.target.layer(self.layer)
        learns = losses.adda_discriminator(judge(source), judge(target.detach()), reduction=self.reduction)
        still = {name: tensor.detach() for name, tensor in judge.named_parameters()}
        fooled: Tensor = functional_call(judge, still, (target,))
        return learns + losses.adda_mapping(fooled)
