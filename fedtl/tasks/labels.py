"""Tasks whose samples have labels: one of k classes, yes or no, or several labels at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.tasks.contract import LearningTask, Strata, Tally, as_column, how_many
from fedtl.tasks.outcomes import Outcomes

if TYPE_CHECKING:
    from torch import Tensor


class Classification(LearningTask):
    """One of k classes; a model gives k logits."""

    kind: ClassVar[str] = "classification"
    name: str = "classification"
    term: ClassVar[str] = "cross_entropy"
    labelled: ClassVar[bool] = True

    def tally(self, outputs: Tensor, y: Tensor) -> Tally:
        """Cross-entropy, and the largest logit's class; none where a logit is no number."""
        from torch.nn import functional as F

        correct = how_many((outputs.argmax(1) == y) & ~outputs.isnan().any(1))
        return Tally(len(y), float(F.cross_entropy(outputs, y, reduction="sum")), correct)


class Binary(LearningTask):
    """Yes or no, the labels 1 and 0; a model gives one logit, of yes.

    Metrics see the probabilities of no and of yes, so that those of two classes are what they are there.
    """

    kind: ClassVar[str] = "binary"
    name: str = "binary"
    term: ClassVar[str] = "binary_cross_entropy"
    labelled: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = ("auc",)

    def outputs(self, classes: int) -> int:
        """One."""
        if classes > 2:
            raise ConfigError(
                f"data.task = 'binary': the data have {classes} classes, and there must be two, 0 and 1; use "
                "'classification', or where data.name = 'files' say in data.positive which labels are a yes"
            )
        return 1

    def seen(self, classes: int) -> int:
        """Two, whichever of the two there is."""
        return 2

    def tally(self, outputs: Tensor, y: Tensor) -> Tally:
        """Cross-entropy; a positive logit is a yes, and one that is no number is neither."""
        from torch.nn import functional as F

        logit, yes = as_column(outputs), y.to(outputs.dtype)
        loss = float(F.binary_cross_entropy_with_logits(logit, yes, reduction="sum"))
        return Tally(len(y), loss, how_many(((logit > 0) == (y > 0)) & ~logit.isnan()))

    def predictions(self, outputs: Tensor, outcomes: Outcomes | None) -> Tensor:
        """The probabilities of no and of yes, ``[B, 2]``."""
        import torch

        logit = as_column(outputs).double()
        return torch.stack([torch.sigmoid(-logit), torch.sigmoid(logit)], -1)


class Multilabel(LearningTask):
    """Any of k labels at once, each a yes or no of its own; a model gives k logits.

    ``y`` is ``[n, k]`` of zeros and ones. Partitions by label divide by each sample's rarest label, or "none".
    """

    kind: ClassVar[str] = "multilabel"
    name: str = "multilabel"
    term: ClassVar[str] = "binary_cross_entropy"
    metrics: ClassVar[tuple[str, ...]] = ("macro_auc",)
    has_accuracy: ClassVar[bool] = False

    def outcomes(self, where: str, y: NDArray[Any], n: int) -> Outcomes:
        """Zeros and ones ``[n, k]``."""
        if y.ndim != 2 or len(y) != n or y.dtype.kind not in "biuf" or not np.isin(y, (0, 1)).all():
            raise ConfigError(
                f"{where} is {y.dtype} {list(y.shape)}; data.task = 'multilabel' needs [{n}, k] of zeros and ones"
            )
        return Outcomes(y.astype(np.float32), y.shape[1])

    def strata(self, outcomes: Outcomes) -> Strata:
        """Each sample's rarest label."""
        has, k = outcomes.values > 0, outcomes.outputs
        order = np.argsort(has.sum(0), kind="stable")
        first = order[has[:, order].argmax(1)]
        names = outcomes.names or tuple(map(str, range(k)))
        return Strata(np.where(has.any(1), first, k).astype(np.int64), k + 1, (*names, "none"))

    def tally(self, outputs: Tensor, y: Tensor) -> Tally:
        """Cross-entropy, the mean over a sample's labels."""
        from torch.nn import functional as F

        loss = F.binary_cross_entropy_with_logits(outputs, y, reduction="sum") / y.shape[1]
        return Tally(len(y), float(loss))

    def columns(self, outcomes: Outcomes) -> tuple[str, ...]:
        """Each label's probability."""
        return tuple(f"p({name})" for name in outcomes.names or range(outcomes.outputs))

    def predictions(self, outputs: Tensor, outcomes: Outcomes | None) -> Tensor:
        """Each label's probability, ``[B, k]``."""
        return outputs.double().sigmoid()
