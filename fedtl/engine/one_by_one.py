"""Clients one after another."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedtl.clients.update import ClientUpdate, Memory, State
from fedtl.data.batches import TORCH, derived_seed
from fedtl.engine.engine import Engine
from fedtl.engine.module import flat, seed_torch
from fedtl.engine.parts import DATA, GRADIENT, METHOD
from fedtl.engine.task import REST, Failed, Outcome, Trained
from fedtl.losses.term import Batch


class OneByOne(Engine):
    """Clients one after another; the module's parameters are views into the vector being trained."""

    stacks: ClassVar[bool] = False

    def _train(
        self, update: ClientUpdate[Any], w: Tensor, clients: Sequence[int], memories: Sequence[Memory], round: int
    ) -> list[Outcome]:
        # What Python does for every client, it does for all at once: between two trainings, it would find its
        # own code and data out of the cache, and take three times as long.
        plans = [self._plan_of(update, client, round) for client in clients]
        losses = torch.zeros(len(clients), len(self.task.objective.names), dtype=torch.float64, device=w.device)
        each = list(losses)
        ended: list[_Ended | Failed] = []
        for client, memory, plan, own in zip(clients, memories, plans, each):
            try:
                ended.append(plan if isinstance(plan, Failed) else self._client(update, w, memory, plan, own))
            except Exception as error:
                ended.append(Failed.by(client, error))
        sums = losses.tolist()
        return [
            end
            if isinstance(end, Failed)
            else Trained(
                client,
                end.plan.samples,
                end.upload,
                end.memory,
                tuple(total / max(end.evaluations, 1) for total in of_client),
                len(end.plan.sizes),
            )
            for client, end, of_client in zip(clients, ended, sums)
        ]

    def _plan_of(self, update: ClientUpdate[Any], client: int, round: int) -> _Plan | Failed:
        try:
            order, sizes, n = self._plan(update, client, round)
        except Exception as error:
            return Failed.by(client, error)
        return _Plan(order, sizes, n, derived_seed(self.task.seed, TORCH, round, client))

    def _client(self, update: ClientUpdate[Any], w: Tensor, memory: Memory, plan: _Plan, losses: Tensor) -> _Ended:
        task, P = self.task, self.task.layout.parameters
        objective, binding, outputs, clock = task.objective, self.binding, self.outputs, self.clock
        seed_torch(plan.seed, w.device)
        evaluations = 0

        # Vectors need no gradient themselves, so nothing but the forward pass is taped.
        def grad(at: Tensor, batch: Batch) -> Tensor:
            nonlocal evaluations
            with clock.part(GRADIENT):
                binding.to(at)
                total, values = objective(
                    batch.y, batch.weight, lambda: outputs(batch.x), lambda: flat(binding.parameters)
                )
                gradients = torch.autograd.grad(total, binding.parameters, materialize_grads=True)
                losses.add_(torch.stack([value.detach() for value in values]))
                evaluations += 1
                return flat(gradients)

        def play(state: State, batch: Batch) -> State:
            return update.step(state, batch, grad)

        rest = binding.rest
        if task.rest:
            rest.copy_(self._first_rest(update, w, memory))
        start = w[:P].clone()
        own = {name: vector.clone() for name, vector in memory.items() if name != REST}
        with clock.part(METHOD):
            state = update.start(start, own or update.first_memory(start))
        for x, y in self._batches(plan.order, plan.sizes):
            state, recorded = self._steps(update, state, Batch(x, y, None), losses, rest, play)
            evaluations += recorded
        with clock.part(METHOD):
            upload, kept = update.finish(state)
        return _Ended(plan, self._joined(upload, rest), self._kept(kept, rest), evaluations)

    def _batches(self, order: NDArray[np.int64], sizes: NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor]]:
        """Mini-batches, as many of one size as follow each other and fit in memory: ``[T, B, ...]``."""
        start = 0
        for size, run in ((int(size), len([*same])) for size, same in itertools.groupby(sizes)):
            most = self._at_once(size)
            for first in range(0, run, most):
                steps = min(most, run - first)
                with self.clock.part(DATA):
                    batches = self.task.samples.batch(order[start : start + steps * size].reshape(steps, size))
                yield batches
                start += steps * size


class _Plan(NamedTuple):
    """A client's round: its samples in order, the mini-batches' sizes, how many samples it holds, a seed."""

    order: NDArray[np.int64]
    sizes: NDArray[np.int64]
    samples: int
    seed: int


class _Ended(NamedTuple):
    plan: _Plan
    upload: Tensor | None
    memory: Memory
    evaluations: int
