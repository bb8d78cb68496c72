"""A mean of the models of several rounds, which is scored in the place of the one that trains on."""

from __future__ import annotations

import torch
from torch import Tensor

from fedtl.strategies.contract import Vectors


def with_average(w: Tensor) -> Vectors:
    """A server's first state with the model to score ``"w"``, the one to train ``"trained"``, and how many are in."""
    return {"w": w, "trained": w.clone(), "averaged": torch.zeros(1)}


def trained(state: Vectors, averages: bool) -> Tensor:
    """The model that clients go on from ``[P]``: where no mean is kept, the only one."""
    return state["trained"] if averages else state["w"]


def entered(state: Vectors, before: bool, averages: bool) -> Vectors:
    """The state at the beginning of a phase; clients go on from the same model as if no phase began.

    Args:
        state: after the phase before.
        before: whether a mean was kept in that one.
        averages: whether one is kept in this: it begins here, or goes on. Else it is given up, and the model that
            trains on is scored from now on.
    """
    if averages and not before:
        return {**state, **with_average(state["w"])}
    if before and not averages:
        kept = {name: tensor for name, tensor in state.items() if name not in ("trained", "averaged")}
        return {**kept, "w": state["trained"]}
    return state


def averaged(state: Vectors, new: Tensor, counts: bool) -> Vectors:
    """What of the state a round changes that leads to the model ``new`` ``[P]``: w ← (n w + new) / (n + 1).

    Args:
        state: as :func:`with_average` begins it.
        new: the model to train on.
        counts: whether it is averaged; if not, and no model has been so far, it is the one that is scored.
    """
    w, n = state["w"], state["averaged"]
    if counts:
        w, n = (n * w + new) / (n + 1), n + 1
    elif not n:
        w = new.clone()
    return {"w": w, "trained": new, "averaged": n}
