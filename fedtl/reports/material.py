"""What a report is made of: a study where there is one, the records of its runs, and their comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedtl.choice import ConfigError
from fedtl.comparison import Comparison, compare
from fedtl.comparison.find import load_all
from fedtl.comparison.result import At
from fedtl.runs.history import Run
from fedtl.studies import Study, is_study

Source = Run | str | Path


@dataclass(frozen=True)
class Asked:
    """How runs are compared, as for :func:`fedtl.comparison.compare`."""

    score: str | None = None
    metric: str | None = None
    statistic: str = "weighted_mean"
    against: str | None = None
    target: float | None = None
    at: At = "last"


@dataclass(frozen=True)
class Material:
    """All that a report says, before it is put in words.

    Attributes:
        sources: as they were named, for the command that checks the report.
        study: None for plain runs.
        runs: whose records are read.
        comparison: None where nothing can be compared.
        because: why not, in a sentence's words; empty where there is a comparison.
        notes: sentences on runs that are left out, and the comparison's.
    """

    sources: tuple[str, ...]
    study: Study | None
    runs: tuple[Run, ...]
    comparison: Comparison | None
    because: str
    notes: tuple[str, ...]
    asked: Asked


def gather(sources: Sequence[Source], asked: Asked) -> Material:
    """Read what is there.

    A study of which nothing can be compared still has a report, which says why.

    Raises:
        ConfigError: there is no run, a file is broken, or something was asked that the runs do not have.
    """
    by_name = {str(each.path if isinstance(each, Run) else each): each for each in sources}
    names, sources = tuple(by_name), tuple(by_name.values())
    if len(sources) == 1 and not isinstance(sources[0], Run) and is_study(sources[0]):
        study = Study.load(sources[0])
        if not any(run.state == "finished" for run in study.finals):
            return Material(names, study, (), None, "no run has finished", (), asked)
    loaded = load_all(sources)
    comparison, because = None, ""
    try:
        comparison = compare(
            loaded,
            score=asked.score,
            metric=asked.metric,
            statistic=asked.statistic,
            against=asked.against,
            target=asked.target,
            at=asked.at,
        )
    except ConfigError as error:
        if asked != Asked():  # what was asked may be what is wrong
            raise
        because = str(error)
    notes = tuple(loaded.notes) if comparison is None else comparison.notes  # which begin with those
    return Material(names, loaded.study, tuple(loaded.runs), comparison, because, notes, asked)
