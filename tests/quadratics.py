"""Clients whose losses are quadratics, and a method's rounds on them: small enough to be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedtl.clients.contract import Memory
from fedtl.data.federation import Federation, Shards
from fedtl.grid.in_process import InProcessGrid
from fedtl.losses.term import Term, TermContext
from fedtl.server.scoring import Evaluation
from fedtl.strategies import read_strategy, strategy_type
from fedtl.strategies.contract import Strategy
from fedtl.wire import messages as m
from tests.parts import EngineKind, OneByOne, engine_of, receive_first, worker_of

Array = NDArray[np.float64]


H = np.array([[1.0, 2.0], [0.5, 1.0], [2.0, 0.25]])
A = np.array([[1.0, -1.0], [3.0, 0.5], [-2.0, 2.0]])
"""Curvatures and minima of three clients."""


def cross_entropies(w: Array) -> Array:
    """What an engine scores of these clients at ``w``: cross-entropies of the label 0 of what the model gives."""
    logits = 0.5 * H * (A - w) ** 2
    return np.log(np.exp(logits).sum(1)) - logits[:, 0]


class _Difference(nn.Module):
    """Of a sample that is a curvature h and a place a, the curvature and h (a - θ)² / 2 in each coordinate."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(d))

    def forward(self, x: Tensor) -> Tensor:
        h, a = x.chunk(2, -1)
        return 0.5 * h * (a - self.theta).square()


class _Sum(Term):
    def value(self, context: TermContext) -> Tensor:
        return context.mean(context.logits.sum(1))


class Quadratics:
    """Client i has f_i(θ) = ½ Σ h_i (θ - a_i)², once for each of its samples, which are all alike.

    Args:
        h: curvatures ``[N, d]``.
        a: minima ``[N, d]``.
        folder: of the clients' memories.
        method: ``strategy.name``.
        options: the method's; the mini-batches are of one sample.
        sizes: the clients' numbers of samples; 1 each if None.
        kind: of engine.
    """

    def __init__(
        self,
        h: Array,
        a: Array,
        folder: Path,
        method: str,
        sizes: Sequence[int] | None = None,
        kind: EngineKind = OneByOne,
        **options: Any,
    ) -> None:
        (N, d), sizes = a.shape, sizes or [1] * len(a)
        x = np.repeat(np.concatenate([np.broadcast_to(h, a.shape), a], 1), sizes, 0).astype(np.float32)
        one, n = np.ones((), np.float32), sum(sizes)
        none = Shards.from_sizes(np.empty(0, np.int64), np.zeros(N, np.int64))
        train = Shards.from_sizes(np.arange(n), np.array(sizes))
        own = Federation(x, np.zeros(n, np.int64), d, one, 0 * one, train, none, np.empty(0, np.int64))
        options = {"batch_size": 1, **options}
        engine = engine_of(own, _Difference(d), kind, [_Sum(term="sum")])
        settings = read_strategy({"name": method, **options})
        self.server: Strategy = strategy_type(method)(settings, seed=0, clients=N, evaluation=Evaluation(clients=0))
        self.server.scores_global = False
        receive_first(engine, method, **options)
        update = strategy_type(method).client_update(settings, engine.task.layout)
        self.worker, self.clients, self.w = worker_of(engine, update, folder), N, np.zeros(d, np.float32)

    def rounds(self, number: int, sampled: Sequence[Sequence[int]] = (), start: Array | None = None) -> list[Array]:
        """The global model after each of so many rounds.

        Args:
            number: of rounds.
            sampled: the clients of each round; all if empty.
            start: the first model ``[d]``; zeros if None.
        """
        if sampled:
            self.server.sample = lambda round: [*sampled[round - 1]]  # type: ignore[method-assign]
        w = self.w if start is None else start.astype(np.float32)
        seen = list[Array]()
        grid = InProcessGrid(self.worker, self.clients)
        self.server.start(grid, m.pack(w), number, on_round=lambda _, w: seen.append(w.astype(np.float64)))
        self.number = number
        return seen

    def memory(self, client: int) -> Memory:
        """What a client remembers at the end."""
        return self.worker.store.load(client, self.number + 1)
