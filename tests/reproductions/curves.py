"""Scores over rounds as CSV, a line a run and score: what a table is made of once the runs' folders are gone."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import fedtl

NAMES = ("run", "method", "seed", "score", "seconds")


@dataclass(frozen=True)
class Curve:
    """One score of one run.

    Attributes:
        run: the config's name.
        method: registry name.
        seed: of the run.
        score: the model and on whose data, as in the records.
        seconds: of all rounds; None where that is not known.
        values: accuracy by round, to four digits.
    """

    run: str
    method: str
    seed: int
    score: str
    seconds: float | None
    values: dict[int, float]

    @property
    def key(self) -> tuple[str, str, int, str]:
        """What no two lines of a file share."""
        return self.run, self.method, self.seed, self.score

    @property
    def best(self) -> float:
        """The greatest value."""
        return max(self.values.values())

    @property
    def last(self) -> float:
        """The value after the last scored round."""
        return self.values[max(self.values)]


def curves_of(runs: Iterable[fedtl.Run], scores: Sequence[str]) -> list[Curve]:
    """A curve for each of a run's scores that it has."""
    curves = []
    for run in runs:
        recorded = run.scores()
        for score in (score for score in scores if score in recorded):
            values = {int(t): round(float(v), 4) for t, v in zip(recorded[score].rounds, recorded[score].values)}
            seconds = round(run.rounds[-1]["elapsed"])
            curves.append(Curve(run.name, run.method, run.seed, score, seconds, values))
    return curves


def read_curves(path: Path) -> list[Curve]:
    """A file's curves; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [_curve(line) for line in csv.DictReader(file)]


def _curve(line: dict[str, str]) -> Curve:
    scored = {name: cell for name, cell in line.items() if name not in NAMES and cell}
    values = {int(name.removeprefix("round ")): float(cell) for name, cell in scored.items()}
    seconds = float(line["seconds"]) if line["seconds"] else None
    return Curve(line["run"], line["method"], int(line["seed"]), line["score"], seconds, values)


def add_curves(curves: Iterable[Curve], path: Path) -> list[Curve]:
    """Put curves into a file, each in the place of an older one of the same run and score; all that it has then."""
    by_key = {curve.key: curve for curve in (*read_curves(path), *curves)}
    merged = [by_key[key] for key in sorted(by_key)]
    rounds = sorted({t for curve in merged for t in curve.values})
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow([*NAMES, *(f"round {t}" for t in rounds)])
        for curve in merged:
            values = [f"{curve.values[t]:.4f}" if t in curve.values else "" for t in rounds]
            seconds = "" if curve.seconds is None else f"{curve.seconds:.0f}"
            lines.writerow([*curve.key, seconds, *values])
    return merged
