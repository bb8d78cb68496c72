"""What traced steps cost by operation, as torch's own profiler sees it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from torch.profiler import ProfilerActivity, profile

from fedtl.engine.assignment import Assignment
from fedtl.engine.engine import Engine
from fedtl.engine.task import Trained
from fedtl.tracing.source import NAME

INTERPRETER = "TorchScript's interpreter"


@dataclass(frozen=True)
class Operation:
    """One of the operations that a program consists of.

    Attributes:
        name: aten's, or what runs them.
        calls: how often it was called.
        seconds: of CPU time, with those that it called in turn. The profiler makes each call some microseconds
            longer.
    """

    name: str
    calls: int
    seconds: float


def operations(engine: Engine, assignment: Assignment) -> tuple[int, list[Operation]]:
    """Train a cohort, and see what its traced steps consist of; nothing is kept of the training.

    Args:
        engine: trains on a CPU.
        assignment: of the cohort.

    Returns:
        How many mini-batches were trained on, all clients together, and the operations, the costliest first;
        none where a client's training raised, or no step is traced.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # it would say on the terminal when it begins and ends
    engine.train(assignment)  # traces the steps, and fills the caches
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        outcomes = engine.train(assignment)
    steps, totals = 0, dict[str, Operation]()

    def add(name: str, microseconds: float) -> None:
        so_far = totals.get(name, Operation(name, 0, 0.0))
        totals[name] = Operation(name, so_far.calls + 1, so_far.seconds + microseconds / 1e6)

    for event in seen.events() or ():
        if event.name == NAME:
            add(INTERPRETER, event.self_cpu_time_total)
        elif event.cpu_parent is not None and event.cpu_parent.name == NAME:
            add(event.name.removeprefix("aten::"), event.cpu_time_total)
    for outcome in outcomes:
        if not isinstance(outcome, Trained):
            return 0, []
        steps += outcome.steps
    return steps, sorted(totals.values(), key=lambda one: -one.seconds)
