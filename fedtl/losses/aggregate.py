"""What clients tell the server besides their models: sums over their samples, which add up over clients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedtl.losses.context import Layers


@dataclass(frozen=True)
class ClientAggregate(ABC):
    """Sums over a client's samples that the server adds up, and hands out again in the next round.

    Sums alone travel, so that no server and no worker need know whose they were.

    Attributes:
        name: of the term that asks for it.
    """

    name: str

    on: ClassVar[str] = "source"
    """Whose samples it sums over: the client's labelled ``"source"``, its ``"target"``, or the ``"public"`` ones."""

    @abstractmethod
    def collect(self, blocks: Iterable[tuple[Layers, Tensor]]) -> Tensor:
        """The sums ``[s]`` over a client's samples, float64.

        Args:
            blocks: what the client's own model makes of them, ``[B, ...]`` by layer, and their labels ``[B]``;
                labels mean something on the ``"source"`` alone. A client without samples gives an empty block.
        """

    def merge(self, before: Tensor | None, total: Tensor) -> Tensor:
        """What clients receive in the next round, ``[size]``: from the one before, and this round's sums."""
        return total
