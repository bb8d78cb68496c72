"""A run's profile as tables: where the actors' time went, the server's, and what recorded steps consist of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fedtl.clock import OTHER, Headcount
from fedtl.engine import parts
from fedtl.grid.simulated import SimulatedGrid
from fedtl.runs.history import Run
from fedtl.runs.profile import RECORD
from fedtl.server import report

MOST_OPERATIONS = 8

WORKERS = {
    parts.STEPS: "steps (traced: forward, backward and method in one)",
    parts.GRADIENT: "forward and backward",
    parts.METHOD: "method's arithmetic",
    parts.TRACING: "tracing steps and forward passes",
    parts.FORWARD: "forward passes, compared with labels",
    parts.DATA: "data: order and mini-batches",
    parts.SYNTHESIS: "synthesis of replayed samples",
    parts.STATISTICS: "statistics that terms ask for",
    parts.MEMORIES: "memories: load and save",
    parts.SUMS: "checks and sums of uploads",
    parts.PACKING: "packing and unpacking",
    OTHER: "Python between",
}
ACTORS = {
    "training": "training",
    "scoring": "scoring",
    report.MESSAGES: "messages: pickling, Ray",
    Headcount.FOR_OTHERS: "waiting for other actors",
    Headcount.FOR_SERVER: "waiting for the server",
}
SERVER = {
    SimulatedGrid.WAITING: "waiting for clients",
    report.MESSAGES: "messages: handing out, gathering",
    report.METHOD: "sampling, sums, the method's step",
    report.SCORING: "scoring on the server's test set",
    RECORD: "record and checkpoint",
    OTHER: "other",
}


def tables(run: Run) -> list[Table]:
    """A run's profile: of the actors, of the server, and of recorded steps where they were looked at.

    Raises:
        ConfigError: none was made.
    """
    profile = run.profile()
    parts = [_of_actors(profile), _of_server(profile["server"])]
    seen = profile.get("operations")
    return [*parts, _of_operations(seen["operations"], seen["steps"])] if seen else parts


def _of_actors(profile: Mapping[str, Any]) -> Table:
    actors, rounds, steps = profile["actors"], profile["rounds"], profile["steps"]
    wall, whole = _total(profile["server"]), _total(actors)
    count = f"{whole / wall:.1f}".removesuffix(".0")  # on a cluster they come and go
    which = f"round {rounds[0]}" if len(rounds) == 1 else f"mean of rounds {rounds[0]} to {rounds[-1]}"
    table = _table(
        f"{count} actor{'s' * (count != '1')} × {1e3 * wall:.1f} ms a round ({which})", "ms", "%", "µs a step"
    )

    for name, seconds in _rows(actors, ACTORS):
        a_step = f"{1e6 * seconds / steps:.2f}" if steps else ""
        table.add_row(Text(name), f"{1e3 * seconds:.2f}", f"{100 * seconds / whole:.1f}", a_step)
    return table


def _of_server(server: Mapping[str, Any]) -> Table:
    whole = _total(server)
    table = _table(f"the server's {1e3 * whole:.1f} ms", "ms", "%")
    for name, seconds in _rows(server, SERVER):
        table.add_row(Text(name), f"{1e3 * seconds:.2f}", f"{100 * seconds / whole:.1f}")
    return table


def _of_operations(operations: Sequence[Mapping[str, Any]], steps: int) -> Table:
    table = _table("a traced step's operations, slowed by torch's profiler", "calls", "µs", "%")
    whole = sum(each["seconds"] for each in operations)
    rest = operations[MOST_OPERATIONS:]
    others = {key: sum(each[key] for each in rest) for key in ("calls", "seconds")} | {"name": f"{len(rest)} others"}
    for each in [*operations[:MOST_OPERATIONS], *([others] if rest else [])]:
        calls, seconds = each["calls"] / steps, each["seconds"]
        table.add_row(each["name"], f"{calls:.2f}", f"{1e6 * seconds / steps:.2f}", f"{100 * seconds / whole:.1f}")
    return table


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=bool(i))
    return table


def _rows(seconds: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    """Every part and its seconds, those that have a name first and in the names' order; under a sum its own parts.

    A part without a name here is shown as it is recorded: whatever is in the whole is in a row.
    """
    for part in [*(part for part in names if part in seconds), *(part for part in seconds if part not in names)]:
        value = seconds[part]
        yield names.get(part, part), _total({part: value})
        if isinstance(value, Mapping):
            yield from ((f"  {name}", inner) for name, inner in _rows(value, WORKERS))


def _total(seconds: Mapping[str, Any]) -> float:
    return sum(_total(value) if isinstance(value, Mapping) else value for value in seconds.values())
