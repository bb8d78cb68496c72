"""What a cohort trains, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from fedtl.clients.update import Memory
from fedtl.losses.objective import Objective
from fedtl.samples import Samples
from fedtl.vector import Layout

REST = "not trained"
"""In a memory: the client's own numbers that move by no gradient (batch-norm statistics)."""


@dataclass(frozen=True)
class Task:
    """What every client trains: a model, an objective and samples, on one device."""

    module: nn.Module
    layout: Layout
    objective: Objective
    samples: Samples
    seed: int

    @property
    def rest(self) -> int:
        """Q, how many numbers of the model's vector move by no gradient."""
        return self.layout.size - self.layout.parameters


@dataclass(frozen=True)
class Trained:
    """What a client's local training gave.

    Attributes:
        client: its id.
        samples: how many training samples it holds.
        upload: ``[d]``, or None where the method sends nothing.
        memory: what the client keeps; vectors ``[P]``.
        losses: each term's mean over the round's gradient evaluations, where each was evaluated, ``[terms]``.
        steps: mini-batches trained on.
    """

    client: int
    samples: int
    upload: Tensor | None
    memory: Memory
    losses: tuple[float, ...]
    steps: int


@dataclass(frozen=True)
class Failed:
    """A client whose training raised, and what it said."""

    client: int
    message: str

    @classmethod
    def by(cls, client: int, error: BaseException) -> Failed:
        """A client whose training raised ``error``."""
        return cls(client, reason(error))


@dataclass(frozen=True)
class Score:
    """How a model does on n samples: how many it labels correctly, and the sum of its cross-entropies."""

    samples: int
    correct: int
    loss_sum: float


Outcome = Trained | Failed


def reason(error: BaseException) -> str:
    """An exception in one line."""
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
