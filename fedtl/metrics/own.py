"""A metric of the user's own: a function."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fedtl.choice import ConfigError, cause
from fedtl.metrics.contract import Labels, Metric, Probabilities, Values


class Own(Metric):
    """A function of labels ``[n]`` and probabilities ``[n, k]``, of tokens as of samples; greater is better.

    Pooled it is where clients are simulated; real clients show no predictions.
    """

    exact = False

    def __init__(self, function: Callable[[Labels, Probabilities], float], path: str) -> None:
        self.function, self.path = function, path

    def of(self, labels: Labels, probabilities: Probabilities) -> Values:
        """What the function says.

        Raises:
            ConfigError: it raises, or gives something other than a number.
        """
        key = f"evaluate.metrics = {self.path!r}"
        try:
            score = self.function(labels, probabilities)
            several = np.size(score) != 1
            value = np.nan if several else float(np.asarray(score).item())
        except Exception as error:
            raise ConfigError(f"{key}: {cause(error)}") from error
        if several:
            raise ConfigError(f"{key}: it gives an array of shape {list(np.shape(score))}, and should give one number")
        return np.asarray(value)
