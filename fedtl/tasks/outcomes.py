"""What is predicted of samples where that is no label: numbers, several labels, tokens, times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError


@dataclass(frozen=True)
class Outcomes:
    """What a model is to predict of each sample.

    Attributes:
        values: ``[n, ...]``, float32 or, of tokens, int64; in the units of whoever measured them.
        outputs: how many numbers a model gives for a sample, or for each of its tokens.
        mean, std: ``[...]``, where a model predicts (values - mean) / std; None where it predicts values themselves.
        names: a word for each of the outputs, or none at all.
    """

    values: NDArray[np.float32] | NDArray[np.int64]
    outputs: int
    mean: NDArray[np.float32] | None = None
    std: NDArray[np.float32] | None = None
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: NDArray[np.int64] | slice) -> Outcomes:
        """Those of some samples."""
        return replace(self, values=self.values[rows])

    def scaled(self) -> NDArray[np.float32] | NDArray[np.int64]:
        """What models predict, ``[n, ...]``."""
        if self.mean is None or self.std is None:
            return self.values
        return ((self.values - self.mean) / self.std).astype(np.float32)

    def called(self, names: Sequence[str]) -> Outcomes:
        """The same with these names, where they are as many as outputs."""
        return replace(self, names=tuple(names)) if len(names) == self.outputs else self

    def none_of(self, n: int) -> Outcomes:
        """Zeros for so many samples that have none."""
        return replace(self, values=np.zeros((n, *self.values.shape[1:]), self.values.dtype))


def joined(parts: Sequence[Outcomes]) -> Outcomes:
    """Several groups' outcomes as one, with the largest group's outputs.

    Raises:
        ConfigError: they are of different kinds.
    """
    if len(parts) == 1:
        return parts[0]
    for part in parts[1:]:
        if part.values.shape[1:] != parts[0].values.shape[1:]:
            raise ConfigError(
                f"what is to be predicted of a sample has shape {list(parts[0].values.shape[1:])} in one part of the "
                f"data, and {list(part.values.shape[1:])} in another; it must have one shape in all"
            )
    outputs = max(part.outputs for part in parts)
    return replace(parts[0], values=np.concatenate([part.values for part in parts]), outputs=outputs)
