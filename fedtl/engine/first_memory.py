"""What a method's clients remember, tried out before the first round."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fedtl.choice import ConfigError
from fedtl.clients.contract import ClientUpdate, Count, Memory, Vectors
from fedtl.engine.engine import check_uploads
from fedtl.engine.module import LocalGradient
from fedtl.engine.task import Task, of_method
from fedtl.engine.trial import features_of, trial_probe
from fedtl.losses.batch import Batch
from fedtl.optimizers.stepper import remembered


def check_first_memory(task: Task, update: ClientUpdate[Any]) -> None:
    """Check that a client that has never trained begins with the same vectors as one that has.

    Only then can the two stand in one stack. One round of one mini-batch is gone through, with a gradient of zeros, so
    that neither the model nor the data matter.

    Raises:
        ConfigError: ``first_memory`` gives other vectors than ``finish`` keeps.
    """
    try:
        first, (uploads, kept) = after_one_step(task, update)
    except Exception:
        return  # whatever it is, it shows with the real data, and to the client that it concerns
    try:
        check_uploads(update, uploads)
    except ValueError as error:
        raise ConfigError(f"strategy.name = {update.settings.name!r}: {error}; let them name the same") from error
    if update.optimizer.asked and not update.optimizer.used:
        raise ConfigError(
            f"strategy.optimizer: {type(update).__name__} takes steps of its own, and does not begin with "
            "self.optimizer.init; leave optimizer, clip_norm, schedule and lr_scale out, or let it step by "
            "self.optimizer.step"
        )
    kept = of_method(kept)
    if not kept or _shapes(kept) == _shapes(first):
        return
    kind = type(update).__name__
    if wrong := sorted(kept.keys() ^ first.keys()):
        what = f"keeps {_names(kept)}, and its first_memory gives {_names(first)}"
        raise ConfigError(
            f"strategy.name = {update.settings.name!r}: {kind}.finish {what}; let the two name the same vectors "
            f"(here {', '.join(map(repr, wrong))}), as clients with and without a memory train together"
        )
    name = next(name for name in kept if kept[name].shape != first[name].shape)
    raise ConfigError(
        f"strategy.name = {update.settings.name!r}: {kind}.finish keeps {name!r} of shape {list(kept[name].shape)}, "
        f"and its first_memory gives one of shape {list(first[name].shape)}; let the two be alike"
    )


def check_travels(task: Task, update: ClientUpdate[Any]) -> None:
    """Check that what is in the model suits what travels of it.

    Raises:
        ConfigError: it has batch-norm statistics, and the method's clients upload no sum of models; or a term keeps a
            module of its own at clients, and they upload more than models, or train none with private parts.
    """
    if task.sharing is not None and len(task.sharing.private) and (more := update.more_than_a_model()):
        raise ConfigError(
            f"strategy.name = {update.settings.name!r}: its clients upload {more}, which is not offered where a part "
            "of the model stays at them (strategy.private, or a term's module that is not shared); leave that out"
        )
    if task.sharing is not None and len(task.sharing.private) and update.needs_whole_model:
        raise ConfigError(
            f"strategy.name = {update.settings.name!r}: it trains a model of which every part travels, and a part of "
            "it stays at clients (strategy.private, or a term's module that is not shared); leave that out"
        )
    travelling = len(task.sent(task.layout.flatten(task.module)))
    parameters = task.layout.parameters if task.sharing is None else task.sharing.parameters
    if travelling > parameters and update.uploads() and "w" not in update.sums:
        raise ConfigError(
            f"strategy.name = {update.settings.name!r}: its clients upload no sum of models with which batch-norm's "
            "running statistics could be averaged, and the model has such; take a model without batch-norm (group-norm "
            'is like it), or set strategy.frozen = ["batch-norm"]'
        )


def first_download(task: Task) -> Vectors:
    """What a client receives in the first round, ``"w"`` as ``[P]``; copies."""
    w = task.layout.flatten(task.module)[: task.layout.parameters]
    return {**{name: tensor.clone() for name, tensor in task.received.items()}, "w": w}


def first_memory(task: Task, update: ClientUpdate[Any]) -> Memory:
    """What a client begins with that trains in the first round."""
    received = first_download(task)
    return update.first_memory({**received, "initial": received["w"].clone()})


def after_one_step(task: Task, update: ClientUpdate[Any]) -> tuple[Memory, tuple[Vectors, Memory]]:
    """A client's first memory, and what it uploads and keeps after a round of one mini-batch in each loop.

    On zeros, with gradients and losses of zeros: it is names and shapes that count.
    """
    received = first_download(task)
    device = received["w"].device
    x = torch.zeros(2, *task.samples.federation.shape, device=device)
    batch = Batch(x, torch.zeros_like(task.samples.some_y((2,), torch.Generator())).to(device), None)
    first = first_memory(task, update)
    copies = {name: tensor.clone() for name, tensor in first.items()}
    outputs = task.samples.federation.outputs
    state = update.start(received, copies, trial_probe(task, torch.ones(1, device=device)))

    def layer(at: Tensor, batch: Batch, name: str) -> Tensor:
        return batch.x.new_zeros(len(batch.y), outputs if name == "logits" else features_of(task))

    for turn in (turn for loop in update.round_loops for turn in loop.turns):
        state = turn.step(state, batch, LocalGradient(_zeros, _zeros, layer))
    loops = len(update.round_loops)
    uploads, kept = update.finish(state, Count(torch.ones(1, device=device), loops, (1,) * loops))
    return first, (uploads, {**kept, **(remembered(state) if update.optimizer.keeps else {})})


def _zeros(at: Tensor, batch: Batch, *more: Tensor) -> tuple[Tensor, ...]:
    return tuple(map(torch.zeros_like, (at, *more)))


def _shapes(memory: Memory) -> dict[str, torch.Size]:
    return {name: vector.shape for name, vector in memory.items()}


def _names(memory: Memory) -> str:
    return ", ".join(map(repr, sorted(memory))) or "nothing"
