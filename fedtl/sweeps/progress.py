"""A sweep's progress: a live table on a terminal or in a notebook, lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedtl.comparison.measure import DATA
from fedtl.runs.best import serving_score
from fedtl.runs.progress import score_text
from fedtl.studies import Planned, Study
from fedtl.sweeps.conductor import AT_END, Watcher
from fedtl.sweeps.plan import Plan
from fedtl.sweeps.pool import Scored

DRAW_EVERY = 0.2
"""Seconds between two drawings of the table, where nothing begins or ends."""

OTHER_LINES = 8
"""Of a terminal, which are not a cell's."""


def watch(console: Console | None = None) -> Watcher:
    """Whoever shows a sweep best on this console."""
    console = console or Console(highlight=False, emoji=False)
    return LiveTable(console) if console.is_terminal or console.is_jupyter else Lines(console)


@dataclass
class _Row:
    """What a cell's line says."""

    rounds: int
    metrics: Sequence[str] = ()
    trials: int = 0
    runs: int = 0
    last: str = ""
    """The last score of any of its runs, and which model it is of on whose data."""
    scores: dict[str, str] = field(default_factory=dict)
    """The same of each run."""
    states: Counter[str] = field(default_factory=Counter)
    """How many of its runs are in each."""
    done: dict[str, int] = field(default_factory=dict)
    """Rounds that are finished, by run."""

    @property
    def ended(self) -> int:
        """How many of its runs are at their end."""
        return sum(self.states[state] for state in AT_END)


class Progress:
    """Knows how far a sweep is."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: dict[str, _Row] = {}
        self._runs: dict[str, Planned] = {}
        self._at_once, self._began, self._before = 1, time.monotonic(), 0

    def begin(self, study: Study, plan: Plan, at_once: int) -> None:
        """Take note of what is to be done."""
        self._at_once, self._began = at_once, time.monotonic()
        self._runs = {run.folder: run for run in study.runs}
        for each in plan.cells:
            config, runs = each.config, len(plan.seeds)
            self._rows[each.cell.name] = _Row(config.rounds, config.evaluate.metrics, len(each.trials), runs)
        for run in study.runs:
            self._rows[run.cell].states[run.state] += 1
            if run.state in AT_END:
                self._rows[run.cell].done[run.folder] = self._rows[run.cell].rounds
        self._before = self._rounds_done()
        for note in study.notes:
            self._console.print(note, markup=False, soft_wrap=True)

    def scored(self, run: Planned, news: Scored) -> None:
        """Take note of a round."""
        row = self._rows[run.cell]
        if run.folder not in row.done:  # rounds of an earlier sweep took no time of this one
            self._before += news.round - 1
        row.done[run.folder] = news.round
        name = next((name for data in DATA if (name := serving_score(news.scores.keys(), data))), None)
        if name is not None:
            mark = f" ({news.marks[name]})" if name in news.marks else ""
            row.last = row.scores[run.folder] = f"{name} {score_text(news.scores[name], row.metrics, 1)}{mark}"

    def changed(self, run: Planned, study: Study) -> None:
        """Take note of a run that began or ended."""
        row = self._rows[run.cell]
        row.states[self._runs[run.folder].state] -= 1
        row.states[run.state] += 1
        self._runs[run.folder] = run
        if run.state in AT_END:
            self._before += row.rounds - row.done.get(run.folder, 0)
            row.done[run.folder] = row.rounds

    def look(self) -> None:
        """Nothing has to be done."""

    def close(self) -> None:
        """Nothing is left."""

    def _rounds_done(self) -> int:
        return sum(sum(row.done.values()) for row in self._rows.values())

    def left(self) -> float | None:
        """Seconds that are left, about; None where nothing can be said yet."""
        trained = self._rounds_done() - self._before
        total = sum(row.rounds * (row.trials + row.runs) for row in self._rows.values())
        if trained <= 0:
            return None
        return (time.monotonic() - self._began) / trained * (total - self._rounds_done())


class Lines(Progress):
    """A line for each run that has ended."""

    def changed(self, run: Planned, study: Study) -> None:
        """Say how a run ended."""
        super().changed(run, study)
        if run.state not in AT_END:
            return
        row, ended = self._rows[run.cell], sum(each.ended for each in self._rows.values())
        what = f"seed {run.seed}" if run.trial is None else f"trial {run.trial}"
        said = [run.state, *filter(None, [row.scores.get(run.folder)]), f"{run.seconds:.1f} s"]
        how = f"{run.state}: {run.failure}" if run.failure else ", ".join(said)
        left = self.left()
        later = "" if left is None or ended == len(self._runs) else f"; {clock(left)} left"
        self._console.print(f"{ended}/{len(self._runs)} {run.cell}, {what} {how}{later}", markup=False, soft_wrap=True)


class LiveTable(Progress):
    """A table with a line for each cell, and failures as lines above it."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._drawn_at = -DRAW_EVERY

    def begin(self, study: Study, plan: Plan, at_once: int) -> None:
        """Show it."""
        super().begin(study, plan, at_once)
        self._live.start()
        self._draw()

    def scored(self, run: Planned, news: Scored) -> None:
        """Show a round; where runs are trained in this process, nobody looks until one has ended."""
        super().scored(run, news)
        self.look()

    def changed(self, run: Planned, study: Study) -> None:
        """Say what failed."""
        super().changed(run, study)
        if run.state == "failed":
            text = f"{run.folder} failed: {run.failure}"
            self._live.console.print(text, markup=False, soft_wrap=True)
        self._draw()

    def look(self) -> None:
        """Draw it anew, unless that was just done."""
        if time.monotonic() - self._drawn_at >= DRAW_EVERY:
            self._draw()

    def close(self) -> None:
        """Take it away."""
        self._live.stop()

    def _draw(self) -> None:
        self._live.update(self._table(), refresh=True)
        self._drawn_at = time.monotonic()

    def _table(self) -> Group:
        table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
        for header in ("", "", "done", "running", "failed", "last"):
            table.add_column(header, no_wrap=True, justify="left" if header in ("", "done") else "right")
        shown, hidden = self._shown()
        for name in shown:
            row = self._rows[name]
            of = row.trials + row.runs
            table.add_row(
                Text(name),
                ProgressBar(total=row.rounds * of, completed=sum(row.done.values()), width=16),
                f"{row.ended}/{of}",
                str(row.states["running"] or ""),
                Text(str(row.states["failed"] or ""), style="red"),
                row.last,
            )
        left = self.left()
        words = [f"{self._at_once} at once", f"{clock(time.monotonic() - self._began)} so far"]
        words += [f"{clock(left)} left"] if left is not None else []
        words += [f"{hidden} more lines"] if hidden else []
        return Group(table, Text(", ".join(words)))

    def _shown(self) -> tuple[Sequence[str], int]:
        """The cells that there is room for, those that something happens in first."""
        room = max(3, self._console.height - OTHER_LINES)
        if len(self._rows) <= room:
            return [*self._rows], 0
        ordered = sorted(self._rows, key=lambda name: not self._rows[name].states["running"])[:room]
        return [name for name in self._rows if name in ordered], len(self._rows) - room


def clock(seconds: float) -> str:
    """A time as ``"1:02:03"`` or ``"2:03"``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
