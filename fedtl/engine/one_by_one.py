"""Clients one after another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from fedtl.clients.contract import ClientUpdate, Loop, Memory, State, Vectors
from fedtl.engine.assignment import Assignment
from fedtl.engine.engine import Engine, own_memory
from fedtl.engine.module import LocalGradient
from fedtl.engine.parts import DATA, GRADIENT, METHOD
from fedtl.engine.plan import Plan
from fedtl.engine.task import Failed, Outcome, Trained, of_method
from fedtl.losses.batch import Batch
from fedtl.optimizers.stepper import remembered


class OneByOne(Engine):
    """Clients one after another; the module's parameters are views into the vector being trained."""

    stacks: ClassVar[bool] = False

    def _train(self, assignment: Assignment) -> list[Outcome]:
        # What Python does for every client, it does for all at once: between two trainings, it would find its
        # own code and data out of the cache, and take three times as long.
        clients, update = assignment.clients, assignment.update
        plans = [self._plans_of(update, client, assignment.round) for client in clients]
        device = self.task.samples.device
        losses = torch.zeros(len(clients), self.task.objective.columns, dtype=torch.float64, device=device)
        each = list(losses)
        ended: list[_Ended | Failed] = []
        for place, (own_plans, own_losses) in enumerate(zip(plans, each)):
            if isinstance(own_plans, Failed):
                ended.append(own_plans)
                continue
            try:
                ended.append(self._client(assignment, place, own_plans, own_losses))
            except Exception as error:
                again = partial(self._client, assignment, place, own_plans, torch.zeros_like(own_losses))
                ended.append(Failed.by(clients[place], self.untraced_error(error, again)))
        sums = losses.tolist()
        return [
            end
            if isinstance(end, Failed)
            else Trained(
                client,
                end.samples,
                end.uploads,
                end.memory,
                self.task.objective.means(of_client, end.evaluations),
                end.steps,
                end.statistics,
            )
            for client, end, of_client in zip(clients, ended, sums)
        ]

    def _plans_of(self, update: ClientUpdate[Any], client: int, round: int) -> tuple[Plan, ...] | Failed:
        try:
            return self.plans(update, client, round)
        except Exception as error:
            return Failed.by(client, error)

    def _client(self, assignment: Assignment, place: int, plans: tuple[Plan, ...], losses: Tensor) -> _Ended:
        task, P, update = self.task, self.task.layout.parameters, assignment.update
        binding, local, clock = self.binding, self.local, self.clock
        client, memory, received = assignment.clients[place], assignment.memories[place], assignment.received.of(place)
        samples = plans[0].samples if plans else len(task.samples.federation.train[client])
        if plans:
            self._seed(plans[0].seed)
        evaluations = 0
        w = received["w"] = self._with_private(received["w"], memory, client)
        outside = self._external(w, memory, assignment.context, client)

        def parameters() -> Tensor:
            return task.layout.flat(binding.parameters)

        # Vectors need no gradient themselves, so nothing but the forward pass is taped.
        def gradients(at: Tensor, batch: Batch, *more: Tensor) -> tuple[Tensor, ...]:
            nonlocal evaluations
            with clock.part(GRADIENT):
                binding.to(at)
                total, values = local.forward(batch, outside, parameters)
                of_each = torch.autograd.grad(total, [*binding.parameters, *more], materialize_grads=True)
                losses.add_(torch.stack([value.detach() for value in values]))
                evaluations += 1
                of_parameters = len(binding.parameters)
                return task.layout.flat(of_each[:of_parameters]), *of_each[of_parameters:]

        def layer(at: Tensor, batch: Batch, name: str) -> Tensor:
            with clock.part(GRADIENT), torch.no_grad():
                binding.to(at)
                before = binding.buffers.clone()
                outputs = local.layers(batch.x, [name] if name != "logits" else [])[name]
                binding.buffers.copy_(before)
                return outputs

        def gradients_of_own(at: Tensor, batch: Batch, *more: Tensor) -> tuple[Tensor, ...]:
            with binding.second():
                return gradients(at, batch, *more)

        gradient = LocalGradient(gradients, gradients_of_own, layer)

        def play(turn: Loop, state: State, batch: Batch) -> State:
            return turn.step(state, batch, gradient)

        first_buffers = self._first_buffers(update, w, memory)
        kept_before = of_method(memory) if memory else memory
        download = {**received, "w": w[:P].clone()}
        with clock.part(METHOD):
            kept_before = kept_before or self._first_memory(update, download, client)
            state = update.start(download, kept_before, self._probe_of(client, first_buffers, samples))
            if update.optimizer.asked:
                state = self._with_optimizers(update, state, [memory], assignment.context.lr_factor)
            state = own_memory(state, [*kept_before.values(), *(received[name] for name in received if name != "w")])
        sets = binding.sets
        if task.buffers:
            sets[-1].copy_(self._second_buffers(update, w, memory))
            sets[0].copy_(first_buffers)

        def own_buffers() -> AbstractContextManager[Tensor]:
            return nullcontext(sets.view(-1))  # traced steps change the module's own

        for loop, plan in zip(update.round_loops, plans):
            turns, done = loop.turns, 0
            for stretches in self._batches(plan, assignment.round, client):
                state, traced = self._steps(turns, state, stretches, losses, own_buffers, outside, play, done)
                evaluations, done = evaluations + traced, done + sum(len(batches.y) for batches in stretches)
        of_loops = tuple(len(plan.sizes) for plan in plans)
        with clock.part(METHOD):
            uploads, kept = update.finish(state, self._count(samples, of_loops))
            if update.optimizer.keeps:
                kept = {**kept, **remembered(state)}
            finished = uploads, kept
        ended = self._ended(update, client, received, memory, finished, state.get("w"), sets)
        return _Ended(samples, sum(of_loops), *ended, evaluations)

    def _batches(self, plan: Plan, round: int, client: int) -> Iterator[list[Batch]]:
        """Stretches of mini-batches of one size that follow one another, ``[T, B, ...]``.

        As many stretches together as fit in memory; but one by one where further streams accompany them.
        """
        start = done = 0
        alone = bool(plan.more or plan.views)
        for group in self._groups(plan.sizes, alone):
            samples = sum(steps * size for steps, size in group)
            with self.clock.part(DATA):
                index = plan.order[start : start + samples]
                stretches = self._gathered(index, group, plan.labelled)
                if alone:
                    ((steps, size),) = group
                    more = self._streams(plan, round, client, range(done, done + steps), index.reshape(steps, size))
                    stretches = [stretches[0]._replace(more=more)]
            yield stretches
            start, done = start + samples, done + sum(steps for steps, _ in group)


class _Ended(NamedTuple):
    samples: int
    steps: int
    uploads: Vectors
    memory: Memory
    statistics: tuple[Tensor, ...]
    evaluations: int
