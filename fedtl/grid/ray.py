"""Clients on Ray: long-lived actors, on this machine or a cluster, each given cohorts."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray
from flwr.app import Error, RecordDict
from numpy.typing import NDArray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayTaskError, TaskUnschedulableError

from fedtl.failure import RunError
from fedtl.grid import warm
from fedtl.grid.actor import CohortActor
from fedtl.grid.cluster import WORKER_ENVIRONMENT, Needs, connect, joins
from fedtl.grid.cohorts import Cohort, cut
from fedtl.grid.mailbox import Letter, Mailbox
from fedtl.grid.notebook import module_path
from fedtl.grid.shared_folder import FolderMark
from fedtl.grid.simulated import Order, SimulatedGrid
from fedtl.grid.slots import ActorSlots, NoRoomError, WorkerStartError
from fedtl.wire import messages as m
from fedtl.wire.worker import CLIENT_RAISED, Reply, Worker

__all__ = ["NoRoomError", "RayGrid", "WorkerStartError"]

DEATHS = 3
"""How many workers a cohort may cost before its clients count as failed."""

AHEAD = 2
"""Cohorts that wait at each actor, so that none waits for the driver."""

INLINE = 90_000
"""Bytes up to which a content travels in the call itself (Ray's own limit is 100 KiB): half the time of ``ray.put``."""


class RayGrid(SimulatedGrid):
    """A Grid whose clients train on Ray actors.

    A round's clients are cut into cohorts of consecutive places, whose uploads come back as few sums. An actor
    that dies, alone or with its node, is replaced where there is room, and its cohorts are trained again; as a
    client's randomness depends on (seed, round, client) alone and sums go along a fixed tree, the result is the
    same as if nothing had happened, whoever trained what.

    Args:
        make_worker: makes an actor's worker, in the actor's process.
        parts: its arguments; Ray shares large ones between the actors of a machine.
        clients: N.
        actors: how many.
        num_cpus, num_gpus: what each asks Ray for.
        address: of a Ray cluster; None for this machine alone, or the Ray that runs in this process already.
        elastic: on a Ray that runs already: as many of the actors as it has room for, now and later.
        patience: seconds to wait while no actor has begun, for a cluster that has no room yet.
        shared: a folder that the actors' workers use, and that therefore must be the same on every machine.
        work: how much each client has to do in a round, in any unit; equal if None.
        large_cohorts: give each actor its share of a round in one piece (for stacked cohorts).

    Raises:
        ConfigError: no Ray answers at the address.
        NoRoomError: this machine cannot hold so many actors.
    """

    def __init__(
        self,
        make_worker: Callable[..., Worker],
        parts: tuple[Any, ...],
        clients: int,
        *,
        actors: int,
        num_cpus: float = 1,
        num_gpus: float = 0,
        address: str | None = None,
        elastic: bool = False,
        patience: float = 300,
        shared: Path | None = None,
        work: NDArray[np.generic] | None = None,
        large_cohorts: bool = False,
    ) -> None:
        super().__init__(clients)
        self._large, self._work = large_cohorts, work
        self._pace: dict[str, float] = {}  # seconds that an actor took for a unit of work, by the message's kind
        self.started = False
        """Whether somebody has waited for the actors' processes."""
        self._lender = warm.lender
        joined = joins(address)
        self._connection = connect(address, actors * num_cpus, WORKER_ENVIRONMENT)
        self._mark = FolderMark(shared) if shared else None
        self._mail = Mailbox.make(2)  # for this order's content and the one's before
        self._orders = 0
        self._parts = [ray.put(part) for part in parts]
        self._options: dict[str, Any] = {
            "num_cpus": num_cpus,
            "num_gpus": num_gpus,
            "max_restarts": 0,
            "scheduling_strategy": "SPREAD",  # over a cluster's nodes, so that each reads its own memory
            "enable_task_events": False,  # a seventh of a call's time, for a dashboard
        }
        if not self._connection.started:
            self._options["runtime_env"] = {"env_vars": WORKER_ENVIRONMENT}
        self._path = module_path()
        self._make = ray.put(make_worker)
        try:
            self._seats = ActorSlots(
                self._new_actor,
                Needs(num_cpus, num_gpus),
                actors,
                elastic=elastic and joined,
                joined=joined,
                patience=patience,
                folder=str(shared),
            )
        except RunError:
            self._leave()
            raise

    @property
    def actors(self) -> int:
        """How many have begun and not ended."""
        return len(self._seats.working)

    def processes(self) -> list[int]:
        """The actors' process ids, once all that have room have begun."""
        self._seats.begin()
        self.started = True
        return [seat.begun.pid for seat in self._seats.working if seat.begun]

    def shared(self, part: int) -> Any:
        """One of ``parts`` as the actors of this machine see it: its arrays lie once in shared memory, read-only."""
        return ray.get(self._parts[part])

    def carry_out(self, order: Order, timeout: float | None) -> Iterator[Reply]:
        """Hand out cohorts, and those of actors that die once more."""
        if not self.started:
            self.processes()
        self._seats.fill()
        began = time.monotonic()
        deadline = None if timeout is None else began + timeout
        cohorts = self._cohorts(order)
        work, disturbed = sum(cohort.work for cohort in cohorts), False
        actors, sent = len(self._seats.working), _Sent(order.content, self._mail, self._orders % 2)
        self._orders += 1
        waiting = cohorts[::-1]
        while waiting or any(seat.running for seat in self._seats.working):
            self._hand_out(order, sent, waiting)
            pending = {asked: seat for seat in self._seats.working for asked in seat.running}
            if not pending:
                disturbed = True
                self._seats.wait_for_one()
                continue
            if self.headcount.on:
                at_work = sum(bool(seat.running) for seat in self._seats.working)
                self.headcount.now(at_work, for_others=self.actors - at_work)
            starting = self._seats.starting
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            with self.clock.part(self.WAITING):
                done, _ = ray.wait([*pending, *starting], timeout=left, fetch_local=True)
            if not done:
                self._give_up()
                return
            for reference in done:
                if reference in starting:
                    self._seats.meet(starting[reference])
                    continue
                seat = pending[reference]
                if reference not in seat.running:
                    continue  # its actor died while an earlier answer was read
                try:
                    answer = ray.get(reference)
                except RayTaskError as error:
                    if isinstance(error.cause, RunError):
                        raise error.cause from None
                    cohort = seat.taken(reference)
                    if len(cohort.clients) == 1:
                        yield from _failures(cohort, _first_line(error.cause))
                    else:  # one of them, or several; the others are innocent
                        disturbed = True
                        waiting.extend(reversed(cohort.alone()))
                except ObjectLostError:
                    waiting.append(seat.taken(reference))  # answered, but the answer was on a node that is gone
                except (RayActorError, GetTimeoutError, TaskUnschedulableError) as error:
                    disturbed = True
                    yield from self._again(self._seats.replace(seat), waiting, error)
                else:
                    replies: list[Reply] = (
                        seat.mail.get(answer, copy=True) if isinstance(answer, Letter) and seat.mail else answer
                    )
                    seat.taken(reference)
                    yield from replies
            self._seats.fill()
        if work and not disturbed:
            self._pace[order.kind] = (time.monotonic() - began) * actors / work

    def close(self) -> None:
        """End the actors, and Ray where this Grid started it."""
        self._seats.close(None if self._lender is None else self._lender.take_back)
        self._leave()

    def _leave(self) -> None:
        if self._mark:
            self._mark.remove()
        if self._connection.ours:
            ray.shutdown()

    def _new_actor(self) -> tuple[Any, Any, Mailbox | None]:
        # One of its own: an actor that was given up may write once more.
        box = Mailbox.make(AHEAD) if self._mail else None
        addresses = (self._mail.address, box.address) if self._mail and box else (None, None)
        mark = str(self._mark.file.absolute()) if self._mark else None
        if self._lender is not None:
            lent = self._lender.lend(self._options)
            return lent, lent.ready.remote(self._path, self._make, self._parts, mark, *addresses), box
        actor: Any = ray.remote(CohortActor).options(**self._options).remote(self._path, self._make, *self._parts)
        return actor, actor.ready.remote(mark, *addresses), box

    def _hand_out(self, order: Order, sent: _Sent, waiting: list[Cohort]) -> None:
        """Give cohorts to whoever has least to do, a few ahead."""
        while waiting and (seats := self._seats.working):
            seat = min(seats, key=lambda seat: seat.load)
            if len(seat.running) >= AHEAD:
                return
            cohort = waiting.pop()
            has_mail = seat.begun is not None and seat.begun.has_mail
            slot = min(set(range(AHEAD)) - set(seat.slots.values())) if has_mail else None
            content, row = sent.to(has_mail, cohort)
            first = order.first + cohort.first
            asked = seat.actor.handle.remote(order.kind, content, cohort.clients, first, row, slot)
            seat.running[asked], seat.slots[asked] = cohort, -1 if slot is None else slot

    def _again(self, lost: list[Cohort], waiting: list[Cohort], error: Exception) -> Iterator[Reply]:
        """Put a dead actor's cohorts back in the queue."""
        # The one that it worked on may be the cause (out of memory); those behind it only waited.
        lost[0].deaths += 1
        if lost[0].deaths >= DEATHS:
            suspect = lost.pop(0)
            if len(suspect.clients) == 1:
                yield from _failures(suspect, f"{DEATHS} workers died of it: {_first_line(error)}")
            else:  # one of them; the others are innocent
                suspect.deaths = DEATHS - 1
                waiting.extend(reversed(suspect.alone()))
        waiting.extend(reversed(lost))

    def _give_up(self) -> None:
        """End what did not answer in time: it would answer into a later round."""
        for seat in self._seats.working:
            if seat.running:
                self._seats.replace(seat)
        self.started = False  # new actors begin before the next order's time does

    def _cohorts(self, order: Order) -> list[Cohort]:
        actors, pace = max(1, len(self._seats.working)), self._pace.get(order.kind)
        work = None if self._work is None else self._work[list(order.clients)]
        total = float(len(order.clients) if work is None else work.sum())
        return cut(order.clients, actors, work, None if pace is None else pace * total / actors, self._large)


class _Sent:
    """A content as it is best sent to several actors: within each call if it is small, else once, as shared memory."""

    def __init__(self, content: RecordDict, mail: Mailbox | None, slot: int) -> None:
        self._content, self._mail, self._slot = content, mail, slot
        buffers: list[pickle.PickleBuffer] = []
        head = pickle.dumps(content, protocol=5, buffer_callback=buffers.append)
        small = len(head) + sum(buffer.raw().nbytes for buffer in buffers) <= INLINE
        self._inline = pickle.dumps(content, protocol=5) if small else None
        self._letter: Letter | None = None
        self._stored: Any = None

    def to(self, has_mail: bool, cohort: Cohort) -> tuple[Any, int]:
        """What an actor is given, which shares memory with this process or does not, and its cohort's first row."""
        if self._inline is not None:
            return self._inline, cohort.first
        if has_mail and self._mail:
            self._letter = self._letter or self._mail.put(self._content, self._slot)
            if self._letter:
                return self._letter, cohort.first
        if m.EACH in self._content:  # other machines are sent their own clients' rows alone
            return ray.put(m.cut(self._content, cohort.first, cohort.first + len(cohort.clients))), 0
        if self._stored is None:
            self._stored = ray.put(self._content)
        return self._stored, 0


def _failures(cohort: Cohort, text: str) -> Iterator[Reply]:
    for client in cohort.clients:
        yield Reply((client,), Error(CLIENT_RAISED, text))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
