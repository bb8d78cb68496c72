"""What engines have in common: the model bound to vectors, a client's samples in order, scoring."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedtl.clients.contract import ClientUpdate, Count, Ensemble, Loop, Memory, OfSamples, Probe, State, Vectors
from fedtl.clock import Clock
from fedtl.data.samples import in_order
from fedtl.engine.assignment import Assignment
from fedtl.engine.module import ClientObjective, forked_rng, seed_torch
from fedtl.engine.parts import DATA, FORWARD, METHOD, STATISTICS, STEPS, SYNTHESIS
from fedtl.engine.plan import Plan, Where, make_plan, share_of_work, view_seeds
from fedtl.engine.replay import Replays
from fedtl.engine.step_tracer import StepTracer
from fedtl.engine.task import BUFFERS, PREVIOUS, PRIVATE, Outcome, RoundContext, Score, Task, of_method
from fedtl.losses.batch import NO_STREAMS, Batch
from fedtl.losses.context import Layers
from fedtl.metrics import Metrics
from fedtl.models.composite import model_of
from fedtl.models.generators import generators_of, kept_elsewhere, seed_elsewhere, seeded, state
from fedtl.models.head import layer_outputs
from fedtl.models.vector import Binding
from fedtl.optimizers.stepper import remembered, scheduled
from fedtl.random import Purpose, derived_seed
from fedtl.tasks.contract import nothing_to_score

GATHER_BYTES = {"cpu": 2**22, "cuda": 2**26}
"""Samples are gathered together up to this much memory: not in each step, but within the cache."""

SCORE_BLOCK = 32
"""Images per forward pass of a convolutional model on a CPU: what passes between layers stays in the cache."""

PREDICTOR = "a term's logits"
"""In place of the name of a term's module: what is scored is the predictor that a term makes of the model and its
modules; no module has such a name."""

STATISTIC_BLOCK = 256
"""Samples per forward pass where clients add up statistics."""


class Answer(NamedTuple):
    """A client's own predictor that is no vector of parameters.

    Attributes:
        logits: of what the model's layers are for some samples.
        layers: those that it reads besides the logits.
    """

    logits: Callable[[Layers], Tensor]
    layers: Sequence[str]


class Own(NamedTuple):
    """A client's own model.

    Attributes:
        vector: ``[d]``.
        ensemble: whole models ``[k, d]`` whose logits together are the client's own; None where the vector's are.
    """

    vector: Tensor
    ensemble: Ensemble | None = None


class Engine(ABC):
    """Trains and scores cohorts; leaves its task's module bound to its own vectors.

    Args:
        task: what is trained.
        traced: whether steps are traced and replayed, those that can be.
    """

    stacks: ClassVar[bool]
    """Whether clients train stacked."""

    def __init__(self, task: Task, traced: bool = False) -> None:
        self.task = task
        asked = "replay" in task.objective.needs
        self.replays = Replays(task, task.replay) if asked and task.replay is not None else None
        # Before the module is bound to other numbers.
        self._initial = task.layout.flatten(task.module) if task.initial is None else task.initial
        self._begun = self._initial if task.begun is None else task.begun
        self.binding = Binding(task.module, task.layout)
        self.local = ClientObjective(task.module, task.layout, task.objective, task.frozen)
        on_gpu = task.samples.device.type == "cuda"  # which works behind the program's back
        self.clock = Clock(settle=torch.cuda.synchronize if on_gpu else None)
        self.tracer = StepTracer(task, self.local, self.stacks, self.clock) if traced else None
        self._generators = generators_of(task.module)
        self._sample_counts: dict[int, Tensor] = {}
        self._draws_when_scored: bool | None = None
        """Whether the model draws random numbers in evaluation; None until it has been scored."""

    def of(self, client: int) -> Engine:
        """What trains and scores a client; another one only where clients' models differ."""
        return self

    def begun(self, w: Tensor, client: int) -> Tensor:
        """The model ``[d]`` of a client that has none yet: the one that it received, with its first private parts."""
        return self._first_of(w, client)

    def share(self, clock: Clock) -> None:
        """Tell another's clock where the time goes."""
        self.clock = clock
        if self.tracer is not None:
            self.tracer.clock = clock

    def train(self, assignment: Assignment) -> list[Outcome]:
        """Train a cohort; gives an outcome per client, in their order."""
        self.task.module.train()
        if self.replays:
            self.replays.enter(assignment.received.model(0), assignment.round, assignment.context)
        elsewhere = kept_elsewhere() if self._seeds_elsewhere else nullcontext()
        with forked_rng(self.task.samples.device), elsewhere:
            return self._train(assignment)

    def untraced_error(self, error: Exception, again: Callable[[], object]) -> Exception:
        """What a client's training raises where no step is traced.

        In traced steps some of torch's errors are of another type; and whether a client meets one depends on which
        clients trained here before.

        Args:
            error: what it raised.
            again: trains the client once more.
        """
        if self.tracer is None:
            return error
        tracer, self.tracer = self.tracer, None
        try:
            again()
        except Exception as untraced:
            return untraced
        finally:
            self.tracer = tracer
        return error

    @property
    def _seeds_elsewhere(self) -> bool:
        """Whether a step may draw random numbers that are not torch's: not if all steps are traced."""
        return self.tracer is None or self.tracer.draws_elsewhere or bool(self._generators)

    def _seed(self, seed: int) -> None:
        """Let all random numbers depend on ``seed`` from now on."""
        seed_torch(seed, self.task.samples.device)
        if self._seeds_elsewhere:
            seed_elsewhere(seed, self._generators)

    @abstractmethod
    def _train(self, assignment: Assignment) -> list[Outcome]: ...

    def personal_vector(self, update: ClientUpdate[Any], memory: Memory, received: Vectors, client: int) -> Tensor:
        """A client's own model ``[d]``, with its own untrained part (else that of the received model ``[d]``)."""
        w, P = self._with_private(received["w"], memory, client), self.task.layout.parameters
        if not update.personalises:
            return w
        personal = update.personal({**received, "w": w[:P]}, memory)
        if not self.task.buffers:
            return personal
        return torch.cat([personal, memory.get(BUFFERS, self._first_own(update, w))])

    def memory_before(self, update: ClientUpdate[Any], received: Vectors, client: int, memory: Memory) -> Memory:
        """What a client would begin its training with that remembers nothing of the method's own.

        Args:
            update: the method's local training.
            received: what the client received, ``"w"`` as ``[d]``.
            client: its id.
            memory: what it remembers.
        """
        w = self._with_private(received["w"], memory, client)
        return self._first_memory(update, {**received, "w": w[: self.task.layout.parameters]}, client)

    def own(self, update: ClientUpdate[Any], memory: Memory, received: Vectors, client: int) -> Own:
        """A client's own model; see :meth:`personal_vector`."""
        vector, P = self.personal_vector(update, memory, received, client), self.task.layout.parameters
        if not update.personalises:
            return Own(vector)
        w = self._with_private(received["w"], memory, client)
        asked = update.ensemble({**received, "w": w[:P]}, memory)
        if asked is None:
            return Own(vector)
        buffers = torch.stack([vector[P:], *[w[P:]] * (len(asked.models) - 1)])
        return Own(vector, Ensemble(torch.cat([asked.models, buffers], 1), asked.weights))

    def statistics(self, vector: Tensor, client: int) -> tuple[Tensor, ...]:
        """The sums that terms ask a client for, of the model ``vector`` ``[d]`` on its training samples."""
        task = self.task
        asked = task.objective.statistics
        if not asked:
            return ()
        federation = task.samples.federation
        blocks = {
            "source": federation.train[client],
            "target": federation.target.train[client] if federation.target else federation.public[:0],
            "public": federation.public,
        }
        with self.clock.part(STATISTICS):
            return tuple(each.collect(self._layers_of(vector, blocks[each.on], each.on == "source")) for each in asked)

    def _layers_of(
        self, vector: Tensor, index: NDArray[np.int64], labelled: bool, layers: Sequence[str] | None = None
    ) -> Iterator[tuple[Layers, Tensor]]:
        """What the model ``vector`` makes of samples, and their labels (else zeros), some at a time.

        Args:
            vector: ``[d]``.
            index: the samples.
            labelled: whether their labels are told.
            layers: which; the objective's if None.
        """
        most = min(self._at_once(1), STATISTIC_BLOCK)
        with torch.no_grad():
            for start in range(0, max(len(index), 1), most):  # of no samples, one block without any
                x, y = self.task.samples.batch(index[start : start + most])
                yield self.local.run_under(vector, x, layers), y if labelled else torch.zeros_like(y)

    def answer_of(self, update: ClientUpdate[Any], vector: Tensor, client: int) -> Answer | None:
        """The client's own predictor around the model ``vector`` ``[d]``; None where it is that model alone."""
        if not update.answers():
            return None
        x, labels = self.task.samples.batch(self.task.samples.federation.train[client])
        with torch.inference_mode():
            self._bind_for_scoring(vector)
            own = layer_outputs(model_of(self.task.module), x, update.layers)
        return Answer(lambda seen: update.answer(seen, own, labels), update.layers)

    def _bind_for_scoring(self, vector: Tensor) -> None:
        P = self.task.layout.parameters
        self.task.module.eval()
        self.binding.to(vector[:P])
        self.binding.buffers.copy_(vector[P:])

    def score(
        self,
        vector: Tensor,
        index: NDArray[np.int64],
        own: str | None = None,
        answer: Answer | None = None,
        ensemble: Ensemble | None = None,
        *,
        by_loss: bool = False,
    ) -> Score:
        """Score a model; one that draws random numbers in evaluation too draws the same each time.

        Args:
            vector: the model ``[d]``.
            index: the samples.
            own: a term's module in it that is scored, or :data:`PREDICTOR`.
            answer: makes the logits of the model's layers.
            ensemble: whole models ``[k, d]`` that are scored together, in place of ``vector``.
            by_loss: leave the config's metrics out.
        """
        metrics = Metrics() if by_loss else self.task.metrics
        device, seed = self.task.samples.device, derived_seed(self.task.seed, Purpose.SCORING)
        if self._draws_when_scored is None and len(index):
            with seeded(seed, self._generators, device):
                before = state(self._generators, device)
                score = self._score(vector, index, own, answer, ensemble, metrics)
                self._draws_when_scored = state(self._generators, device) != before
            return score
        with seeded(seed, self._generators, device) if self._draws_when_scored else nullcontext():
            return self._score(vector, index, own, answer, ensemble, metrics)

    def _score(
        self,
        vector: Tensor,
        index: NDArray[np.int64],
        own: str | None,
        answer: Answer | None,
        ensemble: Ensemble | None,
        metrics: Metrics,
    ) -> Score:
        task, outcomes = self.task.samples.federation.task, self.task.samples.federation.outcomes
        total, blocks = nothing_to_score(task), list[tuple[Tensor, Tensor]]()
        outputs, truth = list[Tensor](), list[Tensor]()
        with self.clock.part(FORWARD), torch.inference_mode():
            if ensemble is None:
                seen = self._logits(vector, index, own, answer)
            else:
                seen = self._logits_together(ensemble, index)
            for logits, y in seen:
                if task.whole:
                    blocks.append((logits.clone(), y))
                else:
                    total += task.tally(logits, y)
                if metrics.of_predictions:
                    for rows, new in zip((truth, outputs), task.seen_by_metrics(logits, y, outcomes)):
                        rows.append(new.cpu())
            if blocks:
                total = task.tally(torch.cat([logits for logits, _ in blocks]), torch.cat([y for _, y in blocks]))
        further = metrics.of_loss(total.loss_sum / total.count) if total.count else {}
        if not truth or not total.count:
            return Score(total.count, total.correct, total.loss_sum, values=further)
        scored, predictions = torch.cat(truth).numpy(), torch.cat(outputs).numpy()
        further |= metrics.of(scored, predictions)
        return Score(total.count, total.correct, total.loss_sum, scored, predictions, further)

    def _logits_together(self, ensemble: Ensemble, index: NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor]]:
        """Likewise, of several models together."""
        each = [self._logits(model, index, None, None) for model in ensemble.models]
        for blocks in zip(*each):
            of_models = torch.stack([logits for logits, _ in blocks])
            weights = ensemble.weights.view(-1, *(1,) * (of_models.dim() - 1))
            yield (weights * of_models).sum(0), blocks[0][1]

    def _logits(
        self, vector: Tensor, index: NDArray[np.int64], own: str | None, answer: Answer | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits and labels ``[n, ...]`` of samples, some at a time.

        A traced forward pass goes through blocks of few sizes, the last filled up with copies of a sample,
        which changes no other sample's logits, as a model in evaluation looks at each by itself.
        """
        samples, most = self.task.samples, self._at_once(1)
        for start in range(0, len(index), most):
            part = index[start : start + most]
            block = min(SCORE_BLOCK if samples.channels_last else most, rounded(len(part)))
            filled = np.concatenate([part, part[: -len(part) % block]])
            with self.clock.part(DATA):
                x, y = samples.batch(filled.reshape(-1, block))
            logits = self._traced_logits(x, vector) if own is None and answer is None else None
            if logits is None:
                self._bind_for_scoring(vector)
                logits = torch.cat([self._logits_of(few, own, answer) for few in x])
            yield logits[: len(part)], y.flatten(0, 1)[: len(part)]

    def _traced_logits(self, x: Tensor, vector: Tensor) -> Tensor | None:
        """The model's logits for blocks ``x`` ``[T, B, ...]``; None where it has to be called itself."""
        forward = self.tracer.forward(x[0]) if self.tracer else None
        if forward is None:
            return None
        P = self.task.layout.parameters
        try:
            return forward.map(x, vector[P:], vector[:P])
        except Exception:
            return None  # the model itself says what is wrong with the samples

    def _logits_of(self, x: Tensor, own: str | None, answer: Answer | None) -> Tensor:
        """Logits for samples ``x`` ``[B, ...]`` of the model that is bound."""
        module = self.task.module
        if answer is not None:
            return answer.logits(layer_outputs(model_of(module), x, answer.layers))
        called = module if own is None else self.local.predict if own == PREDICTOR else self.local.module(own)
        logits: Tensor = called(x)
        return logits

    def _steps(
        self,
        turns: Sequence[Loop],
        state: State,
        stretches: Sequence[Batch],
        losses: Tensor,
        buffers: Callable[[], AbstractContextManager[Tensor]],
        external: Mapping[str, Tensor],
        play: Callable[[Loop, State, Batch], State],
        done: int,
    ) -> tuple[State, int]:
        """Train on mini-batches, traced where that can be.

        Args:
            turns: the kinds of step of a loop of the method's local training, which follow one another.
            state: its vectors; they may be changed.
            stretches: mini-batches of one shape that follow one another, each tensor with their number as its first
                dimension.
            losses: ``[columns]`` or ``[C, columns]`` float64; traced steps add to it what the objective gives.
            buffers: a block with what moves by no gradient as it is now, ``[Q]`` or ``[C, Q]``, where forward passes
                change it both sets of it, ``[2 Q]`` or ``[C, 2 Q]``; traced steps change it.
            external: tensors from outside, as terms ask for them; for a stack ``[C, ...]``.
            play: one step through the module and autograd; adds to ``losses`` and changes ``buffers`` itself.
            done: mini-batches of the loop that came before these.

        Returns:
            The new state, and how often traced steps evaluated the gradient.
        """
        evaluations = 0
        for number, batches in enumerate(stretches):
            joint = None
            # A first step may add vectors, such as a momentum's, and cannot be traced; what can at all, can then.
            if self.tracer is not None and number < 2:
                in_turn = _in_turn(turns, stretches[number:], done)
                joint = self.tracer.joint(state, in_turn, external) if len(in_turn) > 1 else None
            if joint is not None:
                program, kinds = joint
                inputs = [(kind, list(stretch.tensors().values())) for kind, (_, stretch) in zip(kinds, in_turn)]
                with self.clock.part(STEPS), buffers() as moving:
                    state = self.tracer.run(program, inputs, losses, moving, state, external)  # type: ignore[union-attr]
                for kind, (_, stretch) in zip(kinds, in_turn):
                    evaluations += len(stretch.y) * program.programs[kind].evaluations
                break
            state, traced = self._stretch(turns, state, batches, losses, buffers, external, play, done)
            evaluations, done = evaluations + traced, done + len(batches.y)
        return state, evaluations

    def _stretch(
        self,
        turns: Sequence[Loop],
        state: State,
        batches: Batch,
        losses: Tensor,
        buffers: Callable[[], AbstractContextManager[Tensor]],
        external: Mapping[str, Tensor],
        play: Callable[[Loop, State, Batch], State],
        done: int,
    ) -> tuple[State, int]:
        """Likewise, on mini-batches of one shape."""
        steps = len(batches.y)
        ask = [self.tracer is not None] * len(turns)
        t = evaluations = 0
        while t < steps:
            place = (done + t) % len(turns)
            turn, batch = turns[place], batches.at(t)
            program = self.tracer.program(turn, state, batch, external) if ask[place] and self.tracer else None
            if program is not None:
                end = steps if len(turns) == 1 else t + 1
                inputs = [tensor[t:end] for tensor in batches.tensors().values()]
                with self.clock.part(STEPS), buffers() as moving:
                    state = self.tracer.run(program, inputs, losses, moving, state, external)  # type: ignore[union-attr]
                evaluations, t = evaluations + (end - t) * program.evaluations, end
                continue
            before = set(state)
            with self.clock.part(METHOD):  # the engine's gradient is a part of its own
                state = play(turn, state, batch)
            ask[place] = ask[place] and set(state) != before  # a first step may add vectors, such as a momentum's
            t += 1
        return state, evaluations

    def plans(self, update: ClientUpdate[Any], client: int, round: int) -> tuple[Plan, ...]:
        """A client's samples in the order of each of its round's loops, and what else it goes through."""
        task = self.task
        with self.clock.part(DATA):
            replayed = self.replays.places(client) if self.replays else None
            plans, steps, federation = list[Plan](), 0, task.samples.federation
            share = share_of_work(update.stragglers, task.seed, round, client)
            for number, loop in enumerate(update.round_loops):
                at, budget = Where(round, client, number, steps), loop.budget.of_share(share)
                plans.append(make_plan(federation, task.objective, budget, task.seed, at, replayed))
                steps += len(plans[-1].sizes)
            return tuple(plans)

    def _count(self, samples: int, of_loops: tuple[int, ...]) -> Count:
        """How much one client has trained; the tensor of a number of samples is made once."""
        return Count(self._number(samples), sum(of_loops), of_loops)

    def _number(self, samples: int) -> Tensor:
        if samples not in self._sample_counts:
            self._sample_counts[samples] = torch.full((1,), float(samples), device=self.task.samples.device)
        return self._sample_counts[samples]

    def _first_memory(self, update: ClientUpdate[Any], received: Vectors, client: int) -> Memory:
        """What a client that has not trained yet begins with, which received ``"w"`` as ``[P]``."""
        if type(update).first_memory is ClientUpdate.first_memory:  # nothing, which asks for no initial model
            return {}
        initial = self._first_of(self._begun, client)
        return update.first_memory({**received, "initial": initial[: self.task.layout.parameters]})

    def _with_optimizers(
        self, update: ClientUpdate[Any], state: State, memories: Sequence[Memory], factor: float
    ) -> State:
        """A round's first state at the round's learning rates, with what optimisers keep between rounds.

        Args:
            update: the method's local training.
            state: of one client, or of a stack of as many as there are memories.
            memories: the clients'.
            factor: the schedule's.
        """
        if update.optimizer.scheduled:
            state = scheduled(state, factor)
        if not update.optimizer.keeps or not any(map(remembered, memories)):
            return state
        kept, stacked = {}, state["w"].dim() > 1
        for name, first in remembered(state).items():
            rows = [memory.get(name, first[row] if stacked else first) for row, memory in enumerate(memories)]
            kept[name] = torch.stack(rows) if stacked else rows[0]
        return {**state, **kept}

    def _probe_of(self, client: int, buffers: Tensor, samples: int) -> Probe:
        """A look at one client's samples, of which it trains on so many, with the buffers ``[Q]``."""
        own = self._probe(client, buffers), self._probe(client, buffers, training=True)

        def sums(w: Tensor, of: OfSamples) -> Tensor:
            return self._sums(torch.cat([w, buffers]), client, of)

        return Probe(*own, self._number(samples), lambda: self._labels_of(client), sums)

    def _sums(self, vector: Tensor, client: int, of: OfSamples) -> Tensor:
        """The sum over a client's labelled samples of what ``of`` makes of their features by ``vector`` ``[d]``."""
        total: Tensor | None = None
        with self.clock.part(STATISTICS):
            index = self.task.samples.federation.train[client]
            for layers, labels in self._layers_of(vector, index, labelled=True, layers=("features",)):
                part = of(layers["features"], labels)
                total = part if total is None else total + part
        assert total is not None
        return total

    def _labels_of(self, client: int) -> Tensor:
        """How many labelled training samples of each class a client holds, ``[k]``."""
        federation = self.task.samples.federation
        counts = np.bincount(federation.y[federation.train[client]], minlength=federation.classes)
        return torch.from_numpy(counts).to(self.task.samples.device, torch.float32)

    def _probe(self, client: int, buffers: Tensor, training: bool = False) -> Callable[[Tensor], Tensor]:
        """The loss of models ``[P]`` or ``[k, P]`` on a client's own samples, with the buffers ``[Q]``.

        Args:
            client: whose.
            buffers: batch-norm's.
            training: whether on its training samples even where it has others for validation.
        """

        def loss(models: Tensor) -> Tensor:
            federation = self.task.samples.federation
            own = training or federation.validation is None
            index = federation.train[client] if own else federation.validation_of(client)
            flat = models.detach().reshape(-1, models.shape[-1])
            try:
                scores = [self.score(torch.cat([model, buffers]), index, by_loss=True) for model in flat]
            finally:
                self.task.module.train()
            if not all(score.samples for score in scores):  # nor is padding anything to predict
                raise ValueError("it holds no labelled samples on which models could be compared")
            means = [score.loss_sum / score.samples for score in scores]
            return torch.tensor(means, dtype=torch.float32, device=models.device).reshape(models.shape[:-1])

        return loss

    def _streams(self, plan: Plan, round: int, client: int, steps: range, own: NDArray[np.int64]) -> dict[str, Tensor]:
        """Further streams of some of a client's mini-batches, ``[T, B', *shape]`` each.

        Args:
            plan: the client's.
            round: decides, with the client, the views' random numbers.
            client: its id.
            steps: which mini-batches, T of them.
            own: their samples ``[T, B]``.
        """
        task, streams = self.task, dict[str, Tensor]()
        slices = slice(steps.start, steps.stop)
        for name, index in plan.more.items():
            if name == "public":
                places = index[slices]
                streams["public"], _ = task.samples.batch(task.samples.federation.public[places], name)
                streams["public_at"] = torch.from_numpy(places).to(task.samples.device)
            elif name == "replay":
                assert self.replays is not None
                with self.clock.part(SYNTHESIS):
                    streams["replay"], streams["replay_y"] = self.replays.batch(client, index[slices])
            elif task.objective.needs & {"target", "unlabelled"}:
                streams[name], _ = task.samples.batch(index[slices], name)
        if plan.views:
            seen = own if plan.views == "x" else plan.more[plan.views][slices]
            for which, name in enumerate(("view_a", "view_b")):
                seeds = view_seeds(task.seed, round, client, plan.numbers(steps), which)
                streams[name] = task.samples.views(seen, seeds, name)
        return streams

    def _external(self, w: Tensor, memory: Memory, context: RoundContext, client: int) -> dict[str, Tensor]:
        """What terms ask for from outside, for one client: it received ``w`` ``[d]``, its private parts are in it."""
        tensors = dict[str, Tensor]()
        for name in self.task.objective.outside:
            if name == "progress":
                tensors[name] = torch.full((), context.progress, device=w.device)
            elif name == "model:global":
                tensors[name] = w
            elif name == "model:previous":
                tensors[name] = memory.get(PREVIOUS, w)
            elif name == "model:before":
                tensors[name] = memory[PREVIOUS] if PREVIOUS in memory else self._first_of(self._begun, client)
            elif name == "model:phase":
                tensors[name] = self._with_private(context.vectors.get(name, w), memory, client)
            elif name == "model:initial":
                tensors[name] = w if self.task.initial is None else self._first_of(self._initial, client)
            elif name in context.vectors:  # a statistic, from the second round on
                tensors[name] = context.vectors[name]
        return tensors

    def _at_once(self, each: int) -> int:
        """How many mini-batches of ``each`` samples are gathered together."""
        of_one = 4 * math.prod(self.task.samples.federation.shape)
        return max(1, GATHER_BYTES[self.task.samples.device.type] // (of_one * each))

    def _groups(self, sizes: NDArray[np.int64], alone: bool, clients: int = 1) -> Iterator[list[tuple[int, int]]]:
        """Stretches of mini-batches of one size that follow one another, ``(steps, size)``, as gathered together.

        Args:
            sizes: of the mini-batches.
            alone: whether each stretch is to be gathered by itself.
            clients: how many have a mini-batch in each step.
        """
        room = most = 0 if alone else self._at_once(clients)
        group: list[tuple[int, int]] = []
        for size, run in ((int(size), len([*same])) for size, same in itertools.groupby(sizes)):
            longest = self._at_once(size * clients)
            for first in range(0, run, longest):
                steps = min(longest, run - first)
                if group and steps * size > room:
                    yield group
                    group, room = [], most
                group.append((steps, size))
                room -= steps * size
        if group:
            yield group

    def _gathered(self, index: NDArray[np.int64], shapes: Sequence[tuple[int, ...]], labelled: bool) -> list[Batch]:
        """Mini-batches of one shape after another, gathered at once.

        Args:
            index: all their samples, ``[n]``.
            shapes: of each stretch's labels, ``[T, B]`` or ``[T, C, B]``.
            labelled: whether anybody is to see the labels.
        """
        x, y = self.task.samples.batch(index)
        if not labelled:
            y = torch.zeros_like(y)
        stretches, start = list[Batch](), 0
        for shape in shapes:
            end = start + math.prod(shape)
            own = in_order(x[start:end].view(*shape, *x.shape[1:]), self.task.samples.channels_last)
            stretches.append(Batch(own, y[start:end].view(*shape, *y.shape[1:]), None, NO_STREAMS, labelled))
            start = end
        return stretches

    def _first_buffers(self, update: ClientUpdate[Any], w: Tensor, memory: Memory) -> Tensor:
        """Where the client's untrained part begins: with the model that its training begins with."""
        theirs = w[self.task.layout.parameters :]
        return memory.get(BUFFERS, theirs) if update.goes_on else theirs

    def _first_own(self, update: ClientUpdate[Any], w: Tensor) -> Tensor:
        """The buffers ``[Q]`` that a client's own model begins with, which received ``w`` ``[d]``."""
        P = self.task.layout.parameters
        if update.own_statistics != "initial":
            return w[P:]
        return torch.where(self.binding.statistics, self._begun[P:], w[P:])

    def _second_buffers(self, update: ClientUpdate[Any], w: Tensor, memory: Memory) -> Tensor:
        """Where the second set begins: with what its own model has, where the method asks for that."""
        if update.own_statistics is None:
            return w[self.task.layout.parameters :]
        return memory.get(BUFFERS, self._first_own(update, w))

    def _with_private(self, w: Tensor, memory: Memory, client: int) -> Tensor:
        """The model ``w`` ``[d]`` with the client's own private parts; it has its first ones until it has trained."""
        sharing, first = self.task.sharing, self.task.first_private
        if sharing is None or (PRIVATE not in memory and first is None):
            return w
        w = w.clone()
        w[sharing.private] = memory[PRIVATE] if first is None or PRIVATE in memory else first(client).to(w.device)
        return w

    def _first_of(self, model: Tensor, client: int) -> Tensor:
        """A first model ``[d]``, the run's or that of a restart, with what is the client's own of it."""
        return self._with_private(model, {}, client)

    def _ended(
        self,
        update: ClientUpdate[Any],
        client: int,
        received: Vectors,
        before: Memory,
        finished: tuple[Vectors, Memory],
        trained: Tensor | None,
        sets: Tensor,
    ) -> tuple[Vectors, Memory, tuple[Tensor, ...]]:
        """What a client's training comes to.

        Args:
            update: the method's local training.
            client: its id.
            received: what it received, ``"w"`` as ``[d]``.
            before: its memory before training.
            finished: what ``finish`` gave.
            trained: the model ``[P]`` that its steps ended in, the state's ``"w"``, which an upload of that name need
                not be; None where the method calls its vectors otherwise, and the upload is taken for it.
            sets: its numbers that moved by no gradient, ``[1, Q]``, or ``[2, Q]`` with its own model's.

        Returns:
            The uploads, the memory with what engines keep in it, and the statistics.
        """
        task, (uploads, kept) = self.task, finished
        check_uploads(update, uploads)
        buffers, of_own = sets[0], sets[0 if update.own_statistics is None else -1]
        memory = {**kept, BUFFERS: of_own.clone()} if kept and task.remembered_buffers else kept
        asks = task.objective.statistics
        local: Tensor | None = None
        if "w" in uploads:
            model = uploads["w"] if trained is None else trained
            local = torch.cat([model, buffers]) if task.buffers else model
        elif asks or task.objective.remembers:
            own = update.personal({**received, "w": received["w"][: task.layout.parameters]}, kept)
            local = torch.cat([own, of_own]) if task.buffers else own
        if "w" in update.sums and task.buffers:
            uploads = {**uploads, "w": torch.cat([uploads["w"], buffers])}
        if update.only_uploads(received):
            return uploads, {**before, **of_method(kept)}, ()
        if task.sharing is not None and len(task.sharing.private) and "w" in update.sums:
            assert local is not None
            memory = {**memory, PRIVATE: local[task.sharing.private]}
        if task.objective.remembers and local is not None:
            memory = {**memory, PREVIOUS: local.clone()}
        return uploads, memory, self.statistics(local, client) if local is not None else ()


def check_uploads(update: ClientUpdate[Any], uploads: Vectors) -> None:
    """Check that ``finish`` uploads what the method's class names.

    Raises:
        ValueError: it does not.
    """
    if uploads.keys() != update.upload_names:
        named, there = sorted(update.upload_names), sorted(uploads)
        raise ValueError(f"{type(update).__name__}.finish uploads {there}, and its sums and rows name {named}")


def own_memory(state: State, others: Sequence[Tensor]) -> State:
    """A fresh state, each tensor in memory of its own: a step may change it in place.

    What it shares with ``others`` (downloads and memories), with itself, or has but once for a whole stack is copied.
    """
    if state.keys() == {"w"} and state["w"].is_contiguous() and not others:
        return state
    taken, own = {tensor.untyped_storage().data_ptr() for tensor in others}, dict[str, Tensor]()
    for name, tensor in state.items():
        if not tensor.is_contiguous() or tensor.untyped_storage().data_ptr() in taken:
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        taken.add(tensor.untyped_storage().data_ptr())
        own[name] = tensor
    return own


def rounded(n: int, bits: int = 4) -> int:
    """The least number ≥ n whose binary digits after the first ``bits`` are 0, so that many n share one."""
    step = 1 << max(0, n.bit_length() - bits)
    return -(-n // step) * step


def _in_turn(turns: Sequence[Loop], stretches: Sequence[Batch], done: int) -> list[tuple[Loop, Batch]]:
    """Stretches with whose turn they are, step by step where steps take turns; ``done`` steps came before."""
    if len(turns) == 1:
        return [(turns[0], stretch) for stretch in stretches]
    each = [stretch.part(t) for stretch in stretches for t in range(len(stretch.y))]
    return [(turns[(done + place) % len(turns)], one) for place, one in enumerate(each)]
