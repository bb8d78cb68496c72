"""Local training alone: the baseline without federation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from fedtl.clients.contract import Count, Memory, Probe, State, Vectors, Weighting
from fedtl.clients.sgd import SGD


class Local(SGD):
    """SGD on one's own model, which never leaves the client; all begin from the same initial model.

    With ``evaluate.personal = "stored"`` a client is scored with the model that it has trained so far. By default it is
    scored as other methods' clients are, with what its local training makes of that now: one round's training more.
    """

    sums: ClassVar[Mapping[str, Weighting]] = {}
    personalises: ClassVar[bool] = True
    goes_on: ClassVar[bool] = True

    def first_memory(self, received: Vectors) -> Memory:
        """The common initial model."""
        return {"w": received["w"].clone()}

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        """Go on from one's own model, whatever the server sent."""
        w = received["w"].copy_(memory["w"])
        return {"w": w, **self.optimizer.init(w)}

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        """Send nothing; keep the model."""
        return {}, {"w": state["w"]}

    def personal(self, received: Vectors, memory: Memory) -> Tensor:
        """One's own model."""
        return memory["w"]
