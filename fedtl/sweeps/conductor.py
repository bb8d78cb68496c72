"""Carrying a plan out: which run begins next, what the record says after each, and what is chosen when."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

from fedtl.choice import ConfigError
from fedtl.config.read import is_run
from fedtl.studies import Cell, Planned, Study
from fedtl.sweeps.plan import Plan, PlannedCell
from fedtl.sweeps.pool import Ended, Job, Pool, Scored
from fedtl.sweeps.search import CellSearch, best, make_search, metric_of, outcome, recorded, remarks, value_of

DEATHS = 3
"""How many processes a run may cost before it counts as failed."""

LOOK_EVERY = 0.5
"""Seconds between two looks of whoever watches, where nothing happens."""

AT_END = ("finished", "pruned", "failed")


class Watcher(Protocol):
    """Somebody who watches a sweep; the command's live table is one."""

    def begin(self, study: Study, plan: Plan, at_once: int) -> None:
        """All is checked, and the first runs begin."""

    def scored(self, run: Planned, news: Scored) -> None:
        """A run has finished a round."""

    def changed(self, run: Planned, study: Study) -> None:
        """A run has begun or ended, and the record says so."""

    def look(self) -> None:
        """Some time has passed."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class Unwatched:
    """Nobody watches."""

    def begin(self, study: Study, plan: Plan, at_once: int) -> None:
        """Nothing."""

    def scored(self, run: Planned, news: Scored) -> None:
        """Nothing."""

    def changed(self, run: Planned, study: Study) -> None:
        """Nothing."""

    def look(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Conductor:
    """Carries out a plan.

    Args:
        plan: what is to be done.
        study: the record, with what has been done; its runs and cells are the plan's.
        watcher: told of everything.
    """

    def __init__(self, plan: Plan, study: Study, watcher: Watcher) -> None:
        self._plan, self._study, self._watcher = plan, study, watcher
        self._planned = {each.cell.name: each for each in plan.cells}
        self._cells: dict[str, Cell] = {cell.name: cell for cell in study.cells}
        self._runs: dict[str, Planned] = {run.folder: run for run in study.runs}
        self._searches: dict[str, CellSearch] = {}
        self._deaths: dict[str, int] = {}

    @property
    def study(self) -> Study:
        """The record as it is now."""
        notes = [*self._plan.notes, *(note for each in self._plan.cells for note in self._remarks(each))]
        return replace(
            self._study,
            cells=tuple(self._cells.values()),
            runs=tuple(self._runs.values()),
            notes=tuple(dict.fromkeys(notes)),
        )

    def retry(self) -> None:
        """Let what failed earlier be tried again: runs, and trials of searches that have chosen nothing.

        Where a trial's values follow from how those before it ended, a search first comes to its end.
        """
        in_turn = self._plan.search is not None and self._plan.search.by == "optuna"
        going_on = {run.cell for run in self._runs.values() if run.trial is not None and run.state not in AT_END}
        for run in list(self._runs.values()):
            done = self._cells[run.cell].chosen is not None or (in_turn and run.cell in going_on)
            if run.state == "failed" and (run.trial is None or not done):
                self._runs[run.folder] = replace(run, state="waiting", failure="")

    @property
    def unfinished(self) -> list[Planned]:
        """The runs that are still to be done."""
        return [run for run in self._runs.values() if run.state not in AT_END]

    def run(self, pool: Pool) -> Study:
        """Do all that is left; what fails is recorded, and the rest goes on."""
        self.study.save()
        self._watcher.begin(self.study, self._plan, pool.size)
        self._settle()  # after that, as whoever watches is told of runs that cannot begin any more
        while True:
            for run in itertools.islice(self._ready(), pool.free) if pool.free else ():
                self._start(run, pool)
            # A pool that has just lost its last process begins another while it is waited for.
            if not any(run.state == "running" for run in self._runs.values()) and next(self._ready(), None) is None:
                return self.study
            pool.wait(LOOK_EVERY, self)
            self._watcher.look()

    # What is told by the pool.

    def scored(self, news: Scored) -> bool:
        """A run has finished a round; whether it is to go on."""
        run, search = self._runs[news.key], self._plan.search
        self._watcher.scored(run, news)
        if run.trial is None or search is None or (value := value_of(news.scores, search)) is None:
            return True
        return self._search_of(run.cell).goes_on(run.trial, news.round, value)

    def ended(self, news: Ended) -> None:
        """A run is at its end."""
        run = self._runs[news.key]
        run = replace(run, seconds=run.seconds + news.seconds)
        if news.lost and self._deaths.get(news.key, 0) + 1 < DEATHS:
            self._deaths[news.key] = self._deaths.get(news.key, 0) + 1
            self._change(replace(run, state="waiting"))
            return
        if news.failure:
            often = f"{news.failure}, {DEATHS} times" if news.lost else news.failure
            run = replace(run, state="failed", failure=often)
        else:
            run = replace(run, state="pruned" if news.pruned else "finished")
        run = self._valued(run)
        if run.trial is not None:  # first, as a search may know more than the record, but not less
            self._search_of(run.cell).ended(run)
        self._change(run)
        self._settle()

    # What begins next.

    def _ready(self) -> Iterator[Planned]:
        """Runs that could begin: trials first, as others wait for them, then seed by seed.

        Of a seed the longest runs are first, as far as is known, so that all end together.
        """
        waiting = [run for run in self._runs.values() if run.state == "waiting"]
        trials = sorted((run for run in waiting if run.trial is not None), key=lambda run: run.trial or 0)
        busy = {run.cell for run in self._runs.values() if run.trial is not None and run.state == "running"}
        for run in trials:
            if self._search_of(run.cell).in_turn:
                if run.cell in busy:
                    continue
                busy.add(run.cell)
            yield run
        seconds = self._mean_seconds()
        finals = [run for run in waiting if run.trial is None]
        finals.sort(key=lambda run: (self._plan.seeds.index(run.seed), -seconds.get(run.cell, math.inf)))
        for run in finals:
            if not self._planned[run.cell].trials or self._cells[run.cell].chosen is not None:
                yield run

    def _mean_seconds(self) -> dict[str, float]:
        """How long a cell's runs take, of which one has finished."""
        seconds: dict[str, list[float]] = {}
        for run in self._runs.values():
            if run.state == "finished":
                seconds.setdefault(run.cell, []).append(run.seconds)
        return {cell: sum(each) / len(each) for cell, each in seconds.items()}

    def _start(self, run: Planned, pool: Pool) -> None:
        planned, search = self._planned[run.cell], self._plan.search
        folder, values = self._study.folder / run.folder, self._cells[run.cell].chosen or {}
        if run.trial is not None:
            values = self._search_of(run.cell).begin(planned.trials[run.trial])
            if run.values and as_json(run.values) != as_json(values):  # its search goes on from another history
                shutil.rmtree(folder, ignore_errors=True)
        self._change(replace(run, state="running", values=values if run.trial is not None else {}))
        if run.trial is not None and (ended := self._from_records(run)):
            self.ended(ended)
            return
        config = pool.fitted(self._plan.config(planned, run.seed, values))
        pool.start(Job(run.folder, folder, config.tables(), search is not None and search.pruner is not None))

    def _from_records(self, run: Planned) -> Ended | None:
        """Let a search know what a trial scored before it was interrupted; how it ended, if that was its end."""
        folder, search, goes_on = self._study.folder / run.folder, self._plan.search, True
        if search is None or run.trial is None or not self._search_of(run.cell).in_turn or not is_run(folder):
            return None
        try:
            for round, scored in recorded(folder, search).items():
                if math.isfinite(scored.value):
                    goes_on = self._search_of(run.cell).goes_on(run.trial, round, scored.value)
        except ConfigError as error:
            return Ended(run.folder, 0.0, str(error))
        return None if goes_on or search.pruner is None else Ended(run.folder, 0.0, pruned=True)

    def _search_of(self, cell: str) -> CellSearch:
        if cell not in self._searches:
            assert self._plan.search is not None
            ended = [run for run in self._trials_of(cell) if run.state in AT_END]
            place = self._study.folder / "search"
            place.mkdir(exist_ok=True)
            self._searches[cell] = make_search(self._plan.search, self._planned[cell], place, ended)
        return self._searches[cell]

    def _trials_of(self, cell: str) -> list[Planned]:
        return [run for run in self._runs.values() if run.cell == cell and run.trial is not None]

    # What the record says.

    def _valued(self, run: Planned) -> Planned:
        """A trial with its value; one that was never scored has failed."""
        search = self._plan.search
        if run.trial is None or search is None or run.state == "failed":
            return run
        try:
            counts = outcome(recorded(self._study.folder / run.folder, search), search)
        except ConfigError as error:
            return replace(run, state="failed", failure=str(error))
        if counts is not None:
            return replace(run, value=counts.value, part=counts.part)
        if run.state == "finished":
            where = " in its last scored round" if search.at == "last" else ""
            failure = f"it has no {metric_of(search)} on validation samples{where}"
            return replace(run, state="failed", failure=failure)
        return replace(run, value=None)

    def _looked_at(self, run: Planned) -> Planned:
        """A trial that an earlier version finished, with who is missing from its value; as it is where nothing says."""
        if run.part is not None or run.state != "finished":
            return run
        valued = self._valued(run)
        return valued if valued.state == run.state else run

    def _settle(self) -> None:
        """Choose for the cells whose trials have all ended."""
        search = self._plan.search
        for name, planned in self._planned.items():
            trials = self._trials_of(name) if planned.trials else []
            if search is None or not trials or any(run.state not in AT_END for run in trials):
                continue
            if self._cells[name].chosen is not None:
                continue
            trials = [self._looked_at(run) for run in trials]
            self._runs |= {run.folder: run for run in trials}
            first = best(trials, search)
            if first is not None:
                self._cells[name] = replace(self._cells[name], chosen=dict(first.values))
                self.study.save()
                continue
            failure = next((run.failure for run in trials if run.failure), "all were pruned")
            for run in list(self._runs.values()):
                if run.cell == name and run.trial is None and run.state == "waiting":
                    self._change(replace(run, state="failed", failure=f"no trial of its search finished: {failure}"))

    def _change(self, run: Planned) -> None:
        self._runs[run.folder] = run
        study = self.study
        study.save()
        self._watcher.changed(run, study)

    def _remarks(self, planned: PlannedCell) -> list[str]:
        chosen = self._cells[planned.cell.name].chosen
        if chosen is None:
            return []
        return remarks(planned.cell.name, planned.space, self._trials_of(planned.cell.name), dict(chosen))


def as_json(values: Mapping[str, Any]) -> str:
    """Values as the record has them."""
    return json.dumps(values, default=str, sort_keys=True)
