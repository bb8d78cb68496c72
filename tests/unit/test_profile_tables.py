"""A profile's printed rows add up to its whole, whatever its parts are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

from fedtl.choice import ConfigError
from fedtl.clock import OTHER, Headcount
from fedtl.engine import parts
from fedtl.grid.simulated import SimulatedGrid
from fedtl.runs import profile_tables
from fedtl.runs.history import Run
from fedtl.runs.profile import RECORD
from fedtl.server import report

OF_WORKERS = [value for name, value in vars(parts).items() if name.isupper()]
OF_SERVER = [report.METHOD, report.MESSAGES, report.SCORING, SimulatedGrid.WAITING, RECORD, OTHER]
NEW = "[novel] part"
"""One that nobody has given a name in the tables."""


class Profiled(Run):
    """A run of which nothing is known but its profile."""

    def __init__(self, profile: dict[str, Any]) -> None:
        self.path, self._profile = Path("run"), profile

    def profile(self) -> dict[str, Any]:
        return {"rounds": [1], "steps": 10, **self._profile}


def rows(table: Table) -> dict[str, float]:
    """Milliseconds by row."""
    names, milliseconds = ([str(cell) for cell in column.cells] for column in table.columns[:2])
    return dict(zip(names, map(float, milliseconds)))


def seconds(names: list[str]) -> dict[str, float]:
    """Different for each, whole milliseconds, so that rounding plays no part."""
    return {name: 0.001 * 2**i for i, name in enumerate(names)}


def test_all_parts_of_actors_and_of_the_server_are_in_a_row() -> None:
    training, scoring = seconds([*OF_WORKERS, OTHER, NEW]), seconds([parts.FORWARD, NEW, parts.SYNTHESIS])
    actors = {"training": training, "scoring": scoring, "inventing": seconds([NEW, parts.DATA])}
    waiting = seconds([report.MESSAGES, Headcount.FOR_OTHERS, Headcount.FOR_SERVER, NEW])
    server = seconds([*OF_SERVER, NEW])
    of_actors, of_server = profile_tables.tables(Profiled({"actors": {**actors, **waiting}, "server": server}))
    times = rows(of_actors)
    top = {name: value for name, value in times.items() if not name.startswith("  ")}
    whole = sum(sum(each.values()) for each in actors.values()) + sum(waiting.values())
    assert sum(top.values()) == pytest.approx(1000 * whole)
    below: dict[str, float] = {}
    kind = ""
    for name, value in zip(*([*column.cells] for column in of_actors.columns[:2])):  # a part may stand below two
        if not str(name).startswith("  "):
            kind = str(name)
        elif kind in actors:
            below[kind] = below.get(kind, 0.0) + float(str(value))
    assert below == {kind: pytest.approx(1000 * sum(each.values())) for kind, each in actors.items()}
    assert below == {kind: top[kind] for kind in actors}
    shares = [
        float(str(cell))
        for name, cell in zip(of_actors.columns[0].cells, of_actors.columns[2].cells)
        if not str(name).startswith("  ")
    ]
    assert sum(shares) == pytest.approx(100, abs=0.05 * len(shares))
    assert sum(rows(of_server).values()) == pytest.approx(1000 * sum(server.values()))
    assert NEW in rows(of_server)
    assert NEW in top


@pytest.mark.parametrize("part", OF_WORKERS)
def test_each_part_of_a_workers_time_has_a_name(part: str) -> None:
    assert part in profile_tables.WORKERS


@pytest.mark.parametrize("part", OF_SERVER)
def test_each_part_of_the_servers_time_has_a_name(part: str) -> None:
    assert part in profile_tables.SERVER


def test_a_run_without_a_finished_round_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('rounds = 3\n[strategy]\nname = "fedavg"\n')
    with pytest.raises(ConfigError, match="holds no profile yet: no round is finished"):
        profile_tables.tables(Run(tmp_path))
