"""Clients stacked: all of a cohort train at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedtl.clients.contract import ClientUpdate, Count, Loop, Memory, OfSamples, Probe, State, Vectors
from fedtl.data.batches import Budget
from fedtl.engine.assignment import Assignment
from fedtl.engine.engine import Engine, own_memory, rounded
from fedtl.engine.module import LocalGradient
from fedtl.engine.parts import DATA, GRADIENT, METHOD
from fedtl.engine.plan import Plan
from fedtl.engine.task import Failed, Outcome, Task, Trained, of_method
from fedtl.losses.batch import Batch
from fedtl.optimizers.stepper import remembered

MOST_ON_CPU = 16
"""Clients in a stack on a CPU: more would only fall out of its cache."""


class Stacked(Engine):
    """All clients of a stack at once: parameters ``[C, P]``, the model mapped over them by ``vmap``.

    Clients stand in order of their number of steps; those that are done leave the stack from its end, so
    that nobody is computed in vain. Who shares a stack, and what is padded, depends on each client alone
    (:func:`stack_of`), so that its numbers do not depend on the stack.
    """

    stacks: ClassVar[bool] = True

    def __init__(self, task: Task, traced: bool = False) -> None:
        super().__init__(task, traced)
        self.local.watches_input = False  # under vmap; what depends on values there is refused by vmap itself
        self._counts_batch = counts_batch(task)
        self._on_cpu = task.samples.device.type == "cpu"

    def _train(self, assignment: Assignment) -> list[Outcome]:
        outcomes: dict[int, Outcome] = {}
        stacks: dict[object, list[_Job]] = {}
        update = assignment.update
        for place, (client, memory) in enumerate(zip(assignment.clients, assignment.memories)):
            try:
                plans = self.plans(update, client, assignment.round)
            except Exception as error:
                outcomes[place] = Failed.by(client, error)
                continue
            widths, which = list[NDArray[np.int64]](), list[object]()
            for plan in plans:
                # Views are made for each mini-batch as a whole.
                exact = self._counts_batch or (plan.views == "x" and "views" in self.task.objective.trained)
                widths.append(plan.sizes if exact else padded(plan.budget, plan.samples))
                # On a CPU all of a stack end together, so that few kinds of stacks need a trace; between loops
                # they do everywhere.
                together = self._on_cpu or len(plans) > 1
                which += [*stack_of(plan.budget, plan.sizes, widths[-1])[not together :], *plan.kind]
            stacks.setdefault(tuple(which), []).append(_Job(place, client, memory, plans, tuple(widths)))
        for stack in stacks.values():
            stack.sort(key=lambda job: -job.steps)
            for part in _split(stack) if self._on_cpu else [stack]:
                outcomes.update(self._cohort_or_halves(assignment, part))
        return [outcomes[place] for place in range(len(assignment.clients))]

    def _cohort_or_halves(self, assignment: Assignment, jobs: list[_Job]) -> dict[int, Outcome]:
        """Train a stack; where it raises, its halves, down to the one client (or the memory) that was at fault."""
        try:
            return self._cohort(assignment, jobs)
        except Exception as error:
            if len(jobs) == 1:
                again = partial(self._cohort, assignment, jobs)
                return {jobs[0].place: Failed.by(jobs[0].client, self.untraced_error(error, again))}
        half = len(jobs) // 2
        return self._cohort_or_halves(assignment, jobs[:half]) | self._cohort_or_halves(assignment, jobs[half:])

    def _cohort(self, assignment: Assignment, jobs: list[_Job]) -> dict[int, Outcome]:
        task, P, C, update = self.task, self.task.layout.parameters, len(jobs), assignment.update
        received = assignment.received
        models = [self._with_private(received.model(job.place), job.memory, job.client) for job in jobs]
        one_model = task.sharing is None and "w" in received.shared
        start = models[0][:P].expand(C, P).clone() if one_model else torch.stack([vector[:P] for vector in models])
        first_buffers = torch.stack(
            [self._first_buffers(update, vector, job.memory) for vector, job in zip(models, jobs)]
        )
        context = assignment.context
        external = [self._external(vector, job.memory, context, job.client) for vector, job in zip(models, jobs)]
        outside = {name: torch.stack([each[name] for each in external]) for name in external[0]}
        # Batch-norm under vmap changes its statistics in place only where each lies in memory of its own.
        sets = [task.layout.buffer_views(first_buffers)]
        if len(self.binding.sets) > 1:
            second = [self._second_buffers(update, vector, job.memory) for vector, job in zip(models, jobs)]
            sets.append(task.layout.buffer_views(torch.stack(second)))
        sets = [{name: tensor.contiguous() for name, tensor in each.items()} for each in sets]
        download = {"w": start, **received.stacked([job.place for job in jobs])}
        memory = self._stacked_memory(update, download, jobs)
        losses = torch.zeros(C, task.objective.columns, dtype=torch.float64, device=start.device)
        evaluations = np.zeros(C, np.int64)

        def gradients(at: Tensor, batch: Batch, *more: Tensor, which: int = 0) -> tuple[Tensor, ...]:
            with self.clock.part(GRADIENT):
                active = len(at)
                leaf = at.detach().requires_grad_()
                statistics = {name: tensor[:active] for name, tensor in sets[which].items()}
                now = {name: tensor[:active] for name, tensor in outside.items()}
                totals, values = self._mapped(leaf, statistics, batch, now)
                of_each = torch.autograd.grad(totals.sum(), [leaf, *more], materialize_grads=True)
                losses[:active] += torch.stack([value.detach() for value in values], 1)
                evaluations[:active] += 1
                return of_each

        def layer(at: Tensor, batch: Batch, name: str) -> Tensor:
            with self.clock.part(GRADIENT), torch.no_grad():
                return self._layer_of(at, {name: tensor[: len(at)] for name, tensor in sets[0].items()}, batch.x, name)

        gradient = LocalGradient(gradients, partial(gradients, which=len(sets) - 1), layer)

        def play(turn: Loop, state: State, batch: Batch) -> State:
            return turn.step(state, batch, gradient)

        outcomes: dict[int, Outcome] = {}

        def leave(state: State, first: int, last: int) -> None:
            """End the round of the jobs ``first..last-1``, whose state is ``state``."""
            ending = jobs[first:last]
            samples = [float(self._samples(job)) for job in ending]
            of_loops = tuple(len(plan.sizes) for plan in ending[0].plans)
            with self.clock.part(METHOD):
                count = Count(torch.tensor(samples, device=start.device)[:, None], sum(of_loops), of_loops)
                uploads, kept = update.finish(state, count)
                kept = {**kept, **(remembered(state) if update.optimizer.keeps else {})}
            totals = losses[first:last].tolist()
            for row, job in enumerate(ending):
                of_row = [[tensor[first + row] for tensor in each.values()] for each in sets]
                vectors = [task.layout.flat(each, buffers=True) if each else start[0, :0] for each in of_row]
                # Copies: a row would keep the whole stack in memory.
                finished = _row(uploads, row), _row(kept, row)
                of_client = {**received.of(job.place), "w": models[first + row]}
                model = state["w"][row] if "w" in state else None
                ended = finished, model, torch.stack(vectors)
                sent, memory, sums = self._ended(update, job.client, of_client, job.memory, *ended)
                losses_of = task.objective.means(totals[row], int(evaluations[first + row]))
                trained = Trained(job.client, self._samples(job), sent, memory, losses_of, job.steps, sums)
                outcomes[job.place] = trained

        with self.clock.part(METHOD):
            probes = [self._probe_of(job.client, at, self._samples(job)) for job, at in zip(jobs, first_buffers)]
            state = update.start(download, memory, _stacked(probes))
            memories = [job.memory for job in jobs]
            state = self._with_optimizers(update, state, memories, assignment.context.lr_factor)
            state = own_memory(state, [*memory.values(), *(download[name] for name in download if name != "w")])
        active = C
        for number, loop in enumerate(update.round_loops):
            turns, steps = loop.turns, 0
            for stretches in self._batches(jobs, number, assignment.round):
                if (batches := stretches[0]).y.shape[1] < active:  # in a round of one loop
                    done, active = active, batches.y.shape[1]
                    leave({name: vectors[active:done] for name, vectors in state.items()}, active, done)
                    state = {name: vectors[:active] for name, vectors in state.items()}
                now = {name: tensor[:active] for name, tensor in outside.items()}
                moving = partial(self._joined, sets, start[:active])
                state, traced = self._steps(turns, state, stretches, losses[:active], moving, now, play, steps)
                steps += sum(len(batches.y) for batches in stretches)
                if traced:
                    evaluations[:active] += traced
        leave(state, 0, active)
        return outcomes

    @contextmanager
    def _joined(self, sets: Sequence[Mapping[str, Tensor]], start: Tensor) -> Iterator[Tensor]:
        """The buffers of the first clients of a stack in one tensor; what it holds in the end is put back.

        Args:
            sets: of all, by name; one set or two, which stand side by side in ``[C, Q]`` or ``[C, 2 Q]``.
            start: the clients' first models ``[C, d]``.
        """
        layout, active = self.task.layout, len(start)
        if not sets[0]:
            yield start[:, :0]
            return
        each = [layout.flat([tensor[:active] for tensor in own.values()], buffers=True) for own in sets]
        joined = torch.cat(each, -1)
        yield joined
        for own, part in zip(sets, joined.chunk(len(sets), -1)):
            for name, tensor in layout.buffer_views(part).items():
                own[name][:active].copy_(tensor)

    def _samples(self, job: _Job) -> int:
        """How many training samples a client holds, of those that it goes through."""
        return job.plans[0].samples if job.plans else len(self.task.samples.federation.train[job.client])

    def _stacked_memory(self, update: ClientUpdate[Any], received: Vectors, jobs: list[_Job]) -> Memory:
        memories = []
        for row, job in enumerate(jobs):
            kept = of_method(job.memory)
            download = {name: tensor[row] for name, tensor in received.items()}
            memories.append(kept or self._first_memory(update, download, job.client))
        if any(memory.keys() != memories[0].keys() for memory in memories):
            raise ValueError("clients of one stack remember different things; let first_memory name them all")
        return {name: torch.stack([memory[name] for memory in memories]) for name in memories[0]}

    def _mapped(
        self, w: Tensor, buffers: dict[str, Tensor], batch: Batch, external: dict[str, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The objective of one client, mapped over clients: ``[C, P] -> [C]``, and each term's values ``[C]``."""
        layout, local = self.task.layout, self.local

        def one(
            w: Tensor, buffers: dict[str, Tensor], tensors: dict[str, Tensor], external: dict[str, Tensor]
        ) -> tuple[Tensor, tuple[Tensor, ...]]:
            numbers = {f"model.{name}": tensor for name, tensor in (layout.views(w) | buffers).items()}
            outcome: tuple[Tensor, tuple[Tensor, ...]] = functional_call(
                local, numbers, (Batch.of(tensors, batch.labelled), external, lambda: w)
            )
            return outcome

        mapped: tuple[Tensor, tuple[Tensor, ...]] = vmap(one)(w, buffers, batch.tensors(), external)
        return mapped

    def _layer_of(self, w: Tensor, buffers: dict[str, Tensor], x: Tensor, layer: str) -> Tensor:
        """The model's logits ``[C, B, k]`` in training, or its head's inputs ``[C, B, f]``; no buffers change."""

        def one(w: Tensor, buffers: dict[str, Tensor], x: Tensor) -> Tensor:
            return self.local.layer_under(self.task.layout.views(w) | buffers, x, layer)

        outputs: Tensor = vmap(one)(w, {name: tensor.clone() for name, tensor in buffers.items()}, x)
        return outputs

    def _batches(self, jobs: list[_Job], loop: int, round: int) -> Iterator[list[Batch]]:
        """A loop's stretches of mini-batches of one shape, ``[T, C, B, ...]``, as many together as fit in memory.

        C are the jobs that still have a mini-batch: always the first ones.
        """
        plans, widths = [job.plans[loop] for job in jobs], jobs[0].widths[loop]
        padding = bool((plans[0].sizes != widths).any())
        steps = np.array([len(plan.sizes) for plan in plans])
        active = (steps[:, None] > np.arange(len(widths))).sum(0)
        starts = [np.concatenate([[0], np.cumsum(plan.sizes)]) for plan in plans]
        alone = bool(plans[0].more or plans[0].views)
        t = 0
        for C, of_these in itertools.groupby(active.tolist()):
            end = t + len([*of_these])
            for group in self._groups(widths[t:end], alone, C):
                with self.clock.part(DATA):
                    indices, reals, first = list[NDArray[np.int64]](), list[NDArray[np.bool_]](), t
                    for T, width in group:
                        index, real = np.zeros((T, C, width), np.int64), np.zeros((T, C, width), np.bool_)
                        for row, plan in enumerate(plans[:C]):
                            real[:, row] = np.arange(width) < plan.sizes[t : t + T, None]
                            index[:, row][real[:, row]] = plan.order[starts[row][t] : starts[row][t + T]]
                        indices.append(index)
                        reals.append(real)
                        t += T
                    together = np.concatenate([index.ravel() for index in indices])
                    stretches = self._gathered(together, [index.shape for index in indices], plans[0].labelled)
                    if padding:
                        stretches = [
                            stretch._replace(mask=torch.from_numpy(real.astype(np.float32)).to(stretch.x.device))
                            for stretch, real in zip(stretches, reals)
                        ]
                    if alone:
                        more = self._stacked_streams(jobs[:C], plans[:C], round, range(first, t), indices[0])
                        stretches = [stretches[0]._replace(more=more)]
                yield stretches

    def _stacked_streams(
        self, jobs: list[_Job], plans: list[Plan], round: int, steps: range, own: NDArray[np.int64]
    ) -> Mapping[str, Tensor]:
        """Further streams ``[T, C, B', *shape]``."""
        each = []
        for row, (job, plan) in enumerate(zip(jobs, plans)):
            streams = self._streams(plan, round, job.client, steps, own[:, row])
            each.append({name: tensor.clone() for name, tensor in streams.items()})  # the memory is used again
        return {name: torch.stack([streams[name] for streams in each], 1) for name in each[0]}


