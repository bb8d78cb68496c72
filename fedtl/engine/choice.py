"""Which engine trains: decided from the config, the device and the model, never by a timing.

So the same config gives the same bits on the same kind of device, and the record says what was chosen and why.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, vmap

from fedtl.choice import ConfigError
from fedtl.clients.contract import ClientUpdate
from fedtl.data.batches import Budget
from fedtl.data.samples import FewSamples
from fedtl.engine.assignment import Assignment, Received
from fedtl.engine.engine import Engine
from fedtl.engine.one_by_one import OneByOne
from fedtl.engine.plan import eligible
from fedtl.engine.stacked import Stacked, counts_batch, padded, stack_of
from fedtl.engine.stale import WHY, reads_own
from fedtl.engine.step_tracer import why_not_traced
from fedtl.engine.task import Outcome, Task, Trained, reason
from fedtl.models.generators import generators_of, kept_elsewhere, state_elsewhere
from fedtl.models.vector import Layout

STACK_BELOW = 20_000
"""On a CPU, traced stacks are faster for models of fewer parameters; ``results/benchmarks/stacked.md``."""

STACK_LSTM_BELOW = 3_000
"""An LSTM, which oneDNN has as one operation, is stacked cell by cell; ``results/benchmarks/sequences.md``."""

STACK_FROM = 4
"""On a CPU, stacking is worth its recordings where so many of a round's clients share a stack."""


@dataclass(frozen=True)
class EngineChoice:
    """An engine, and why.

    Attributes:
        stacked: whether clients train stacked.
        traced: whether steps are traced.
        because: the reasons, in a few words.
    """

    stacked: bool
    traced: bool
    because: str

    @property
    def name(self) -> str:
        """What is chosen, in a few words."""
        return f"{'stacked' if self.stacked else 'one by one'}, {'traced' if self.traced else 'not traced'}"

    def make(self, task: Task) -> Engine:
        """The engine itself."""
        return (Stacked if self.stacked else OneByOne)(task, self.traced)


Choices = tuple[EngineChoice, ...]
"""For each of a run's phases."""


def choose_engine(
    stacked: bool | str, traced: bool | str, task: Task, update: ClientUpdate[Any], device: str, sampled: int
) -> EngineChoice:
    """Choose an engine.

    Args:
        stacked: what the config asks for; "auto" decides by the rules of this module.
        traced: likewise.
        task: what is trained; on any device, it is only tried out.
        update: the method's local training.
        device: where clients train, ``"cpu"`` or ``"cuda"``.
        sampled: how many clients train in a round.

    Raises:
        ConfigError: something is asked for that the model or the method cannot do.
    """
    stack, because = _stacked(stacked, traced, task, update, device, sampled)
    if traced is False:
        return EngineChoice(stack, False, f"{because}; simulation.traced = false")
    if traced == "auto" and device != "cpu":
        return EngineChoice(stack, False, f"{because}; steps are traced on a CPU only")
    why_not = why_not_traced(task, update, stack)
    if not why_not and stack and stacked == "auto" and device == "cpu" and depends_on_stack(task, update):
        stack, because = False, "on a CPU a client's bits would depend on the stack that it shares with this model"
        why_not = why_not_traced(task, update, stack)
    if why_not and stack and stacked == "auto" and device == "cpu":  # there only traced stacks are faster
        stack, because = False, f"a stack's step cannot be traced: {why_not}"
        why_not = why_not_traced(task, update, stack)
    if why_not is None:
        return EngineChoice(stack, True, because)
    if traced is True:
        raise ConfigError(f"simulation.traced = true: this step cannot be traced: {why_not}")
    return EngineChoice(stack, False, f"{because}; the step cannot be traced: {why_not}")


def _stacked(
    stacked: bool | str, traced: bool | str, task: Task, update: ClientUpdate[Any], device: str, sampled: int
) -> tuple[bool, str]:
    if stacked is False:
        return False, "simulation.stacked = false"
    if stacked == "auto" and device == "cpu":
        against = _against_stacking_on_cpu(traced, task, update, sampled)
        if against:
            return False, f"on a CPU {against} faster one by one"
    federation = task.samples.federation
    why_not = refusal(task.module, federation.shape, FewSamples.of(federation))
    if task.objective.draws is not None:
        term = task.objective.draws
        why_not = f"the term {term!r} draws random numbers, which would differ from one-by-one training's"
    if why_not is None:
        if stacked is True:
            return True, "simulation.stacked = true"
        if device == "cpu":
            return True, f"on a CPU models of fewer than {STACK_BELOW:,} parameters are faster stacked"
        return True, "on a GPU stacked cohorts are faster"
    if stacked is True:
        raise ConfigError(f"simulation.stacked = true: this model cannot train stacked: {why_not}")
    return False, f"this model cannot train stacked: {why_not}"


