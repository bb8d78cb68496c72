"""Tasks whose samples have numbers to be predicted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.moments import Sums, moments_of, pooled
from fedtl.tasks.contract import LearningTask, Strata, Tally
from fedtl.tasks.outcomes import Outcomes

if TYPE_CHECKING:
    from torch import Tensor

STRATA = 10
"""Groups of samples with like outcomes, by their deciles."""


class Regression(LearningTask):
    """Numbers; a model gives one for each.

    A sample's loss is the mean of its squared errors, in the units in which models are trained; metrics are in the
    outcomes' own units. Partitions by label divide by deciles of the first number over all samples.

    Attributes:
        standardise: train towards (y - mean) / std, with mean and standard deviation over all clients' training and
            validation samples, which follow from each client's number, sum, and sum of squared differences.
    """

    kind: ClassVar[str] = "regression"
    name: str = "regression"
    term: ClassVar[str] = "squared_error"
    metrics: ClassVar[tuple[str, ...]] = ("rmse", "mae", "r2")
    has_accuracy: ClassVar[bool] = False

    standardise: bool = True

    def outcomes(self, where: str, y: NDArray[Any], n: int) -> Outcomes:
        """Numbers ``[n, m]``."""
        if y.dtype.kind not in "biuf" or y.shape[:1] != (n,) or y.ndim > 2 or y[:1].size == 0:
            raise ConfigError(f"{where} is {y.dtype} {list(y.shape)}; data.task = 'regression' needs [{n}] numbers")
        values = y.reshape(n, -1).astype(np.float32)
        if not np.isfinite(values).all():
            bad = ~np.isfinite(values).all(1)
            raise ConfigError(
                f"{where}: {bad.sum()} samples, the first at {np.argmax(bad)}, have outcomes that are no finite "
                "numbers; leave these samples out"
            )
        return Outcomes(values, values.shape[1])

    def strata(self, outcomes: Outcomes) -> Strata:
        """Deciles of the first number."""
        first = outcomes.values[:, 0]
        edges = np.unique(np.quantile(first, np.linspace(0, 1, STRATA + 1)[1:-1])) if len(first) else first
        digits = next(d for d in range(4, 18) if len({f"{edge:.{d}g}" for edge in edges}) == len(edges))
        ends = [f"{edge:.{digits}g}" for edge in edges]
        names = (f"to {ends[0]}", *(f"to {end}" for end in ends[1:]), f"above {ends[-1]}") if ends else ("all",)
        return Strata(np.searchsorted(edges, first).astype(np.int64), len(names), names)

    @property
    def summed(self) -> bool:
        """Whether they are standardised."""
        return self.standardise

    def sums(self, values: NDArray[Any]) -> Sums:
        """See :func:`sums_of`."""
        return sums_of(values)

    def with_sums(self, outcomes: Outcomes, each: Sequence[Sums]) -> Outcomes:
        """With mean and standard deviation of all clients' outcomes; a constant is divided by 1."""
        return standardised(outcomes, each)

    def tally(self, outputs: Tensor, y: Tensor) -> Tally:
        """The squared error, a mean over a sample's numbers."""
        return Tally(len(y), float((outputs.double() - y.double()).square().mean(-1).sum()))

    def columns(self, outcomes: Outcomes) -> tuple[str, ...]:
        """The numbers' names."""
        return outcomes.names or (("prediction",) if outcomes.outputs == 1 else super().columns(outcomes))

    def predictions(self, outputs: Tensor, outcomes: Outcomes | None) -> Tensor:
        """In the outcomes' own units, ``[B, m]``."""
        return in_units(outputs.double(), outcomes)

    def truth(self, y: Tensor, outcomes: Outcomes | None) -> Tensor:
        """Likewise."""
        return in_units(y.double(), outcomes)


def sums_of(values: NDArray[Any]) -> Sums:
    """A client's own, of its samples' outcomes ``[n, m]``: in any order, as they are added from the smallest on."""
    exact = np.sort(values.astype(np.float64), axis=0)
    return len(exact), exact.sum(0), np.square(exact - exact.mean(0)).sum(0)


def standardised(outcomes: Outcomes, each: Sequence[Sums]) -> Outcomes:
    """Outcomes of which models predict (values - mean) / std, with the clients' :func:`sums_of`."""
    if not each:
        return outcomes
    mean, std = moments_of(*pooled(each, np.float32), np.float32)
    return replace(outcomes, mean=mean.astype(np.float32), std=np.where(std > 0, std, 1.0).astype(np.float32))


