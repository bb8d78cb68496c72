"""Samples by a stated law, for every task, with clients that differ as much as an option says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedtl.choice import ConfigError
from fedtl.data.dataset import Dataset
from fedtl.data.memory import need_memory
from fedtl.data.settings import DataChoice

STEEP = 3.0
"""What log-odds are multiplied by: most labels follow from the sample, and some do not."""

CONCENTRATION = 0.1
"""Of the Dirichlet distributions from which transitions between tokens are drawn: few tokens follow each."""


class Made(DataChoice):
    """Samples whose outcomes follow from d numbers by a law of each client's own.

    With W and U_i [d, k] of independent N(0, 1/d), client i's law is W_i = W + α U_i, its samples are x = v_i + ε with
    v_i ~ N(0, β² I) and ε ~ N(0, I), and z = x W_i is what the outcome follows from, for the task

    - ``classification``: y ~ softmax(3 z), of k classes; ``binary`` and ``multilabel``: each y ~ Bernoulli(σ(3 z));
    - ``regression``: y = 100 + 20 z + 5 N(0, 1);
    - ``survival``: an event after Exp(rate = e^z), not seen where it is later than Exp(rate = 1/2).

    For ``next_token``, samples are sequences of k tokens: client i's next token follows from the last by its
    transitions (1 - α) P + α P_i, whose rows are drawn from Dirichlet(0.1, ..., 0.1), with α at most 1.

    Attributes:
        clients: N.
        sizes: samples of each client.
        dimension: d; of sequences, their length.
        outputs: k; of ``binary`` and ``survival`` it is 1.
        alpha, beta: how much clients' laws, and samples, differ.
        seed: of the data; the run's seed only decides how they are split.
    """

    default_partition: ClassVar[dict[str, Any]] = {"name": "natural"}

    name: str = "made"
    clients: int = Field(10, gt=0)
    sizes: int = Field(100, gt=0)
    dimension: int = Field(10, ge=1)
    outputs: int | None = Field(None, ge=1)
    alpha: float = Field(0.5, ge=0, le=1e6)
    beta: float = Field(0.0, ge=0, le=1e6)
    seed: int = Field(0, ge=0)

    def without_use(self) -> Mapping[str, str]:
        """See :class:`~fedtl.choice.Choice`."""
        return {"beta": "data.task = 'next_token' has tokens"} if self.task.per_token else {}

    @property
    def k(self) -> int:
        """The number of outputs.

        Raises:
            ConfigError: the task has one alone, or there are too few.
        """
        kind = self.task.kind
        if kind in ("binary", "survival"):
            if self.outputs not in (None, 1):
                raise ConfigError(f"data.outputs = {self.outputs}: with data.task = {kind!r} there is 1; leave it out")
            return 1
        least = {"classification": 2, "next_token": 2}.get(kind, 1)
        k = self.outputs or {"regression": 1, "multilabel": 5}.get(kind, 10)
        if k < least:
            raise ConfigError(f"data.outputs = {k}: with data.task = {kind!r} there are {least} or more")
        return k

    def load(self) -> Dataset:
        """See :class:`~fedtl.data.settings.DataChoice`."""
        n = self.clients * self.sizes
        need_memory(f"data.clients = {self.clients}, data.sizes = {self.sizes}", 8 * n * (self.dimension + self.k))
        rng = np.random.default_rng(self.seed)
        x, y = self._sequences(rng) if self.task.per_token else self._samples(rng)
        owner = np.repeat(np.arange(self.clients), self.sizes)
        zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
        stored = x.astype(np.float32)
        if self.task.labelled:
            classes = max(self.k, 2)
            return Dataset(stored, y.astype(np.int64), classes, zero, one, owner)
        outcomes = self.task.outcomes("data.name = 'made': y", y, n)
        if self.task.per_token:
            outcomes = replace(outcomes, outputs=max(outcomes.outputs, self.k))
        return Dataset.of_outcomes(
            *(stored, self.task, [outcomes], zero, one), owner=owner, whole_numbers=self.task.per_token
        )

    def _samples(self, rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
        """Samples ``[n, d]`` and what is predicted of them."""
        d, k, m = self.dimension, self.k, self.sizes
        shared = rng.normal(size=(d, k)) / d**0.5
        blocks = []
        for _ in range(self.clients):
            law = shared + self.alpha * rng.normal(size=(d, k)) / d**0.5
            x = self.beta * rng.normal(size=d) + rng.normal(size=(m, d))
            blocks.append((x, self._outcomes(x @ law, rng)))
        x, y = (np.concatenate(parts) for parts in zip(*blocks))
        return x, y

    def _outcomes(self, z: NDArray[np.float64], rng: np.random.Generator) -> NDArray[Any]:
        """What follows from z ``[n, k]``."""
        kind = self.task.kind
        if kind == "regression":
            return 100 + 20 * z + 5 * rng.normal(size=z.shape)
        if kind == "survival":
            event, end = rng.exponential(np.exp(-z[:, 0])), rng.exponential(2.0, len(z))
            return np.stack([np.maximum(np.minimum(event, end), 1e-6), event <= end], axis=1)
        if kind == "classification":
            return np.asarray((STEEP * z + rng.gumbel(size=z.shape)).argmax(1))
        yes = rng.random(z.shape) < 1 / (1 + np.exp(-STEEP * z))
        return yes[:, 0] if kind == "binary" else yes

    def _sequences(self, rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
        """Tokens ``[n, T]``, and those that follow them."""
        k, length = self.k, self.dimension
        if self.alpha > 1:
            raise ConfigError(f"data.alpha = {self.alpha:g}: with data.task = 'next_token' it is at most 1")
        shared = rng.dirichlet(np.full(k, CONCENTRATION), k)
        sequences = []
        for _ in range(self.clients):
            law = (1 - self.alpha) * shared + self.alpha * rng.dirichlet(np.full(k, CONCENTRATION), k)
            ends = np.cumsum(law, axis=1)
            tokens = np.empty((self.sizes, length + 1), np.int64)
            tokens[:, 0] = rng.integers(k, size=self.sizes)
            for t in range(length):
                draws = rng.random(self.sizes)[:, None]
                tokens[:, t + 1] = np.minimum((draws > ends[tokens[:, t]]).sum(1), k - 1)
            sequences.append(tokens)
        tokens = np.concatenate(sequences)
        return tokens[:, :-1], tokens[:, 1:]
