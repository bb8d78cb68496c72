"""The actors of a Ray grid: how many there are, who has begun, and who takes the place of one that died."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from fedtl.failure import RunError
from fedtl.grid import cluster
from fedtl.grid.cluster import Needs
from fedtl.grid.cohorts import Cohort
from fedtl.grid.mailbox import Mailbox

FAILED_STARTS = 3
"""How many actors in a row may die before they have begun."""

LOOK_EVERY = 1.0
"""Seconds between two looks at how much room a cluster has."""

SAY_AFTER, SAY_AGAIN = 5.0, 60.0
"""Seconds of waiting for an actor on a cluster before a note says so, and between two notes."""

LATECOMERS = 20.0
"""Seconds that those who have begun wait for others that should have room, before a run's first round."""

log = logging.getLogger("fedtl")


class WorkerStartError(RunError):
    """An actor could not begin its work."""


class NoRoomError(RunError):
    """There is no room for a single actor."""


@dataclass(frozen=True)
class Begun:
    """What an actor says when it has begun.

    Attributes:
        pid: its process id.
        machine: its name.
        sees_folder: whether it sees the shared folder.
        has_mail: whether it shares memory with this process.
    """

    pid: int
    machine: str
    sees_folder: bool
    has_mail: bool


@dataclass
class ActorSlot:
    """An actor's place.

    Attributes:
        actor: whoever sits there now.
        ready: the reference to its :class:`Begun`.
        mail: where it lays its answers, if both are of one machine.
        begun: that, once it is there; only then is the actor given work.
        given: the cohorts that it has been given, each under the reference to its replies.
        slots: where in the mailbox each of these will lie.
    """

    actor: Any
    ready: Any
    mail: Mailbox | None
    begun: Begun | None = None
    running: dict[Any, Cohort] = field(default_factory=dict)
    slots: dict[Any, int] = field(default_factory=dict)

    @property
    def load(self) -> float:
        """How much work it has been given."""
        return sum(cohort.work for cohort in self.running.values())

    def taken(self, reference: Any) -> Cohort:
        """The cohort that was given under a reference, and is not any more."""
        self.slots.pop(reference, None)
        return self.running.pop(reference)


