"""An engine's traced steps: one program for each method's step and each shape of mini-batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from fedtl.clients.contract import ClientUpdate, Loop, State, Step
from fedtl.clock import Clock
from fedtl.data.samples import FewSamples, in_order
from fedtl.engine.module import ClientObjective, LocalGradient, forked_rng, seed_torch
from fedtl.engine.parts import TRACING
from fedtl.engine.stale import WHY, writes_own_down
from fedtl.engine.task import Task, reason
from fedtl.engine.trial import trial_probe
from fedtl.losses.batch import Batch
from fedtl.models.generators import generators_of, kept_elsewhere, state_elsewhere
from fedtl.tracing.joint import JointProgram, joined
from fedtl.tracing.program import Function, Program, compile_function, compile_step
from fedtl.tracing.simplify import simplify
from fedtl.tracing.tape import UntraceableError, trace

MOST_SHAPES = 64
"""Mini-batches of up to this many samples are traced: each size is a program of its own."""

NOTHING: Mapping[str, Tensor] = {}

Traced = TypeVar("Traced")


class _SamplesError(Exception):
    """What is to be traced raises on these samples, traced or not."""


class StepTracer:
    """Traces a method's step when it is first needed, and keeps it.

    Args:
        task: what is trained.
        local: the model and its objective, as the engine calls them.
        stacked: whether a step trains ``[C, P]`` vectors.
        clock: told while something is being traced.
    """

    def __init__(self, task: Task, local: ClientObjective, stacked: bool, clock: Clock | None = None) -> None:
        self.task, self.stacked, self._local = task, stacked, local
        self.clock = clock or Clock()
        self.programs: dict[tuple[Any, ...], Program | None] = {}
        """The traced steps, by what decides of which kind a step is; None for those that run eagerly."""
        self._joint: dict[tuple[int, ...], JointProgram | None] = {}
        """By the programs that are joined; None for those that cannot be."""
        self._forwards: dict[object, Function | None] = {}
        self.draws_elsewhere = False
        """Whether a step was seen to draw random numbers that are not torch's."""
        self._generators = generators_of(task.module)
        self.sets = 2 if task.layout.statistics(task.module).any() else 1
        """Sets of buffers, side by side: one where no forward pass changes any, as where they are frozen parameters."""
        self._integers = {
            f"model.{name}": buffer for name, buffer in task.module.named_buffers() if not buffer.is_floating_point()
        }

    @property
    def replays_all(self) -> bool:
        """Whether every kind of step that was asked for so far is replayed, a round's first one perhaps excepted."""
        eager = {key[0] for key, program in self.programs.items() if program is None}
        return not eager - {key[0] for key, program in self.programs.items() if program is not None}

    def program(self, loop: Loop, state: State, batch: Batch, external: Mapping[str, Tensor]) -> Program | None:
        """The step from a state like this on a mini-batch like this; None where it is to run eagerly.

        What decides is the shape of things alone, so that the same config gives the same bits.
        """
        key = (
            loop.step,
            *state,
            *[vector.shape for vector in state.values()],
            batch.x.shape,
            batch.x.stride(),
            batch.mask is None,
        )
        if batch.more or external or not batch.labelled:
            key = (
                *key,
                batch.labelled,
                *((name, tensor.shape) for name, tensor in batch.more.items()),
                *sorted(external),
            )
        return self._traced_once(self.programs, key, partial(self._try, loop, state, batch, external))

    def _traced_once(
        self, known: dict[Any, Traced | None], key: object, trace: Callable[[], Traced | None]
    ) -> Traced | None:
        """What ``trace`` gives, which is kept under ``key``; None where it is not to be traced."""
        if key not in known:
            with self.clock.part(TRACING):
                try:
                    known[key] = trace()
                except _SamplesError:
                    return None  # other clients' samples are traced as if these had not come first
        return known[key]

    def run(
        self,
        program: Program | JointProgram,
        inputs: Any,
        losses: Tensor,
        buffers: Tensor,
        state: State,
        external: Mapping[str, Tensor],
    ) -> State:
        """Replay traced steps over mini-batches, given as the program's own ``run`` takes them; the new state."""
        vectors = {**state, **_placeholders(external)}
        program.run(inputs, losses, buffers, vectors)
        return {name: vectors[name] for name in state}

    def joint(
        self, state: State, stretches: Sequence[tuple[Loop, Batch]], external: Mapping[str, Tensor]
    ) -> tuple[JointProgram, list[int]] | None:
        """The steps from a state like this on stretches of mini-batches, joined, and each stretch's program among them.

        None where a step is to run eagerly, or the programs cannot be joined.
        """
        kinds: dict[object, int] = {}
        programs: list[Program] = []
        of_stretches = []
        for turn, stretch in stretches:
            kind = turn.step, stretch.y.shape[1:]
            if kind not in kinds:
                program = self.program(turn, state, stretch.at(0), external)
                if program is None:
                    return None
                kinds[kind] = len(programs)
                programs.append(program)
            of_stretches.append(kinds[kind])
        key = tuple(map(id, programs))
        if key not in self._joint:
            with self.clock.part(TRACING):
                self._joint[key] = _try_to_join(programs)
        joint = self._joint[key]
        return None if joint is None else (joint, of_stretches)

    def _try(self, loop: Loop, state: State, batch: Batch, external: Mapping[str, Tensor]) -> Program | None:
        size = batch.y.shape[int(self.stacked)]
        if size > MOST_SHAPES and size != loop.budget.batch_size:
            return None
        try:
            return self.trace(loop.step, state, batch, external)
        except UntraceableError:
            return None
        except Exception as error:
            # Whatever it is, playing the step shows it to the client that it concerns; the engine's choice has
            # told the user why a model is not traced.
            if self._raises(loop.step, state, batch, external):
                raise _SamplesError from error
            return None

    def _raises(self, step: Step, state: State, batch: Batch, external: Mapping[str, Tensor]) -> bool:
        """Whether the step itself raises on this mini-batch, traced or not."""
        buffers = torch.zeros(*batch.y.shape[: int(self.stacked)], self.sets * self.task.buffers, device=batch.x.device)
        module = self.task.module
        training = module.training
        with forked_rng(batch.x.device), kept_elsewhere():
            module.train()
            try:
                self.eager(step, state, batch, buffers, external)
            except Exception:
                return True
            finally:
                module.train(training)
        return False

    def forward(self, x: Tensor) -> Function | None:
        """The model's logits for blocks like ``x`` ``[B, ...]``, in evaluation mode; None if it cannot be traced."""
        key = (x.shape, x.stride())
        return self._traced_once(self._forwards, key, partial(self._try_forward, x))

    def _try_forward(self, x: Tensor) -> Function | None:
        module, layout = self.task.module, self.task.layout

        def logits(x: Tensor, buffers: Tensor, w: Tensor) -> Tensor:
            output: Tensor = functional_call(module, layout.views(w) | layout.buffer_views(buffers), (x,))
            return output

        training = module.training
        module.eval()
        flat, P = layout.flatten(module), layout.parameters
        try:
            # Not in inference mode, which hides what an operation is made of.
            with torch.inference_mode(False), torch.no_grad(), kept_elsewhere():
                before = state_elsewhere(self._generators)
                graph = trace(logits, {"x": x.clone(), "buffers": flat[P:].clone(), "w": flat[:P].clone()})
                simplify(graph)
                function = compile_function(graph)
                if state_elsewhere(self._generators) != before:
                    return None
                # On other numbers: what Python makes of numbers is written down as it was.
                other = x.flip(0) * 0.5 + 1
                expected = logits(other, flat[P:], flat[:P])
            return function if _close(0 * expected, expected, function.map(other[None], flat[P:], flat[:P])) else None
        except Exception as error:
            try:
                with torch.inference_mode(False), torch.no_grad(), kept_elsewhere():
                    logits(x, flat[P:], flat[:P])
            except Exception:
                raise _SamplesError from error
            return None  # the model itself, called in its place, shows what is wrong
        finally:
            module.train(training)

    def trace(self, step: Step, state: State, batch: Batch, external: Mapping[str, Tensor] = NOTHING) -> Program:
        """Trace a step.

        Raises:
            UntraceableError: it cannot be.
        """
        task = self.task
        lead = batch.y.shape[: int(self.stacked)]
        inputs = {name: tensor.clone() for name, tensor in batch.tensors().items()}
        buffers = torch.zeros(*lead, self.sets * task.buffers, device=batch.x.device)
        outside = {name: tensor.clone() for name, tensor in _placeholders(external).items()}
        play = self._step(step, state, batch, external)

        def traced(**tensors: Tensor) -> Any:
            new, buffers, values = play(**tensors)
            if set(new) != set(state):
                raise UntraceableError("its state has other vectors after the step than before")
            return [new[name] for name in state], [tensors[name] for name in outside], buffers, values

        training = task.module.training
        with forked_rng(batch.x.device), kept_elsewhere():
            task.module.train()
            before = state_elsewhere(self._generators)
            try:
                copies = {name: vector.clone() for name, vector in state.items()}
                graph = trace(traced, {**inputs, "buffers": buffers, **copies, **outside})
            finally:
                task.module.train(training)
                self.draws_elsewhere |= state_elsewhere(self._generators) != before
        if self.draws_elsewhere:
            raise UntraceableError(
                "it draws random numbers from NumPy, from Python or from a generator of its own, so replayed it would "
                "give other numbers than run eagerly"
            )
        if writes_own_down(task.module, graph):
            raise UntraceableError(WHY)
        simplify(graph, task.samples.federation.task.labelled)
        return compile_step(graph, tuple(inputs), (*state, *outside), task.objective.columns)

    def eager(
        self, step: Step, state: State, batch: Batch, buffers: Tensor, external: Mapping[str, Tensor] = NOTHING
    ) -> tuple[State, Tensor, Tensor]:
        """What the step that would be traced gives, run as it is; its arguments are not changed.

        Returns:
            The new state, the new buffers, and the terms' values, added up over the gradient's evaluations.
        """
        inputs = {**batch.tensors(), "buffers": buffers.clone(), **_placeholders(external)}
        copies = {name: vector.clone() for name, vector in state.items()}
        new, buffers, values = self._step(step, state, batch, external)(**inputs, **copies)
        terms = self.task.objective.columns
        sums = [
            sum(values[term::terms], torch.zeros(batch.y.shape[: int(self.stacked)], device=buffers.device))
            for term in range(terms)
        ]
        return new, buffers, torch.stack(sums, -1)

    def _step(
        self, train: Step, state: State, example: Batch, external: Mapping[str, Tensor]
    ) -> Callable[..., tuple[State, Tensor, list[Tensor]]]:
        """One step from such a state as a function of tensors: the new state and buffers, each evaluation's values."""
        if clash := {*Batch._fields, *example.more, "buffers"} & set(state):
            raise UntraceableError(f"a state may not be called {min(clash)!r}")
        labelled, layout, outside = example.labelled, self.task.layout, dict(zip(_placeholders(external), external))

        def step(buffers: Tensor, **tensors: Tensor) -> tuple[State, Tensor, list[Tensor]]:
            values: list[Tensor] = []
            sets = list(buffers.chunk(self.sets, -1))
            vectors = {name: tensors.pop(name) for name in state}
            known = {key: tensors.pop(name) for name, key in outside.items()}

            def gradients(at: Tensor, batch: Batch, *more: Tensor, which: int = 0) -> tuple[Tensor, ...]:
                leaves = {slot.name: slot.stored(at).detach().requires_grad_() for slot in layout.trained}
                moving = {name: view.clone() for name, view in layout.buffer_views(sets[which]).items()}
                with torch.enable_grad():
                    total, terms = self._objective(leaves, moving, batch, known)
                    of_each = torch.autograd.grad(total, [*leaves.values(), *more], materialize_grads=True)
                values.extend(value.detach() for value in terms)
                if self.sets > 1:
                    sets[which] = layout.flat(moving.values(), buffers=True)
                of_model = [gradient.reshape(*at.shape[:-1], -1) for gradient in of_each[: len(leaves)]]
                return torch.cat(of_model, -1), *of_each[len(leaves) :]

            def layer(at: Tensor, batch: Batch, name: str) -> Tensor:
                with torch.no_grad():
                    return self._layer(at, sets[0], batch.x, name)

            gradient = LocalGradient(gradients, partial(gradients, which=self.sets - 1), layer)
            new = train(vectors, Batch.of(tensors, labelled), gradient)
            return new, torch.cat(sets, -1) if self.sets > 1 else buffers, values

        return step

    def _layer(self, w: Tensor, buffers: Tensor, x: Tensor, layer: str) -> Tensor:
        """The model's logits in training, or its head's inputs; no buffers change."""
        integers = {name.removeprefix("model."): buffer.clone() for name, buffer in self._integers.items()}

        def one(w: Tensor, buffers: Tensor, x: Tensor) -> Tensor:
            moving = {name: view.clone() for name, view in self.task.layout.buffer_views(buffers).items()}
            return self._local.layer_under(self.task.layout.views(w) | moving | integers, x, layer)

        outputs: Tensor = vmap(one)(w, buffers, x) if self.stacked else one(w, buffers, x)
        return outputs

    def _objective(
        self, leaves: Mapping[str, Tensor], moving: Mapping[str, Tensor], batch: Batch, external: Mapping[str, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The objective's total, summed over clients, and its terms' values."""
        integers = {name: buffer.clone() for name, buffer in self._integers.items()}

        def one(
            leaves: Mapping[str, Tensor],
            moving: Mapping[str, Tensor],
            tensors: Mapping[str, Tensor],
            external: Mapping[str, Tensor],
        ) -> tuple[Tensor, tuple[Tensor, ...]]:
            shaped = {slot.name: slot.turned(leaves[slot.name]) for slot in self.task.layout.trained}
            numbers = {f"model.{name}": tensor for name, tensor in {**shaped, **moving}.items()} | integers

            def parameters() -> Tensor:
                return torch.cat([leaf.reshape(-1) for leaf in leaves.values()])

            outcome: tuple[Tensor, tuple[Tensor, ...]] = functional_call(
                self._local, numbers, (Batch.of(tensors, batch.labelled), external, parameters)
            )
            return outcome

        if not self.stacked:
            return one(leaves, moving, batch.tensors(), external)
        totals, values = vmap(one)(leaves, moving, batch.tensors(), external)
        return totals.sum(), values


def _try_to_join(programs: Sequence[Program]) -> JointProgram | None:
    try:
        return joined(programs)
    except UntraceableError:
        return None


def _placeholders(external: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors from outside, under the names that they have in a traced step."""
    return {f"external_{i}": tensor for i, tensor in enumerate(external.values())}


def why_not_traced(task: Task, update: ClientUpdate[Any], stacked: bool) -> str | None:
    """Why a method's step cannot be traced, in a few words; None if it can, and replays as it runs eagerly.

    It is traced twice, on other numbers, as what Python makes of numbers, clocks and counters is written
    down as it was: the two have to be the same. What stays the same over a few steps cannot be told so.
    """
    local = ClientObjective(task.module, task.layout, task.objective, task.frozen)
    local.watches_input = not stacked
    tracer = StepTracer(task, local, stacked)
    training = task.module.training
    task.module.train()
    try:
        with forked_rng(task.samples.device), kept_elsewhere():
            first, second = (_checked(tracer, update, seed) for seed in range(2))
        same = all(one.same(other) for one, other in zip(first, second, strict=True))
        return None if same else "it uses numbers that are no tensors of the step, and change"
    except Exception as error:
        return str(error) if isinstance(error, UntraceableError) else reason(error)
    finally:
        task.module.train(training)


def _checked(tracer: StepTracer, update: ClientUpdate[Any], seed: int) -> list[Program]:
    """Trace a step of each of the method's loops, and compare two steps replayed with the same two run eagerly.

    Raises:
        UntraceableError: it cannot be traced, or they differ.
    """
    task, lead = tracer.task, (2,) if tracer.stacked else ()
    flat, P = task.layout.flatten(task.module), task.layout.parameters
    # Batch-norm cannot train on one sample.
    size = min([8, *(max(loop.budget.batch_size or 8, 2) for loop in update.round_loops)])
    generator = torch.Generator().manual_seed(seed)
    federation, objective = task.samples.federation, task.objective

    few = FewSamples.of(federation)

    def samples() -> Tensor:
        lead_of = (2, *lead, size)
        if few is None:
            x = torch.randn(*lead_of, *federation.shape, generator=generator)
        else:  # not every model takes any numbers
            x = few.x[torch.randint(len(few.x), lead_of, generator=generator)]
        return in_order(x.to(flat.device), task.samples.channels_last)

    x = samples()
    y = task.samples.some_y(x.shape[: 2 + len(lead)], generator).to(flat.device)
    more = {}
    # As at a client that holds all that there is.
    if objective.needs & {"target", "unlabelled"} and federation.target is not None:
        more["target"] = samples()
    if "views" in objective.needs:
        more |= {"view_a": samples(), "view_b": samples()}
    if "public" in objective.needs:
        places = torch.randint(max(len(federation.public), 1), x.shape[: 2 + len(lead)], generator=generator)
        more |= {"public": samples(), "public_at": places.to(flat.device)}
    if "replay" in objective.needs:
        labels = torch.randint(federation.classes, y.shape, generator=generator)
        more |= {"replay": samples(), "replay_y": labels.to(flat.device)}
    batches = Batch(x, y, None, more, "source" in objective.trained or "target" not in more)

    w = (flat[:P] * (1 + 0.1 * torch.rand(P, generator=generator).to(flat.device))).expand(*lead, P)
    external: dict[str, Tensor] = {}
    if objective.ramps:
        external["progress"] = torch.full(lead, 0.5, device=flat.device)
    for need in sorted(need for need in objective.needs if need.startswith("model:")):
        external[need] = (flat * (1 + 0.1 * torch.rand(len(flat), generator=generator).to(flat.device))).expand(
            *lead, -1
        )
    received = {name: tensor.expand(*lead, *tensor.shape).clone() for name, tensor in task.received.items()}
    received["w"] = w.clone()
    probe = trial_probe(task, torch.ones(*lead, 1, device=flat.device))
    memory = update.first_memory({**received, "initial": w.clone()})
    state = update.start(received, memory, probe)
    state = {name: tensor.clone() for name, tensor in state.items()}
    buffers, programs = flat[P:].repeat(tracer.sets).expand(*lead, -1), list[Program]()
    for loop in (turn for each in update.round_loops for turn in each.turns):
        # One step runs eagerly before: a state may grow in it, and a model may make what it keeps.
        state, buffers, _ = tracer.eager(loop.step, state, batches.at(0), buffers, external)
        program = tracer.trace(loop.step, state, batches.at(0), external)

        losses = torch.zeros(*lead, task.objective.columns, dtype=torch.float64, device=flat.device)
        eager, moved, values = state, buffers, losses
        replayed = {name: vector.clone() for name, vector in state.items()}
        added, other_buffers = losses.clone(), buffers.clone()
        seed_torch(0, flat.device)
        for step in range(2):
            eager, moved, added_here = tracer.eager(loop.step, eager, batches.at(step), moved, external)
            values = values + added_here
        seed_torch(0, flat.device)
        replayed = tracer.run(program, list(batches.tensors().values()), added, other_buffers, replayed, external)
        vectors = [(state[name], eager[name], replayed[name]) for name in state]
        for before, new, other in [(losses, values, added), (buffers, moved, other_buffers), *vectors]:
            if not _close(before, new, other):
                raise UntraceableError("replayed it gives other numbers than run eagerly")
        programs.append(program)
        state, buffers = eager, moved
    return programs


def _close(before: Tensor, new: Tensor, other: Tensor) -> bool:
    """Whether two ways from ``before`` lead to the same, but for a hundredth of the way and float32's rounding."""
    if not new.numel():
        return True
    way = (new - before).abs().nan_to_num(0, 0, 0).max()
    return torch.allclose(new, other, rtol=1e-6, atol=1e-2 * float(way) + 1e-9, equal_nan=True)
