"""What a task is: what is predicted of a sample, by how many outputs, and how that is scored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import Choice
from fedtl.moments import Sums
from fedtl.tasks.outcomes import Outcomes

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[Any]


@dataclass(frozen=True)
class Tally:
    """How well a model does on some samples, in sums over them.

    Attributes:
        count: what loss and accuracy are means over: samples, or tokens.
        loss_sum: the sum of its losses.
        correct: how many it predicts correctly; None where a prediction is neither right nor wrong.
    """

    count: int
    loss_sum: float
    correct: int | None = None

    def __add__(self, other: Tally) -> Tally:
        """Of both groups of samples together."""
        correct = None if self.correct is None or other.correct is None else self.correct + other.correct
        return Tally(self.count + other.count, self.loss_sum + other.loss_sum, correct)


@dataclass(frozen=True)
class Strata:
    """Groups of samples alike, by which partitions divide where samples have no label.

    Attributes:
        y: each sample's ``[n]`` int64, from 0.
        classes: how many there are.
        names: a word for each.
    """

    y: NDArray[np.int64]
    classes: int
    names: tuple[str, ...]


class LearningTask(Choice):
    """What clients learn to predict, as ``data.task`` names it; subclasses add options.

    Attributes:
        name: a row of the registry, or ``"module:Class"`` of a class of one's own, which derives from one of these.
    """

    kind: ClassVar[str]
    """The row of the registry that it is, or derives from, whose metrics, methods and terms are its own."""

    term: ClassVar[str]
    """Of the local objective, where a config names none."""

    metrics: ClassVar[tuple[str, ...]] = ()
    """That are scored where a config names none."""

    has_accuracy: ClassVar[bool] = True
    """Whether a prediction is right or wrong."""

    whole: ClassVar[bool] = False
    """Whether the loss of samples depends on others, so that a client's are scored all at once."""

    per_token: ClassVar[bool] = False
    """Whether a model gives outputs for each token of a sample, ``[B, T, k]``."""

    labelled: ClassVar[bool] = False
    """Whether samples have a label from 0 to k - 1, and no other outcome."""

    @property
    def of_classes(self) -> bool:
        """Whether what metrics see is one of k classes, as labels and tokens are."""
        return self.labelled or self.per_token

    def outputs(self, classes: int) -> int:
        """How many numbers a model gives for a sample of one of so many classes, where samples are labelled."""
        return classes

    def seen(self, classes: int) -> int:
        """How many numbers metrics see of a prediction of one of so many classes, where samples are labelled."""
        return classes

    def output_shape(self, n: int, sample: tuple[int, ...], outputs: int) -> tuple[int, ...]:
        """The shape of a model's output for ``n`` samples of a shape, of so many numbers each."""
        return (n, sample[0], outputs) if self.per_token else (n, outputs)

    def outcomes(self, where: str, y: Array, n: int) -> Outcomes:
        """What was saved as ``y`` as the outcomes of ``n`` samples, where samples are not labelled.

        Its own values it must give again, as they are what is saved of samples that have been read.

        Raises:
            ConfigError: it cannot be that; ``where`` begins the message.
        """
        raise NotImplementedError

    def strata(self, outcomes: Outcomes) -> Strata:
        """What partitions and pictures take for the samples' labels."""
        n = len(outcomes.values)
        return Strata(np.zeros(n, np.int64), 1, ("all",))

    @property
    def summed(self) -> bool:
        """Whether what models predict follows from all clients' outcomes, by way of their :meth:`sums`."""
        return False

    def sums(self, values: Array) -> Sums:
        """A client's own sums over its outcomes ``[n, m]``, in whichever order these stand."""
        raise NotImplementedError

    def with_sums(self, outcomes: Outcomes, each: Sequence[Sums]) -> Outcomes:
        """Outcomes as models are to predict them, given the :meth:`sums` of all clients that have any."""
        return outcomes

    def fitted(self, outcomes: Outcomes, held: Iterable[NDArray[np.int64]]) -> Outcomes:
        """The same as models are to predict them.

        Args:
            outcomes: of all samples.
            held: each client's training and validation samples; one client at least.
        """
        if not self.summed:
            return outcomes
        return self.with_sums(outcomes, [self.sums(outcomes.values[rows]) for rows in held if len(rows)])

    def tally(self, outputs: Tensor, y: Tensor) -> Tally:
        """How well a model's outputs ``[B, ...]`` predict ``y`` ``[B, ...]``."""
        raise NotImplementedError

    def predictions(self, outputs: Tensor, outcomes: Outcomes | None) -> Tensor:
        """The outputs ``[B, ...]`` as metrics see them, ``[B, k]`` float64."""
        return outputs.double().softmax(-1)

    def seen_by_metrics(self, outputs: Tensor, y: Tensor, outcomes: Outcomes | None) -> tuple[Tensor, Tensor]:
        """What is true, and what is predicted, of a model's outputs ``[B, ...]`` as metrics see it: n rows each."""
        return self.truth(y, outcomes), self.predictions(outputs, outcomes)

    def columns(self, outcomes: Outcomes) -> tuple[str, ...]:
        """What the numbers are called that metrics see of a prediction, ``[k]``, where samples are not labelled."""
        return outcomes.names or tuple(f"prediction {i}" for i in range(outcomes.outputs))

    def truth(self, y: Tensor, outcomes: Outcomes | None) -> Tensor:
        """``y`` ``[B, ...]`` as metrics see it."""
        return y


def nothing_to_score(task: LearningTask) -> Tally:
    """Of no samples."""
    return Tally(0, 0.0, 0 if task.has_accuracy else None)


def as_column(outputs: Tensor) -> Tensor:
    """One output a sample, ``[B]``, of ``[B, 1]`` or ``[B]``."""
    return outputs.squeeze(-1) if outputs.dim() > 1 else outputs


def how_many(marked: Tensor) -> int:
    """How many are marked, in a tensor of booleans."""
    return int(marked.count_nonzero())
