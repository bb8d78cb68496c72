"""What engines have in common: the model bound to vectors, a client's samples in order, scoring."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fedtl.clients.update import ClientUpdate, Memory, State
from fedtl.clock import Clock
from fedtl.data.batches import SAMPLE_ORDER, stream
from fedtl.engine.module import Outputs, forked_rng
from fedtl.engine.parts import DATA, FORWARD, METHOD, STEPS
from fedtl.engine.recorder import Recorder
from fedtl.engine.task import REST, Outcome, Score, Task
from fedtl.losses.term import Batch
from fedtl.vector import Binding

GATHER_BYTES = {"cpu": 2**22, "cuda": 2**26}
"""Samples are gathered together up to this much memory: not in each step, but within the cache."""

SCORE_BLOCK = 32
"""Images per forward pass of a convolutional model on a CPU: what passes between layers stays in the cache."""


class Engine(ABC):
    """Trains and scores cohorts; leaves its task's module bound to its own vectors.

    Args:
        task: what is trained.
        recorded: whether steps are recorded and replayed, those that can be.
    """

    stacks: ClassVar[bool]
    """Whether clients train stacked."""

    def __init__(self, task: Task, recorded: bool = False) -> None:
        self.task = task
        self.binding = Binding(task.module, task.layout)
        self.outputs = Outputs(task.module, task.objective.needs_features)
        on_gpu = task.samples.device.type == "cuda"  # which works behind the program's back
        self.clock = Clock(settle=torch.cuda.synchronize if on_gpu else None)
        self.recorder = Recorder(task, self.outputs, self.stacks, self.clock) if recorded else None

    def train(
        self, update: ClientUpdate[Any], w: Tensor, clients: Sequence[int], memories: Sequence[Memory], round: int
    ) -> list[Outcome]:
        """Train a cohort from one model.

        Args:
            update: the method's local training.
            w: the download ``[d]``; not changed.
            clients: their ids.
            memories: what each kept from before; empty for a client that has not trained yet.
            round: decides, with the run's seed and the client, the order of its samples.

        Returns:
            An outcome per client, in the order of ``clients``.
        """
        self.task.module.train()
        with forked_rng(self.task.samples.device):
            return self._train(update, w, clients, memories, round)

    @abstractmethod
    def _train(
        self, update: ClientUpdate[Any], w: Tensor, clients: Sequence[int], memories: Sequence[Memory], round: int
    ) -> list[Outcome]: ...

    def personal_vector(self, update: ClientUpdate[Any], memory: Memory, w: Tensor) -> Tensor:
        """The personalised model ``[d]`` in a memory, with the client's own untrained part (else that of ``w``)."""
        personal = update.personal(memory)
        if not self.task.rest:
            return personal
        return torch.cat([personal, memory.get(REST, w[self.task.layout.parameters :])])

    def score(self, vector: Tensor, index: NDArray[np.int64]) -> Score:
        """Score the model ``vector`` ``[d]`` on the samples at ``index``."""
        correct, loss_sum = 0, 0.0
        with self.clock.part(FORWARD), torch.inference_mode():
            for logits, y in self._logits(vector, index):
                correct += int((logits.argmax(1) == y).sum())
                loss_sum += float(F.cross_entropy(logits, y, reduction="sum"))
        return Score(len(index), correct, loss_sum)

    def _logits(self, vector: Tensor, index: NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits and labels ``[n, ...]`` of samples, some at a time.

        A recorded forward pass goes through blocks of few sizes, the last filled up with copies of a sample,
        which changes no other sample's logits, as a model in evaluation looks at each by itself.
        """
        samples, module, P = self.task.samples, self.task.module, self.task.layout.parameters
        most = self._at_once(1)
        for start in range(0, len(index), most):
            part = index[start : start + most]
            block = min(SCORE_BLOCK if samples.channels_last else most, rounded(len(part)))
            filled = np.concatenate([part, part[: -len(part) % block]])
            with self.clock.part(DATA):
                x, y = samples.batch(filled.reshape(-1, block))
            forward = self.recorder.forward(x[0]) if self.recorder else None
            if forward is not None:
                logits = forward.map(x, vector[P:], vector[:P])
            else:
                module.eval()
                self.binding.to(vector[:P])
                self.binding.rest.copy_(vector[P:])
                logits = torch.cat([module(few) for few in x])
            yield logits[: len(part)], y.reshape(-1)[: len(part)]

    def _steps(
        self,
        update: ClientUpdate[Any],
        state: State,
        batches: Batch,
        losses: Tensor,
        rest: Tensor,
        play: Callable[[State, Batch], State],
    ) -> tuple[State, int]:
        """Train on mini-batches of one shape, recorded where that can be.

        Args:
            update: the method's local training.
            state: its vectors; they may be changed.
            batches: T mini-batches, each tensor with T as its first dimension.
            losses: ``[terms]`` or ``[C, terms]`` float64; recorded steps add the terms' values to it.
            rest: what moves by no gradient, ``[Q]`` or ``[C, Q]``; recorded steps change it.
            play: one step through the module and autograd; adds to ``losses`` and changes ``rest`` itself.

        Returns:
            The new state, and how often recorded steps evaluated the gradient.
        """
        steps = len(batches.y)
        ask = self.recorder is not None
        for t in range(steps):
            batch = Batch(batches.x[t], batches.y[t], None if batches.weight is None else batches.weight[t])
            program = self.recorder.program(update, state, batch) if ask and self.recorder else None
            if program is not None:
                inputs = [tensor[t:] for tensor in batches if tensor is not None]
                with self.clock.part(STEPS):
                    program.run(inputs, losses, rest, state)
                return state, (steps - t) * program.evaluations
            before = set(state)
            with self.clock.part(METHOD):  # the engine's gradient is a part of its own
                state = play(state, batch)
            ask = ask and set(state) != before  # a first step may add vectors, such as a momentum's
        return state, 0

    def _plan(
        self, update: ClientUpdate[Any], client: int, round: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """A client's samples in the order of its round, its mini-batches' sizes, and how many samples it holds."""
        own = self.task.samples.federation.train[client]
        if not len(own):
            raise ValueError("it holds no training samples")
        with self.clock.part(DATA):
            order, sizes = update.budget.order(len(own), stream(self.task.seed, SAMPLE_ORDER, round, client))
        return own[order], sizes, len(own)

    def _at_once(self, each: int) -> int:
        """How many mini-batches of ``each`` samples are gathered together."""
        of_one = 4 * math.prod(self.task.samples.federation.shape)
        return max(1, GATHER_BYTES[self.task.samples.device.type] // (of_one * each))

    def _first_rest(self, update: ClientUpdate[Any], w: Tensor, memory: Memory) -> Tensor:
        """Where the client's untrained part begins: with the model that its training begins with."""
        theirs = w[self.task.layout.parameters :]
        return memory.get(REST, theirs) if update.goes_on else theirs

    def _joined(self, vector: Tensor | None, rest: Tensor) -> Tensor | None:
        """The upload ``[d]``."""
        return vector if vector is None or not self.task.rest else torch.cat([vector, rest])

    def _kept(self, memory: Memory, rest: Tensor) -> Memory:
        """The memory, with the client's own untrained part."""
        return {**memory, REST: rest.clone()} if memory and self.task.rest else memory


def rounded(n: int, bits: int = 4) -> int:
    """The least number that is not less than n and has ones in its first ``bits`` places alone: few have many n."""
    step = 1 << max(0, n.bit_length() - bits)
    return -(-n // step) * step