class Survival(LearningTask):
    """When an event happens, of which some samples say only that it had not until then; a model gives one log-risk.

    ``y`` is ``[n, 2]``: the time, above 0, and 1 for an event or 0 where it was not seen until then (Cox 1972). The
    loss is the negative logarithm of the partial likelihood of a client's samples, by Breslow's rule for ties, divided
    by their number; in training it is that of the mini-batch (Kvamme et al. 2019). Partitions by label divide by
    whether there was an event.
    """

    kind: ClassVar[str] = "survival"
    name: str = "survival"
    term: ClassVar[str] = "cox"
    metrics: ClassVar[tuple[str, ...]] = ("c_index",)
    has_accuracy: ClassVar[bool] = False
    whole: ClassVar[bool] = True

    def outcomes(self, where: str, y: NDArray[Any], n: int) -> Outcomes:
        """Times and events ``[n, 2]``."""
        if y.dtype.kind not in "biuf" or y.shape != (n, 2):
            raise ConfigError(
                f"{where} is {y.dtype} {list(y.shape)}; data.task = 'survival' needs [{n}, 2]: times, and 1 for an "
                "event or 0 where none was seen"
            )
        values = y.astype(np.float32)
        wrong = ~(np.isfinite(values[:, 0]) & (values[:, 0] > 0) & np.isin(values[:, 1], (0, 1)))
        if wrong.any():
            time, event = values[np.argmax(wrong)]
            raise ConfigError(
                f"{where}: sample {np.argmax(wrong)} has the time {time:g} and the event {event:g}; times are above 0, "
                "events 0 or 1"
            )
        return Outcomes(values, 1)

    def strata(self, outcomes: Outcomes) -> Strata:
        """Whether there was an event."""
        return Strata(outcomes.values[:, 1].astype(np.int64), 2, ("no event", "event"))

    def fitted(self, outcomes: Outcomes, held: Iterable[NDArray[np.int64]]) -> Outcomes:
        """As they are.

        Raises:
            ConfigError: there is no event to learn from.
        """
        if not any(outcomes.values[rows, 1].any() for rows in held):
            raise ConfigError("data.task = 'survival': there is no event among all training samples")
        return outcomes

    def tally(self, outputs: Tensor, y: Tensor) -> Tally:
        """The partial likelihood of all samples."""
        return Tally(len(y), len(y) * float(sorted_cox(outputs[:, 0].double(), y.double())))

    def columns(self, outcomes: Outcomes) -> tuple[str, ...]:
        """Log-risks."""
        return ("log-risk",)

    def predictions(self, outputs: Tensor, outcomes: Outcomes | None) -> Tensor:
        """Log-risks ``[B, 1]``."""
        return outputs.double()


def cox(risk: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """-(1/n) Σ_{i: event} (r_i - log Σ_{j: t_j ≥ t_i} exp r_j), of log-risks ``[n]`` and ``y`` ``[n, 2]``.

    Args:
        risk: r.
        y: times t and events.
        mask: ``[n]`` 1 for a sample and 0 for padding; None where all are samples.
    """
    import torch

    time, event = y[:, 0], y[:, 1]
    at_risk = time.unsqueeze(0) >= time.unsqueeze(1)
    if mask is not None:
        # Padding is at nobody's risk but its own, as a logarithm of nothing would have no gradient.
        itself = torch.eye(len(risk), dtype=torch.bool, device=risk.device)
        at_risk, event = (at_risk & (mask > 0).unsqueeze(0)) | itself, event * mask
    logs = torch.where(at_risk, risk.unsqueeze(0), -torch.inf).logsumexp(1)
    n = len(risk) if mask is None else mask.sum()
    return -(event * (risk - logs)).sum() / n


def sorted_cox(risk: Tensor, y: Tensor) -> Tensor:
    """The same in memory that grows with n alone, for many samples at once."""
    import torch

    order = y[:, 0].argsort(descending=True, stable=True)
    risk, time, event = risk[order], y[order, 0], y[order, 1]
    _, ties = torch.unique_consecutive(time, return_counts=True)
    last = ties.cumsum(0).repeat_interleave(ties) - 1  # of those with the same time
    return -(event * (risk - risk.logcumsumexp(0)[last])).sum() / len(risk)


def in_units(values: Tensor, outcomes: Outcomes | None) -> Tensor:
    """What a model predicts, in the outcomes' own units."""
    import torch

    if outcomes is None or outcomes.mean is None or outcomes.std is None:
        return values
    mean, std = (torch.from_numpy(each).to(values) for each in (outcomes.mean, outcomes.std))
    return values * std + mean
