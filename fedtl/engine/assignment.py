"""What a cohort is asked to do in a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from fedtl.clients.contract import ClientUpdate, Memory, Vectors
from fedtl.engine.task import RoundContext

NO_CONTEXT = RoundContext()


@dataclass(frozen=True)
class Received:
    """A cohort's download; it is not changed.

    Attributes:
        shared: what all clients received, by name.
        each: what each received for itself, ``[n, …]`` in the order of the cohort's clients. One of the two has
            ``"w"``, a whole model ``[d]``.
    """

    shared: Vectors
    each: Vectors = field(default_factory=dict)

    def of(self, place: int) -> Vectors:
        """What one of the clients received."""
        return {**self.shared, **{name: rows[place] for name, rows in self.each.items()}}

    def model(self, place: int) -> Tensor:
        """The model ``[d]`` that one of the clients received."""
        return self.each["w"][place] if "w" in self.each else self.shared["w"]

    def at(self, places: Sequence[int]) -> Received:
        """What some of the clients received."""
        return Received(self.shared, {name: rows[list(places)] for name, rows in self.each.items()})

    def stacked(self, places: Sequence[int]) -> Vectors:
        """What some of the clients received besides the model, ``[C, …]``; what is shared lies in memory once."""
        some, count = self.at(places), len(places)
        shared = {name: tensor.expand(count, *tensor.shape) for name, tensor in self.shared.items()}
        return {name: tensor for name, tensor in {**shared, **some.each}.items() if name != "w"}


@dataclass(frozen=True)
class Assignment:
    """A cohort's round.

    Attributes:
        update: the method's local training.
        received: what the clients received.
        clients: their ids.
        memories: what each kept from before; empty for a client that has not trained yet.
        round: decides, with the run's seed and the client, the order of its samples.
        context: what else the round's training is given.
    """

    update: ClientUpdate[Any]
    received: Received
    clients: Sequence[int]
    memories: Sequence[Memory]
    round: int
    context: RoundContext = NO_CONTEXT

    @classmethod
    def of_model(
        cls, update: ClientUpdate[Any], w: Tensor, clients: Sequence[int], memories: Sequence[Memory], round: int
    ) -> Assignment:
        """From one model ``[d]`` for all, and nothing else."""
        return cls(update, Received({"w": w}), clients, memories, round)

    def at(self, places: Sequence[int]) -> Assignment:
        """The same for some of the clients."""
        clients, memories = [self.clients[place] for place in places], [self.memories[place] for place in places]
        return replace(self, received=self.received.at(places), clients=clients, memories=memories)
