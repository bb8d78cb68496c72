"""What the rounds ask of a method's server; methods derive from :class:`~fedtl.strategies.contract.Strategy`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from fedtl.clients.contract import ClientUpdate
from fedtl.clients.settings import Settings
from fedtl.server.exchange import Download, Uploads, Vectors


class Method(ABC):
    """The idea of a method's server: what it remembers, what it sends, and its step."""

    client_update: ClassVar[type[ClientUpdate[Any]]]

    @abstractmethod
    def first_state(self, w: Tensor) -> Vectors:
        """What the server remembers before the first round, given the initial model's parameters ``w`` ``[P]``."""

    def first_tables(self, w: Tensor) -> Vectors:
        """What the server remembers of each client that has a number before the first round, ``[n, …]``, by name."""
        return {}

    @abstractmethod
    def send(self, state: Vectors, clients: Sequence[int], round: int) -> Download:
        """What clients are sent."""

    @abstractmethod
    def send_to_score(self, state: Vectors, clients: Sequence[int], round: int) -> Download:
        """What clients are sent that are to be scored."""

    @abstractmethod
    def send_unseen(self, state: Vectors, clients: Sequence[int], round: int) -> Download:
        """What clients are sent that never train and are to be scored."""

    @abstractmethod
    def update(self, state: Vectors, uploads: Uploads, round: int) -> Vectors:
        """The state after a round."""

    def regrouped(self, state: Vectors, known: float) -> Vectors:
        """The state that a phase begins with in which other clients can train than in the one before.

        A mean over all N clients is then one over others. Of clients that could not train before it knows nothing, and
        what those brought to it that no longer can is not known apart.

        Args:
            state: after the phase before.
            known: how many of the N clients of the new phase could train in that one, from 0 to 1.
        """
        return state

    def with_other_options(self, state: Vectors, before: Settings) -> Vectors:
        """The state that a phase begins with that has other options than the one before, and goes on with its model.

        Args:
            state: after the phase before.
            before: the options in it.
        """
        return state

    @classmethod
    @abstractmethod
    def has_global_model(cls) -> bool:
        """Whether there is one model for all clients that training changes."""
