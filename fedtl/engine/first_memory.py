"""What a method's clients remember, tried out before the first round."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fedtl.choice import ConfigError
from fedtl.clients.update import ClientUpdate, Memory
from fedtl.engine.task import Task
from fedtl.losses.batch import Batch


def check_first_memory(task: Task, update: ClientUpdate[Any]) -> None:
    """Check that a client that has never trained begins with the same vectors as one that has.

    Only then can the two stand in one stack. One round of one mini-batch is gone through, with a gradient of zeros, so
    that neither the model nor the data matter.

    Raises:
        ConfigError: ``first_memory`` gives other vectors than ``finish`` keeps.
    """
    w = task.layout.flatten(task.module)[: task.layout.parameters]
    x = torch.zeros(2, *task.samples.federation.shape, device=w.device)
    batch = Batch(x, torch.zeros(2, dtype=torch.int64, device=w.device), None)
    try:
        first = update.first_memory(w.clone())
        kept = _after_one_step(update, w.clone(), {name: vector.clone() for name, vector in first.items()}, batch)
    except Exception:
        return  # whatever it is, it shows with the real data, and to the client that it concerns
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


def _after_one_step(update: ClientUpdate[Any], w: Tensor, memory: Memory, batch: Batch) -> Memory:
    state = update.step(update.start(w, memory), batch, lambda at, batch: torch.zeros_like(at))
    return update.finish(state)[1]


def _shapes(memory: Memory) -> dict[str, torch.Size]:
    return {name: vector.shape for name, vector in memory.items()}


def _names(memory: Memory) -> str:
    return ", ".join(map(repr, sorted(memory))) or "nothing"
