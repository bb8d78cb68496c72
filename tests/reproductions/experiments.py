"""Runs that a table is made of: what is not on disk is run, several at once, and what was interrupted goes on."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import fedtl
from fedtl.choice import ConfigError
from fedtl.failure import RunError
from fedtl.runs.checkpoint import last_round


@dataclass(frozen=True)
class Experiment:
    """One run.

    Attributes:
        folder: where its records are.
        config: tables, or the name of a config that ships.
        overrides: as on the command line.
        rounds: how many it should have, where an earlier command may have asked for fewer.
    """

    folder: Path
    config: str | Mapping[str, Any]
    overrides: tuple[str, ...] = ()
    rounds: int = 0

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        if not (self.folder / "model.safetensors").exists():  # written last
            return False
        return last_round(self.folder) >= self.rounds

    def run(self) -> str:
        """Run it in this process; a sentence if it could not be run to its end, else nothing."""
        begun = (self.folder / "config.toml").exists()
        overrides = (*self.overrides, "simulation.grid=in-process")
        try:
            fedtl.run(self.config, overrides, out=self.folder, resume=begun)
        except (ConfigError, RunError) as error:
            return f"{self.folder.name}: {error}"
        return ""


def complete(experiments: Sequence[Experiment], jobs: int) -> None:
    """Run what is missing, in this order, ``jobs`` at once; what fails is said, and the others go on."""
    missing = [experiment for experiment in experiments if not experiment.finished]
    # Each in a process of its own, so that no run inherits memory, threads or random state from another.
    with ProcessPoolExecutor(jobs, get_context("spawn"), max_tasks_per_child=1) as pool:
        for number, (experiment, failure) in enumerate(zip(missing, pool.map(Experiment.run, missing)), 1):
            print(failure or f"{number} of {len(missing)}: {experiment.folder.name}", file=sys.stderr, flush=True)


def runs_of(experiments: Iterable[Experiment]) -> list[fedtl.Run]:
    """The records of those that are finished."""
    return [fedtl.load(experiment.folder) for experiment in experiments if experiment.finished]


def arguments(text: str | None, out: str, raw: str, seeds: int = 3, jobs: int = 2) -> argparse.ArgumentParser:
    """What every table's command takes.

    Args:
        text: what it does, to be printed as it stands.
        out: where its page is, if not told.
        raw: where the runs' folders are.
        seeds: how many.
        jobs: how many runs at once.
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--jobs", type=int, default=jobs, help="runs at once")
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--raw", type=Path, default=Path(raw), help="where the runs' folders lie")
    parser.add_argument("--only-finished", action="store_true", help="run nothing; tabulate what is there")
    return parser


def runs_for(
    experiments: Sequence[Experiment], parser: argparse.ArgumentParser, options: argparse.Namespace
) -> list[fedtl.Run]:
    """The table's runs, after what is missing has been run; where there is none, the command ends."""
    if not options.only_finished:
        complete(experiments, options.jobs)
    runs = runs_of(experiments)
    if not runs:
        parser.error(f"no run below {options.raw} is finished")
    return runs


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean ± standard deviation over seeds; an en dash where there is no value."""
    if not values:
        return "–"
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def row(*cells: object) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def header(*cells: str) -> list[str]:
    """A Markdown table's first two lines."""
    return [row(*cells), row(*("---" for _ in cells))]


def write_between_marks(text: str, page: Path, title: str, table: str = "written by the script") -> None:
    """Put a table between its marks in a page, which is begun if there is none.

    Args:
        text: Markdown.
        page: the file.
        title: of a new page.
        table: what the marks call it.
    """
    begin, end = f"<!-- {table}: begin -->\n", "<!-- end -->\n"
    before, after = f"# {title}\n\n", ""
    if page.exists():
        before, mark, rest = page.read_text(encoding="utf-8").partition(begin)
        after = rest.partition(end)[2] if mark else ""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
