"""Clients whose models differ: each trains with the engine of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from fedtl.clients.contract import ClientUpdate
from fedtl.engine.assignment import Assignment, Received
from fedtl.engine.engine import Engine
from fedtl.engine.task import Outcome


class Mixed(Engine):
    """An engine for each model; client i has the (i mod k)-th of k.

    Where something is asked for that all clients have in common, as the terms' names, the first one answers.

    Args:
        engines: the models', in order; their tasks differ in the model alone.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.engines = tuple(engines)
        first = self.engines[0]
        self.task, self.binding, self.local, self.replays = first.task, first.binding, first.local, first.replays
        self.clock, self.tracer = first.clock, first.tracer
        self._updates: dict[tuple[ClientUpdate[Any], int], ClientUpdate[Any]] = {}
        for engine in self.engines[1:]:  # a profile is of all together
            engine.share(self.clock)

    def of(self, client: int) -> Engine:
        """The engine of a client's own model."""
        return self.engines[client % len(self.engines)]

    def begun(self, w: Tensor, client: int) -> Tensor:
        """Its own model's first parameters, which nobody sent."""
        initial = self.of(client).task.initial
        assert initial is not None
        return initial

    def train(self, assignment: Assignment) -> list[Outcome]:
        """As any engine's, but that each begins with its own model's first parameters: none are sent."""
        outcomes: dict[int, Outcome] = {}
        for number, engine in enumerate(self.engines):
            places = [place for place, client in enumerate(assignment.clients) if self.of(client) is engine]
            if not places:
                continue
            some = assignment.at(places)
            received = Received({"w": self.begun(some.received.model(0), some.clients[0])})
            own = replace(some, received=received, update=self._update_of(assignment.update, number))
            outcomes.update(zip(places, engine.train(own)))
        return [outcomes[place] for place in range(len(assignment.clients))]

    def _update_of(self, update: ClientUpdate[Any], number: int) -> ClientUpdate[Any]:
        """The local training of one of the models, made once: recordings belong to it."""
        key = update, number
        if key not in self._updates:
            self._updates[key] = update.with_layout(self.engines[number].task.layout)
        return self._updates[key]

    def _train(self, assignment: Assignment) -> list[Outcome]:
        raise NotImplementedError