def _against_stacking_on_cpu(traced: bool | str, task: Task, update: ClientUpdate[Any], sampled: int) -> str | None:
    """What is faster one by one, in a few words; None if stacks are."""
    if traced is False:
        return "steps that are not traced are"
    if task.layout.parameters >= STACK_BELOW:
        return f"models of {STACK_BELOW:,} parameters or more are"
    if any(isinstance(layer, nn.modules.conv._ConvNd) for layer in task.module.modules()):
        return "convolutions are"
    lstm = any(isinstance(layer, nn.LSTM) for layer in task.module.modules())
    if lstm and task.layout.parameters >= STACK_LSTM_BELOW:
        return f"LSTMs of {STACK_LSTM_BELOW:,} parameters or more are"
    if update.stragglers:
        return "clients that train for unequal times (strategy.stragglers) are"
    exact, classes = counts_batch(task), set()
    sizes = task.samples.federation.train.sizes
    for n in np.unique(np.delete(sizes, task.samples.federation.unseen)).tolist():
        if n:
            kind = list[object]()
            for budget in (loop.budget for loop in update.round_loops):
                sizes = budget.step_sizes(n)
                kind.append(stack_of(budget, sizes, sizes if exact else padded(budget, n)))
            classes.add(tuple(kind))
    if sampled < STACK_FROM:
        return f"so few clients at once ({sampled}; stacks take {STACK_FROM} or more) are"
    if sampled < STACK_FROM * len(classes):
        return f"{sampled} clients at once, of {len(classes)} kinds of stacks by their numbers of samples, are"
    return None


def depends_on_stack(task: Task, update: ClientUpdate[Any]) -> bool:
    """Whether a client's traced training gives other bits in a stack, or at other places of it, than alone.

    Matrix products of many clients are computed one by one, but by code that may depend on how many there are and on
    where in memory each begins; that shows where layers are narrow or mini-batches small. It is tried out on a few
    clients.
    """
    engine = Stacked(replace(task, module=deepcopy(task.module)), traced=True)
    received, short = {**task.received, "w": task.layout.flatten(task.module)}, update.shortened(8)
    budgets = [loop.budget for loop in short.round_loops] or [short.budget]
    for one in dict.fromkeys(client for budget in budgets for client in _unlike_clients(task, budget)):
        # Among copies of itself: they share a stack, and each should have the same bits.
        rounds = (Assignment(short, Received(received), [one] * n, [{}] * n, 1) for n in (1, 2, 5))
        alone, *others = (engine.train(each) for each in rounds)
        if any(not _same(alone[0], other) for outcomes in others for other in outcomes):
            return True
    return False


def _unlike_clients(task: Task, budget: Budget) -> list[int]:
    """The first client that can train, and the one with the smallest mini-batch if that is another's."""
    federation = task.samples.federation
    clients = eligible(federation, task.objective)
    first = 0 if clients is None else int(clients[0])
    sizes = federation.train.sizes
    holders = np.flatnonzero(sizes) if clients is None else clients[sizes[clients] > 0]
    if not len(holders):
        return [first]
    kinds, places = np.unique(sizes[holders], return_index=True)
    smallest = min(range(len(kinds)), key=lambda kind: int(budget.step_sizes(int(kinds[kind])).min()))
    tail = int(holders[places[smallest]])
    alike = sizes[first] and budget.step_sizes(int(sizes[first])).min() == budget.step_sizes(int(sizes[tail])).min()
    return [first] if alike else [first, tail]


def _same(a: Outcome, b: Outcome) -> bool:
    if not isinstance(a, Trained) or not isinstance(b, Trained):
        return True  # whatever it is, it shows when the run begins
    pairs = (a.uploads, b.uploads), (a.memory, b.memory)
    same = all(torch.equal(mine[name], theirs[name]) for mine, theirs in pairs for name in mine)
    return same and a.losses == b.losses


def refusal(module: nn.Module, shape: tuple[int, ...], few: FewSamples | None = None) -> str | None:
    """Why a model cannot train stacked, in a few words; None if it can.

    Args:
        module: the model.
        shape: a sample's.
        few: samples to try it on; zeros if None.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0:
            return f"its layer {name!r} is dropout, whose random numbers would differ from one-by-one training's"
        if isinstance(layer, nn.Embedding) and layer.padding_idx is not None:
            return f"its layer {name!r} has a padding_idx, which vmap minds in a stack's first client alone"
    layout = Layout.of(module)
    flat = layout.flatten(module)
    # Two clients and two samples show whether vmap can map the model; in training mode, on copies.
    P = layout.parameters
    w = flat[:P].expand(2, -1).clone()
    buffers = {
        name: tensor.contiguous() for name, tensor in layout.buffer_views(flat[P:].expand(2, -1).clone()).items()
    }
    x = (torch.zeros(4, *shape) if few is None else few.take(4)).view(2, 2, *shape).to(flat.device)
    training, own = module.training, generators_of(module)
    try:
        module.train()
        with kept_elsewhere():
            before = state_elsewhere(own)
            vmap(lambda w, buffers, x: functional_call(module, layout.views(w) | buffers, (x,)))(w, buffers, x)
            if state_elsewhere(own) != before:
                return (
                    "it draws random numbers from NumPy, from Python or from a generator of its own, which all "
                    "clients of a stack would share"
                )
            if reads_own(module, layout, x[0]):
                return WHY
    except Exception as error:
        return f"vmap cannot map it: {reason(error)}"
    finally:
        module.train(training)
    return None