class ActorSlots:
    """A grid's actors.

    Actors begin their work side by side with a round: who has begun is given cohorts, who has not is not
    waited for, save before the first round. So a node that joins a cluster is used as soon as an actor has
    begun there, and an actor that finds no place any more leaves the others to it.

    Args:
        make: makes an actor and asks it to be ready; both references, and its mailbox.
        needs: what each actor asks for.
        most: how many actors.
        elastic: have only as many of them as the cluster has room for at the moment.
        joined: whether the Ray is somebody else's; more room may come there.
        patience: seconds to wait while no actor has begun.
        folder: what every actor must see, for the message if one does not.
    """

    def __init__(
        self,
        make: Callable[[], tuple[Any, Any, Mailbox | None]],
        needs: Needs,
        most: int,
        *,
        elastic: bool,
        joined: bool,
        patience: float,
        folder: str | None = None,
    ) -> None:
        self._make, self._needs, self._most = make, needs, most
        self._elastic, self._joined, self._patience, self._folder = elastic, joined, patience, folder
        self._seats: list[ActorSlot] = []
        self._failed_starts = 0
        self._running = False
        self._looked = -LOOK_EVERY
        if not joined and (fit := cluster.room(needs)) < most:
            raise NoRoomError(
                f"simulation.actors = {most}: this machine ({cluster.size()}) has room for {fit} Ray actors that ask "
                f"for {needs} each"
            )
        self.fill()

    @property
    def working(self) -> list[ActorSlot]:
        """Those whose actors have begun."""
        return [seat for seat in self._seats if seat.begun]

    @property
    def starting(self) -> dict[Any, ActorSlot]:
        """Those whose actors have not, under the reference that says when they have."""
        return {seat.ready: seat for seat in self._seats if not seat.begun}

    def fill(self) -> None:
        """Have as many actors as there should be now; at most once in :data:`LOOK_EVERY`."""
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY or (len(self._seats) == self._most and not self._elastic):
            return
        self._looked = now
        wanted = self._most
        if self._elastic:
            wanted = max(1, min(self._most, cluster.room(self._needs)))
            for seat in list(self.starting.values())[: max(0, len(self._seats) - wanted)]:
                self._leave(seat)  # it would wait for a node that is gone
        while len(self._seats) < wanted:
            self._seats.append(ActorSlot(*self._make()))

    def begin(self) -> None:
        """Wait for the actors that have room.

        Raises:
            WorkerStartError: one of them cannot begin.
            NoRoomError: there is no room for any.
        """
        began = time.monotonic()
        while self.starting:
            working, waited = len(self.working), time.monotonic() - began
            if working and (waited > LATECOMERS or working >= cluster.room(self._needs)) and self._joined:
                log.warning(
                    "going on with %d of %d Ray actors; the others begin when there is room: %s",
                    *(working, len(self._seats), self._asked_and_had()),
                )
                break
            self.wait_for_one(time.monotonic() + LATECOMERS if working else None)
        self._running = True

    def wait_for_one(self, until: float | None = None) -> None:
        """Wait until one more actor has begun, or ``until`` (in ``time.monotonic``'s seconds).

        Raises:
            WorkerStartError: none can begin.
            NoRoomError: for longer than the patience none has begun.
        """
        began = time.monotonic()
        # On a Ray of our own there is room: the actors are only slow to begin.
        say_at = began + (SAY_AFTER if self._joined else SAY_AGAIN)
        while starting := self.starting:
            ready, _ = ray.wait(list(starting), timeout=LOOK_EVERY)
            if ready:
                self.meet(starting[ready[0]])
                return
            now = time.monotonic()
            if until is not None and now >= until:
                return
            if self.working:
                continue
            if now - began > self._patience:
                raise NoRoomError(f"no Ray actor has begun within {self._patience:g} s: {self._asked_and_had()}")
            if now >= say_at:
                log.warning("waiting for a Ray actor to begin: %s", self._asked_and_had())
                say_at = now + SAY_AGAIN
            self.fill()

    def meet(self, seat: ActorSlot) -> None:
        """Let an actor work that says that it has begun; one that could not is replaced or left out.

        Raises:
            WorkerStartError: it cannot begin, and there is no other; or it does not see the shared folder.
        """
        try:
            begun: Begun = ray.get(seat.ready)
        except RayError as error:
            at_fault = not isinstance(error, RayActorError) or error.actor_init_failed
            self._failed_starts += 1
            if at_fault or self._failed_starts == FAILED_STARTS:
                self._without(seat, f"a Ray actor cannot begin: {_cause(error)}")
            else:
                self.replace(seat)  # its node is gone, or somebody killed it
            return
        self._failed_starts = 0
        if begun.sees_folder:
            seat.begun = begun
        else:
            self._without(
                seat,
                f"the machine {begun.machine} does not see {self._folder}, where clients' memories are kept: give with "
                "--out a folder that all machines of the cluster share",
            )

    def replace(self, seat: ActorSlot) -> list[Cohort]:
        """Put a new actor in a seat; the cohorts that the old one had not answered."""
        lost, seat.running, seat.slots = list(seat.running.values()), {}, {}
        ray.kill(seat.actor)
        seat.begun = None
        seat.actor, seat.ready, seat.mail = self._make()
        self._looked = -LOOK_EVERY  # a node may be gone
        return lost

    def close(self, take_back: Callable[[Any], None] | None = None) -> None:
        """End all, but for those with nothing to do where somebody takes them back."""
        for seat in self._seats:
            if take_back is not None and seat.begun and not seat.running:
                take_back(seat.actor)
            else:
                ray.kill(seat.actor)
        self._seats = []

    def _without(self, seat: ActorSlot, why: str) -> None:
        """Go on without an actor that would fail again, where the run has begun and there are others."""
        self._leave(seat)
        if not (self._running and self.working):
            raise WorkerStartError(why)
        self._most, self._failed_starts = len(self._seats), 0
        log.warning("%s; going on with %d actors", why, self._most)

    def _leave(self, seat: ActorSlot) -> None:
        ray.kill(seat.actor)
        self._seats.remove(seat)

    def _asked_and_had(self) -> str:
        return f"each asks for {self._needs}, there are {cluster.size()}"


def _cause(error: BaseException) -> str:
    """What happened in an actor's process: the last line of the traceback in Ray's text, without its colours."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
