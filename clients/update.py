"""Local training between a download and an upload: the part that a method's paper writes per client."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Generic, TypeVar

from torch import Tensor

from fedtl.clients.settings import Settings
from fedtl.data.batches import Budget
from fedtl.losses.batch import Batch

State = dict[str, Tensor]
"""Named vectors that change from step to step; each ``[P]``, or ``[C, P]`` for a stacked cohort."""

Memory = dict[str, Tensor]
"""Named vectors ``[P]`` (or ``[C, P]``) that stay on the client between rounds and never travel."""

Gradient = Callable[[Tensor, Batch], Tensor]
"""``grad(w, batch)``: the local objective's gradient at ``w``, of the same shape, in memory of its own."""

S = TypeVar("S", bound=Settings)


class ClientUpdate(ABC, Generic[S]):
    """Local training of one client, or of a stacked cohort.

    The same code serves both: vectors are ``[P]`` or ``[C, P]``, and arithmetic is elementwise. The
    vectors in a state belong to it, each in memory of its own, so a step may change them in place; none may
    be called x, y, rest or weight. A step is a function of its state, its batch and ``grad``: what it kept on
    ``self`` would be the same for every client once the step is recorded, and is refused then. Only trainable
    parameters are seen here; batch-norm statistics follow the forward passes and are kept by the engine.
    """

    personalises: ClassVar[bool] = False
    """Whether the method gives each client a model of its own to be scored with."""

    goes_on: ClassVar[bool] = False
    """Whether training goes on from the client's own model, not from the download."""

    def __init__(self, settings: S) -> None:
        self.settings = settings
        o = settings
        self.budget = Budget(o.batch_size, o.local_steps, o.local_epochs, o.last_batch)

    def first_memory(self, w: Tensor) -> Memory:
        """The memory of a client that has not trained yet, given the model ``w`` that it first receives.

        It names all vectors that ``finish`` keeps, as clients with and without a memory train in one stack; a method
        that does otherwise is refused before the first round.
        """
        return {}

    @abstractmethod
    def start(self, w: Tensor, memory: Memory) -> State:
        """Begin a round from the download ``w`` and the client's memory."""

    @abstractmethod
    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        """Train on one mini-batch."""

    @abstractmethod
    def finish(self, state: State) -> tuple[Tensor | None, Memory]:
        """End the round: the upload (None where the method sends nothing) and the memory to keep."""

    def personal(self, memory: Memory) -> Tensor:
        """The personalised model in a memory that ``finish`` gave."""
        raise NotImplementedError(f"{type(self).__name__} has no personalised model")

    def for_scoring(self) -> ClientUpdate[S]:
        """The update that makes a personalised model out of the present global model: mostly this one."""
        return self
