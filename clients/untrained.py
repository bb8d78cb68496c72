"""Scoring without a round: what a client's own model is made of where nothing has to be trained for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from fedtl.clients.contract import ClientUpdate, Count, Loop, Memory, State, Vectors, Weighting


class Untrained(ClientUpdate[Any]):
    """A method in place of its round: it starts, takes no step and uploads nothing.

    To stand before the method's own class, as in ``class _AsItIs(Untrained, FedPer)``, which
    :meth:`~fedtl.clients.contract.ClientUpdate.for_scoring` then gives.
    """

    sums: ClassVar[Mapping[str, Weighting]] = {}
    rows: ClassVar[tuple[str, ...]] = ()
    shows: ClassVar[Mapping[str, str]] = {}
    """What ``personal`` finds in the memory, and which of the state's vectors that is."""

    def loops(self) -> Sequence[Loop]:
        """None."""
        return ()

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        """What the client began with."""
        return {}, {name: state[vector] for name, vector in self.shows.items()}
