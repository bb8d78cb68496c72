"""How the learning rate changes over the rounds."""

from __future__ import annotations

import math

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from fedtl.choice import Choice


class Schedule(Choice):
    """A factor of the learning rate for each round, as ``strategy.schedule`` names it; subclasses write ``decay``.

    Attributes:
        warmup: rounds in which the factor grows linearly to 1 before the schedule itself begins.
        warmup_from: the factor of the first of them; 1 / (warmup + 1) if not given.
    """

    warmup: NonNegativeInt = 0
    warmup_from: float | None = Field(None, gt=0, le=1)

    @model_validator(mode="after")
    def _warms_up(self) -> Schedule:
        if self.warmup_from is not None and not self.warmup:
            raise ValueError(f"warmup_from = {self.warmup_from:g} needs warmup, the number of rounds, as 5")
        return self

    @property
    def varies(self) -> bool:
        """Whether the factor may be another than 1."""
        return True

    @property
    def follows_rounds(self) -> bool:
        """Whether a factor depends on how many rounds there are in all."""
        return True

    def factor(self, round: int, rounds: int) -> float:
        """The factor in a round.

        Args:
            round: from 1, in the run or in its phase.
            rounds: how many there are in all.
        """
        before = round - 1
        if before >= self.warmup:
            return self.decay(before - self.warmup, rounds - self.warmup)
        first = 1 / (self.warmup + 1) if self.warmup_from is None else self.warmup_from
        return first + (1 - first) * before / self.warmup

    def decay(self, before: int, rounds: int) -> float:
        """The factor after ``before`` of ``rounds`` rounds, those of the warm-up not counted."""
        raise NotImplementedError


class Constant(Schedule):
    """The same rate in all rounds after the warm-up."""

    @property
    def varies(self) -> bool:
        """Only in a warm-up."""
        return self.warmup > 0

    @property
    def follows_rounds(self) -> bool:
        """No."""
        return False

    def decay(self, before: int, rounds: int) -> float:
        """1."""
        return 1.0


class Step(Schedule):
    """Times gamma after every so many rounds, as ``torch.optim.lr_scheduler.StepLR``.

    Attributes:
        every: rounds between two changes.
        gamma: the factor.
    """

    every: PositiveInt
    gamma: float = Field(0.1, gt=0, le=1)

    @property
    def follows_rounds(self) -> bool:
        """No."""
        return False

    def decay(self, before: int, rounds: int) -> float:
        """γ^⌊t / every⌋."""
        return self.gamma ** (before // self.every)


class Exponential(Schedule):
    """Times gamma after every round, as ``torch.optim.lr_scheduler.ExponentialLR``.

    Attributes:
        gamma: the factor.
    """

    gamma: float = Field(gt=0, le=1)

    @property
    def follows_rounds(self) -> bool:
        """No."""
        return False

    def decay(self, before: int, rounds: int) -> float:
        """γ^t."""
        return self.gamma**before


class Cosine(Schedule):
    """Half a cosine from 1 to a minimum (Loshchilov and Hutter 2017, arXiv 1608.03983, eq. 5, without restarts).

    As ``torch.optim.lr_scheduler.CosineAnnealingLR`` as far as ``rounds``; after that the minimum stays.

    Attributes:
        rounds: after so many the factor is at its minimum; all that follow the warm-up if not given.
        minimum: of the factor.
    """

    rounds: PositiveInt | None = None
    minimum: float = Field(0.0, ge=0, lt=1)

    @property
    def follows_rounds(self) -> bool:
        """Where it does not name its own rounds."""
        return self.rounds is None

    def decay(self, before: int, rounds: int) -> float:
        """Minimum + (1 - minimum) (1 + cos(π t / T)) / 2."""
        share = min(before / (self.rounds or rounds), 1.0)
        return self.minimum + (1 - self.minimum) * (1 + math.cos(math.pi * share)) / 2


class Cyclical(Schedule):
    """Down a line from 1 to a minimum, over and over (Izmailov et al. 2018, arXiv 1803.05407, SWA, section 3.1).

    In round i of the cycles, from 1, the factor is 1 - t + t · minimum with t = (mod(i - 1, every) + 1) / every.
    Stochastic weight averages take the model at the end of each cycle: for ``fedsam``, ``swa_from`` is ``begin`` +
    ``every``, and ``swa_every`` is ``every``.

    Attributes:
        every: c, rounds in a cycle.
        minimum: the factor in a cycle's last round.
        begin: rounds with the factor 1 before the first cycle.
    """

    every: int = Field(ge=2)
    minimum: float = Field(ge=0, lt=1)
    begin: NonNegativeInt = 0

    @property
    def follows_rounds(self) -> bool:
        """No."""
        return False

    def decay(self, before: int, rounds: int) -> float:
        """1 - t + t · minimum."""
        if before < self.begin:
            return 1.0
        t = ((before - self.begin) % self.every + 1) / self.every
        return 1 - t + t * self.minimum
