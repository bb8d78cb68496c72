"""Scores that a table keeps as CSV (tests/reproductions/curves.py)."""

from __future__ import annotations

from pathlib import Path

import fedtl
from tests.reproductions.curves import Curve, add_curves, curves_of, read_curves


def test_a_file_keeps_what_other_runs_wrote_and_replaces_what_is_run_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "curves.csv"
    first = Curve("iid", "fedavg", 0, "global/clients", 12.0, {1: 0.25, 2: 0.5})
    other = Curve("iid", "scaffold", 0, "global/clients", 30.0, {2: 0.75, 4: 0.125})
    again = Curve("iid", "fedavg", 0, "global/clients", None, {1: 0.5})

    assert read_curves(path) == []
    assert add_curves([first], path) == [first]
    assert add_curves([other], path) == [first, other]
    assert read_curves(path) == [first, other]
    assert add_curves([again], path) == read_curves(path) == [again, other]
    assert (other.best, other.last) == (0.75, 0.125)


def test_a_run_s_curves_are_its_recorded_scores(tmp_path: Path) -> None:
    run = fedtl.run("quickstart", ["rounds=2", "evaluate.every=1", "simulation.grid=in-process"], out=tmp_path / "run")

    curves = curves_of([run], ["global/clients", "personal/clients", "nothing/at-all"])

    assert [curve.score for curve in curves] == ["global/clients", "personal/clients"]
    for curve in curves:
        point = run.last()[curve.score]
        assert curve.values.keys() == {1, 2}
        assert abs(curve.last - point.value) <= 5e-5
