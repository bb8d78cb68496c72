"""All clients in this process: for tests, debugging, notebooks and a single GPU."""

from __future__ import annotations

from collections.abc import Iterable

from fedtl.grid.simulated import Order, SimulatedGrid
from fedtl.wire.worker import Reply, Worker


class InProcessGrid(SimulatedGrid):
    """A Grid whose clients all train here, one cohort after another; nothing can time out."""

    def __init__(self, worker: Worker, clients: int) -> None:
        super().__init__(clients)
        self._worker = worker

    def carry_out(self, order: Order, timeout: float | None) -> Iterable[Reply]:
        """Answer for all clients."""
        self.headcount.now(at_work=1)
        with self.clock.part(self.WAITING):
            return self._worker.handle(order.kind, order.content, order.clients, order.first)
