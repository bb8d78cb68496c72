"""Clients whose models differ: each trains with the engine of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fedtl.clients.update import ClientUpdate, Memory
from fedtl.engine.engine import NOTHING_GIVEN, Engine
from fedtl.engine.task import Given, Outcome


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
        self.clock, self.recorder = first.clock, first.recorder
        for engine in self.engines[1:]:  # a profile is of all together
            engine.share(self.clock)

    def of(self, client: int) -> Engine:
        """The engine of a client's own model."""
        return self.engines[client % len(self.engines)]

    def begun(self, w: Tensor, client: int) -> Tensor:
        """Its own model's first numbers, which nobody sent."""
        initial = self.of(client).task.initial
        assert initial is not None
        return initial

    def train(
        self,
        update: ClientUpdate[Any],
        w: Tensor,
        clients: Sequence[int],
        memories: Sequence[Memory],
        round: int,
        given: Given = NOTHING_GIVEN,
    ) -> list[Outcome]:
        """As any engine's, but that each begins with its own model's first numbers, not with ``w``: none is sent."""
        found: dict[int, Outcome] = {}
        for engine in self.engines:
            places = [place for place, client in enumerate(clients) if self.of(client) is engine]
            if not places:
                continue
            who, own = [clients[place] for place in places], [memories[place] for place in places]
            outcomes = engine.train(update, self.begun(w, who[0]), who, own, round, given)
            found.update(zip(places, outcomes))
        return [found[place] for place in range(len(clients))]

    def _train(
        self,
        update: ClientUpdate[Any],
        w: Tensor,
        clients: Sequence[int],
        memories: Sequence[Memory],
        round: int,
        given: Given,
    ) -> list[Outcome]:
        raise NotImplementedError