@dataclass(frozen=True)
class _Job:
    place: int
    client: int
    memory: Memory
    plans: tuple[Plan, ...]
    """Of the round's loops."""
    widths: tuple[NDArray[np.int64], ...]
    """To which sizes each loop's mini-batches are padded."""

    @property
    def steps(self) -> int:
        """Mini-batches, all loops together."""
        return sum(len(plan.sizes) for plan in self.plans)


def _stacked(probes: Sequence[Probe]) -> Probe:
    """One look for all clients of a stack."""

    def loss(models: Tensor) -> Tensor:
        return torch.stack([probe.loss(of_client) for probe, of_client in zip(probes, models)])

    def training_loss(models: Tensor) -> Tensor:
        return torch.stack([probe.training_loss(of_client) for probe, of_client in zip(probes, models)])

    def label_counts() -> Tensor:
        return torch.stack([probe.label_counts() for probe in probes])

    def sums(w: Tensor, of: OfSamples) -> Tensor:
        return torch.stack([probe.sums(model, of) for probe, model in zip(probes, w)])

    return Probe(loss, training_loss, torch.stack([probe.samples for probe in probes]), label_counts, sums)


def _row(vectors: Vectors, row: int) -> Vectors:
    return {name: tensor[row].clone() for name, tensor in vectors.items()}


