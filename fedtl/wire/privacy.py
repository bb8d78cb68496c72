"""Local differential privacy of what a client uploads, and what it comes to."""

from __future__ import annotations

import math

from pydantic import Field, PositiveFloat

from fedtl.choice import Options


class Privacy(Options):
    """Local differential privacy of uploads, by Flower's ``LocalDpMod``, under ``fedtl deploy`` alone.

    The update w_i - w is clipped to norm C, and to each number of it is added normal noise of standard deviation
    sensitivity * sqrt(2 ln(1.25/delta)) / epsilon: the Gaussian mechanism (Dwork and Roth 2014, Theorem A.1), once for
    each round that a client takes part in. What several rounds spend together is for the user to account for. The
    formula is proved for epsilon < 1 alone; :attr:`exact_delta` is what one round really has.

    Attributes:
        clipping_norm: C.
        sensitivity: in the L2 norm; 2 C if not given, which protects all of a client's data.
        epsilon, delta: the budget of one round.
    """

    clipping_norm: PositiveFloat
    sensitivity: PositiveFloat | None = None
    epsilon: PositiveFloat
    delta: float = Field(gt=0, lt=1)

    @property
    def distance(self) -> float:
        """How far apart two uploads are taken to be whose data differ."""
        return self.sensitivity or 2 * self.clipping_norm

    @property
    def deviation(self) -> float:
        """The noise's standard deviation."""
        return self.distance * math.sqrt(2 * math.log(1.25 / self.delta)) / self.epsilon

    @property
    def exact_delta(self) -> float:
        """The delta that one upload has at this epsilon (Balle and Wang 2018, Theorem 8)."""
        from scipy.stats import norm

        ratio = self.distance / self.deviation
        first = norm.cdf(ratio / 2 - self.epsilon / ratio)
        # A huge number times a tiny one.
        second = math.exp(self.epsilon + norm.logcdf(-ratio / 2 - self.epsilon / ratio))
        return float(first - second)

    def longest(self, numbers: int) -> float:
        """How long an update of so many numbers can be: clipped, and with noise of its usual length and some more."""
        return self.clipping_norm + self.deviation * (math.sqrt(numbers) + 6)

    def __str__(self) -> str:
        """What it comes to."""
        return (
            f"noise of standard deviation {self.deviation:.4g} on each number of an upload; a round that a client "
            f"takes part in has epsilon = {self.epsilon:g} and delta = {self.exact_delta:.2g}, for its upload"
        )
