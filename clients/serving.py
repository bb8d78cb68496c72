"""Which model serves a client: decided here alone, for server, workers, exports and deployment.

:mod:`fedtl.engine.served` makes the models.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

from fedtl.clients.contract import ClientUpdate


class Serving(StrEnum):
    """A client's own model; the values are those of messages, records and ``evaluate.personal``."""

    NONE = "none"
    """It has none: the global model serves it."""

    ADAPTED = "adapted"
    """What a local update from the present download makes; nothing of that update is kept."""

    STORED = "stored"
    """What the client kept when it was last sampled."""

    PARTIAL = "partial"
    """The global model with the parts that stay at the client, or a term's own module in it. A client that has never
    trained has none, unless the method says that it is served by their first values."""

    @classmethod
    def _missing_(cls, value: object) -> Serving | None:
        return cls(OLDER[value]) if isinstance(value, str) and value in OLDER else None


OLDER: Final = {"fresh": "adapted", "last": "stored", "kept": "partial"}
"""The words of older configs, records and exported models, with the present ones."""


def serving(update: type[ClientUpdate[Any]], keeps_parts: bool, asked: str) -> Serving:
    """The model that serves each client.

    Args:
        update: the method's local training.
        keeps_parts: whether clients keep parts of the model to themselves, or a term's module beside it.
        asked: ``evaluate.personal``, ``"adapted"`` or ``"stored"``.
    """
    if update.personalises:
        return Serving(asked)
    return Serving.PARTIAL if keeps_parts else Serving.NONE