def counts_batch(task: Task) -> bool:
    """Whether a mini-batch is looked at as a whole, by batch-norm or by a term, so that padding would count."""
    norms = any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in task.module.modules())
    return norms or task.objective.whole_batches


def stack_of(budget: Budget, sizes: NDArray[np.int64], widths: NDArray[np.int64]) -> tuple[int, bytes, bool]:
    """What clients that share a stack have in common, decided by each alone.

    Args:
        budget: how much a client trains.
        sizes: its mini-batches' sizes.
        widths: the sizes that they are padded to.

    Returns:
        The number of mini-batches, their padded sizes, and whether any is padded; clients whose mini-batches
        are all full may also share a stack whatever the first.
    """
    full = budget.batch_size and (widths == budget.batch_size).all()
    return len(sizes), b"full" if full else widths.tobytes(), bool((widths != sizes).any())


def padded(budget: Budget, n: int) -> NDArray[np.int64]:
    """Sizes of the mini-batches of a client of ``n`` samples as if it had a few more, at most a sixteenth.

    There are few such numbers, so that many clients have the same.
    """
    return budget.step_sizes(min(rounded(n, bits=5), budget.most_alike(n)))


def _split(jobs: list[_Job]) -> Iterator[list[_Job]]:
    """Cut into full stacks and one of those that are left: few numbers, as each is a trace of its own."""
    for start in range(0, len(jobs), MOST_ON_CPU):
        yield jobs[start : start + MOST_ON_CPU]
