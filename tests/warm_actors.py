"""Ray actors that outlive a run: a process takes seconds to start, and a test of what actors compute needs no new one.

All else of a grid is its own: places, mailboxes, messages, cohorts. Tests of actors that begin or end take real ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import ray

from fedtl.grid.mailbox import Mailbox
from fedtl.grid.ray import AHEAD, CohortActor, RayGrid
from fedtl.grid.slots import ActorSlots
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
        assert self._actor is not None
        return self._actor.handle(*asked)


class WarmActors:
    """A session's, on the Ray that this process uses."""

    def __init__(self) -> None:
        self._idle: list[Any] = []

    def lend(self, patch: pytest.MonkeyPatch) -> None:
        """For as long as the patch lasts, grids are lent these, and give them back in place of killing them."""

        def new_actor(grid: RayGrid) -> tuple[Any, Any, Mailbox | None]:
            actor = self._idle.pop() if self._idle else self._start()
            box = Mailbox.make(AHEAD) if grid._mail else None
            addresses = (grid._mail.address, box.address) if grid._mail and box else (None, None)
            mark = str(grid._mark.file.absolute()) if grid._mark else None
            return actor, actor.ready.remote(grid._path, grid._make, grid._parts, mark, *addresses), box

        def close(slots: ActorSlots) -> None:
            self._idle += [seat.actor for seat in slots._seats]
            slots._seats = []

        patch.setattr(RayGrid, "_new_actor", new_actor)
        patch.setattr(ActorSlots, "close", close)

    def _start(self) -> Any:
        # It takes no processor from the actors of tests that have real ones. Its environment is the session's Ray's.
        return ray.remote(WarmActor).options(num_cpus=0).remote()
