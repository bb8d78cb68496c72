"""Ray actors that outlive a run: a process takes seconds to start, and can be many runs' actor one after another.

All else of a grid is its own: places, mailboxes, messages, cohorts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray

from fedtl.grid.actor import CohortActor
from fedtl.grid.cluster import WORKER_ENVIRONMENT, connect
from fedtl.wire.worker import Worker


class WarmActor:
    """A process that is one run's actor after another's."""

    def __init__(self) -> None:
        self._actor: CohortActor | None = None

    def ready(self, path: list[str], make_worker: Callable[..., Worker], parts: list[Any], *asked: Any) -> Any:
        """Begin a run, as an actor of its own would: its worker is made anew."""
        self._actor = None
        self._actor = CohortActor(path, make_worker, *ray.get(parts))
        return self._actor.ready(*asked)

    def handle(self, *asked: Any) -> Any:
        """As :meth:`CohortActor.handle`."""
        assert self._actor is not None
        return self._actor.handle(*asked)


class WarmActors:
    """Actors that grids are lent and give back, on the Ray that this process uses.

    Args:
        options: what actors ask Ray for besides, or instead of what a grid says.
        without: options of a grid's that are not needed.
    """

    def __init__(self, options: Mapping[str, Any] | None = None, without: frozenset[str] = frozenset()) -> None:
        self._more, self._without = dict(options or {}), without
        self._idle: list[Any] = []
        self._kind = ""

    def lend(self, options: Mapping[str, Any]) -> Any:
        """An actor with a grid's options: one that is idle, or a new one."""
        options = {key: value for key, value in {**options, **self._more}.items() if key not in self._without}
        kind = json.dumps(options, sort_keys=True, default=str)
        if kind != self._kind:  # the idle ones would take the room that these need
            self.close()
            self._kind = kind
        return self._idle.pop() if self._idle else ray.remote(WarmActor).options(**options).remote()

    def take_back(self, actor: Any) -> None:
        """Keep an actor for the next grid."""
        self._idle.append(actor)

    def close(self) -> None:
        """End those that are idle."""
        for actor in self._idle:
            ray.kill(actor)
        self._idle = []


lender: WarmActors | None = None
"""Of whom grids are lent their actors; None where each has its own."""


@contextmanager
def warm_actors(address: str | None, cpus: float) -> Iterator[None]:
    """Let all runs of the ``with`` block train on the same actors, on one Ray.

    Args:
        address: of a cluster; None for a Ray of our own.
        cpus: of that.
    """
    global lender
    connection = connect(address, cpus, WORKER_ENVIRONMENT)
    lender = WarmActors(without=frozenset({"runtime_env"} if connection.started else ()))
    try:
        yield
    finally:
        lender.close()
        lender = None
        if connection.ours:
            ray.shutdown()
