"""Profiling a run, in the process that runs it: where each round's time went.

A round's record holds under ``profile`` seconds only, in two lists of parts that each add up to a whole:

- ``actors``: the time of all actors together, from one round's end to the next one's. ``training`` and
  ``scoring`` are what they did, by the parts of :mod:`fedtl.engine.parts`; ``messages`` is what passed between
  the handing out of work and its answer beyond that; the rest is waiting. In one process, that process is the
  only actor.
- ``server``: the time of the process that runs the experiment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedtl.clock import Clock, Headcount
from fedtl.grid.simulated import SimulatedGrid
from fedtl.server.report import MESSAGES, Round
from fedtl.server.rounds import Rounds

RECORD = "record"
"""In the server's time: the record and the checkpoint of the round before, as this one's are still to come."""


class Profiler:
    """Profiles a run, in the process that runs it.

    Args:
        strategy: its workers' replies say what they did.
        grid: where they are.
    """

    def __init__(self, strategy: Rounds, grid: SimulatedGrid) -> None:
        self.clock, self._grid = Clock(), grid
        strategy.clock = self.clock
        self.clock.start()
        grid.profile(self.clock)

    def round(self, report: Round) -> None:
        """Tell a round's report where the time since the last one went."""
        report.profile = of_round(report.worker_seconds, self._grid.headcount.lap(), self.clock.lap())


def of_round(
    workers: Mapping[str, Mapping[str, float]], actors: Mapping[str, float], server: Mapping[str, float]
) -> dict[str, Any]:
    """A round's ``profile``.

    Args:
        workers: seconds by the kind of message and by part, all workers together.
        actors: what a :class:`~fedtl.clock.Headcount` counted.
        server: the server's seconds by part.
    """
    waiting = dict(actors)
    busy = sum(sum(seconds.values()) for seconds in workers.values())
    at_work = waiting.pop(Headcount.AT_WORK, 0.0)
    return {
        "actors": {kind: dict(seconds) for kind, seconds in workers.items()} | {MESSAGES: at_work - busy} | waiting,
        "server": dict(server),
    }
