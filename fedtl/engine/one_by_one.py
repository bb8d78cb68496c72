"""Clients one after another."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from fedtl.clients.update import ClientUpdate, Memory, State
from fedtl.engine.engine import Engine
from fedtl.engine.module import flat
from fedtl.engine.parts import DATA, GRADIENT, METHOD
from fedtl.engine.plan import Plan
from fedtl.engine.task import OURS, Failed, Given, Outcome, Trained
from fedtl.losses.batch import NO_STREAMS, Batch


class OneByOne(Engine):
    """Clients one after another; the module's parameters are views into the vector being trained."""

    stacks: ClassVar[bool] = False

    def _train(
        self,
        update: ClientUpdate[Any],
        w: Tensor,
        clients: Sequence[int],
        memories: Sequence[Memory],
        round: int,
        given: Given,
    ) -> list[Outcome]:
        # What Python does for every client, it does for all at once: between two trainings, it would find its
        # own code and data out of the cache, and take three times as long.
        plans = [self._plan_of(update, client, round) for client in clients]
        losses = torch.zeros(len(clients), len(self.task.objective.names), dtype=torch.float64, device=w.device)
        each = list(losses)
        ended: list[_Ended | Failed] = []
        for client, memory, plan, own in zip(clients, memories, plans, each):
            try:
                if isinstance(plan, Failed):
                    ended.append(plan)
                else:
                    ended.append(self._client(update, w, client, memory, plan, round, given, own))
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
                end.statistics,
            )
            for client, end, of_client in zip(clients, ended, sums)
        ]

    def _plan_of(self, update: ClientUpdate[Any], client: int, round: int) -> Plan | Failed:
        try:
            return self._plan(update, client, round)
        except Exception as error:
            return Failed.by(client, error)

    def _client(
        self,
        update: ClientUpdate[Any],
        w: Tensor,
        client: int,
        memory: Memory,
        plan: Plan,
        round: int,
        given: Given,
        losses: Tensor,
    ) -> _Ended:
        task, P = self.task, self.task.layout.parameters
        binding, local, clock = self.binding, self.local, self.clock
        self._seed(plan.seed)
        evaluations = 0
        w = self._with_private(w, memory)
        outside = self._given(w, memory, given)

        def parameters() -> Tensor:
            return flat(binding.parameters)

        # Vectors need no gradient themselves, so nothing but the forward pass is taped.
        def grad(at: Tensor, batch: Batch) -> Tensor:
            nonlocal evaluations
            with clock.part(GRADIENT):
                binding.to(at)
                total, values = local.forward(batch, outside, parameters)
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
        own = {name: vector.clone() for name, vector in memory.items() if name not in OURS}
        with clock.part(METHOD):
            state = update.start(start, own or update.first_memory(start))
        for batches in self._batches(plan, round, client):
            state, recorded = self._steps(update, state, batches, losses, rest, outside, play)
            evaluations += recorded
        with clock.part(METHOD):
            vector, kept = update.finish(state)
        return _Ended(plan, *self._ended(update, client, vector, kept, rest), evaluations)

    def _batches(self, plan: Plan, round: int, client: int) -> Iterator[Batch]:
        """Mini-batches, as many of one size as follow each other and fit in memory: ``[T, B, ...]``."""
        start = done = 0
        for size, run in ((int(size), len([*same])) for size, same in itertools.groupby(plan.sizes)):
            most = self._at_once(size)
            for first in range(0, run, most):
                steps = min(most, run - first)
                with self.clock.part(DATA):
                    own = plan.order[start : start + steps * size].reshape(steps, size)
                    x, y = self.task.samples.batch(own)
                    if not plan.labelled:
                        y = torch.zeros_like(y)  # nobody is to see them
                    more = NO_STREAMS
                    if plan.more or plan.views:
                        more = self._streams(plan, round, client, range(done, done + steps), own)
                yield Batch(x, y, None, more, plan.labelled)
                start, done = start + steps * size, done + steps


class _Ended(NamedTuple):
    plan: Plan
    upload: Tensor | None
    memory: Memory
    statistics: tuple[Tensor, ...]
    evaluations: int
