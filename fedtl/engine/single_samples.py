"""Mini-batches of a single sample, which some models cannot train on: said before the first round."""

from __future__ import annotations

import logging
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from fedtl.choice import ConfigError
from fedtl.clients.contract import ClientUpdate
from fedtl.data.batches import Budget
from fedtl.data.samples import FewSamples
from fedtl.engine.plan import samples_gone_through
from fedtl.engine.task import Task, reason
from fedtl.failure import may_fail
from fedtl.models.composite import model_of
from fedtl.models.generators import generators_of, seeded

log = logging.getLogger(__name__)

NAMED = 3
"""So many clients are named."""


def check_single_samples(task: Task, update: ClientUpdate[Any], max_failures: float) -> None:
    """Say which clients would fail in every round, as a mini-batch of theirs is a single sample.

    Whether the model trains on one is tried out: batch-norm does not on a vector, but it does on an image.

    Raises:
        ConfigError: so many clients would that the run would end in its first round; if fewer, they are told of.
    """
    own = samples_gone_through(task.samples.federation, task.objective)
    kinds = np.unique(own[own > 0])
    budgets = [loop.budget for loop in update.round_loops]
    budget = next((b for b in budgets if any(int(b.step_sizes(n).min()) == 1 for n in kinds.tolist())), None)
    if budget is None:
        return
    single = [n for n in kinds.tolist() if int(budget.step_sizes(n).min()) == 1]
    clients = np.flatnonzero(np.isin(own, single))
    why = _why_not_one(task)
    if why is None:
        return
    has_batch_norm = any(isinstance(layer, _BatchNorm) for layer in model_of(task.module).modules())
    who, remedy = _whose(clients, own, budget), _remedy(clients, own, budget, has_batch_norm)
    text = f"{who}, which this model cannot train on ({why}): {remedy}"
    if len(clients) > may_fail(max_failures, int(np.count_nonzero(own))):
        raise ConfigError(text)
    log.warning("%s; without that they are left out of every round", text)


def _why_not_one(task: Task) -> str | None:
    """Why the model does not train on a single sample, though it does on two; None if it does, or on neither."""
    federation = task.samples.federation
    few = FewSamples.of(federation)
    if few is None:
        return None
    if _what_fails(task, few.take(2)) is not None:
        return None  # that is no matter of the last mini-batch
    return _what_fails(task, few.take(1))


def _what_fails(task: Task, x: Tensor) -> str | None:
    """What goes wrong in a training pass over samples ``[n, *shape]``; None if nothing does."""
    module = deepcopy(model_of(task.module)).train()
    device = next(module.parameters()).device
    with seeded(0, generators_of(module)), torch.no_grad():
        try:
            output = module(x.to(device))
        except Exception as error:
            return reason(error).rstrip(".")
    if not isinstance(output, Tensor):
        return None  # training says it
    federation = task.samples.federation
    expected = federation.task.output_shape(len(x), federation.shape, federation.outputs)
    if output.shape != expected:  # as squeeze() makes of one
        return f"its output has shape {list(output.shape)}, not {list(expected)}"
    return None if bool(output.isfinite().all()) else "its output is not finite"


def _whose(clients: NDArray[np.int64], own: NDArray[np.int64], budget: Budget) -> str:
    named = [f"client {client} ({_counted(int(own[client]))})" for client in clients[:NAMED]]
    more = len(clients) - len(named)
    who = ", ".join(named) + (f" and {more} more" if more else "")
    which = "a mini-batch of theirs is" if len(clients) > 1 else "a mini-batch of its own is"
    return f"{who}: with strategy.batch_size = {budget.batch_size} {which} a single sample"


def _remedy(clients: NDArray[np.int64], own: NDArray[np.int64], budget: Budget, has_batch_norm: bool) -> str:
    if budget.batch_size == 1:
        return "set strategy.batch_size to 2 or more"
    other = "take a model that trains on a single sample"
    if has_batch_norm:
        other = "take a model without batch-norm (group-norm is like it)"
    if (own[clients] == 1).all():
        return f"{other}, or give each client two training samples or more"
    also = ", and for a client with one sample in all " + other if (own[clients] == 1).any() else f", or {other}"
    return f'set strategy.last_batch = "drop" or "merge", or another strategy.batch_size{also}'


def _counted(n: int) -> str:
    return "1 training sample" if n == 1 else f"{n} training samples"
