"""Every run, what it came to and what it has cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fedtl.choice import ConfigError
from fedtl.comparison import Comparison
from fedtl.comparison.formats import NOTHING
from fedtl.comparison.groups import finished_rounds, planned_rounds, unfinished
from fedtl.reports import words
from fedtl.reports.layout import Setting, setting_names
from fedtl.reports.material import Material
from fedtl.reports.tables import Table, plain
from fedtl.runs.history import Axis, Run
from fedtl.server.scores import marked

COSTS: tuple[Axis, Axis] = ("seconds", "bytes")
NUMBERS = ("seed", "rounds", "last score", "seconds", "MB sent")


class _Place(NamedTuple):
    """Where a run stands, and what became of it."""

    method: str
    setting: str
    seed: int
    state: str
    folder: str


def runs_table(material: Material, settings: Sequence[Setting]) -> Table:
    """All runs that answer the question, those without a record among them."""
    compared = {
        str(run.path): (method.label, setting.name, method.summary.score)
        for setting in settings
        for method in setting.methods
        for run in method.runs.values()
    }
    places = _planned(material) if material.study is not None else _read(material, compared)
    records = {str(run.path): run for run in material.runs}
    several = len({place.setting for place in places.values()}) > 1
    scores = len({score for _, _, score in compared.values()}) > 1
    rows = []
    for path, place in places.items():
        _, _, score = compared.get(path, ("", "", ""))
        run = records.get(path)
        rounds, last, *costs = [NOTHING] * 4 if run is None else _cells(run, score, material.comparison)
        row = [place.method, *[place.setting] * several, str(place.seed), place.state, rounds]
        rows.append((*row, *[score or NOTHING] * scores, last, *costs, place.folder))
    header = ["method", *["setting"] * several, "seed", "state", "rounds", *["score"] * scores, *NUMBERS[2:], "folder"]
    return plain("Runs and what they cost", header, rows, NUMBERS)


def _planned(material: Material) -> dict[str, _Place]:
    """A study's runs by their folders."""
    study = material.study
    assert study is not None
    names = setting_names([cell.setting for cell in study.cells])
    cells = {cell.name: (cell.variant, name) for cell, name in zip(study.cells, names)}
    return {
        str(study.folder / run.folder): _Place(*cells[run.cell], run.seed, run.state, run.folder)
        for run in study.finals
    }


def _read(material: Material, compared: Mapping[str, tuple[str, str, str]]) -> dict[str, _Place]:
    """Plain runs by their folders."""
    places = {}
    for run in material.runs:
        path = str(run.path)
        method, setting, _ = compared.get(path, (run.label, "", ""))
        places[path] = _Place(method, setting, run.seed, "unfinished" if unfinished(run) else "finished", path)
    return places


def _cells(run: Run, score: str, comparison: Comparison | None) -> list[str]:
    planned, done = planned_rounds(run), finished_rounds(run)
    seconds, sent = (sum(run.costs(axis).values[-1:]) for axis in COSTS)
    rounds = str(done) if planned in (None, done) else f"{done} of {planned}"
    if run.stopped is not None:
        rounds += ", stopped early"
    last = NOTHING if comparison is None else _last(run, score, comparison)
    return [rounds, last, f"{seconds:.1f}", f"{sent / 1e6:.2f}"]


def _last(run: Run, score: str, comparison: Comparison) -> str:
    """The last value of the score by which the run was compared, with the mark that it needs."""
    try:
        curve = run.scores(comparison.metric, comparison.statistic).get(score)
    except ConfigError:  # it has no such metric, which the notes say
        curve = None
    if curve is None:
        return NOTHING
    coverage = run.coverage(score, int(curve.rounds[-1]), comparison.metric)
    return marked(words.value(comparison, float(curve.values[-1])), coverage)
