"""A sweep carried out: chosen by validation, killed at any instant and resumed, and what fails is not lost."""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import pickle
import re
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.live import Live

import fedtl
from fedtl.assemble.driver import Server
from fedtl.choice import ConfigError
from fedtl.failure import RunError
from fedtl.runs.lock import RunLock
from fedtl.server.rounds import Rounds
from fedtl.server.scores import Coverage
from fedtl.studies import Study
from fedtl.sweeps import progress, work, workers
from fedtl.sweeps import study as sweeping
from fedtl.sweeps.file import Search, read_study
from fedtl.sweeps.plan import make_plan
from fedtl.sweeps.pool import Ended, Job, Scored
from fedtl.sweeps.progress import Lines, LiveTable
from fedtl.sweeps.search import Value, best, outcome, remarks
from fedtl.sweeps.space import read_space
from tests.interrupted import Killed, contents, stop_at
from tests.sweeps import LR, METHODS, left_of, study_of

SEARCH: dict[str, Any] = {"by": "random", "budget": 2, "space": {LR: {"low": 0.01, "high": 0.5, "log": True}}}
OPTUNA = {
    **SEARCH,
    "by": "optuna",
    "budget": 3,
    "sampler": {"name": "TPESampler", "n_startup_trials": 1},
    "pruner": {"name": "PercentilePruner", "percentile": 1.0, "n_startup_trials": 1, "n_warmup_steps": 0},
}


def swept(folder: Path, **more: Any) -> Study:
    return fedtl.sweep(study_of(**more), out=folder, jobs=1)


def states(study: Study) -> list[str]:
    return [run.state for run in study.runs]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Two methods, tuned, under two seeds."""
    return swept(tmp_path_factory.mktemp("tuned") / "study", search=SEARCH)


# What is run and recorded.


def test_each_run_is_the_run_of_its_config(tuned: Study, tmp_path: Path) -> None:
    cell = tuned.cells[0]
    assert cell.chosen is not None
    words = ["strategy.name=fedavg", f"{LR}={cell.chosen[LR]}", "seed=1"]
    alone = fedtl.run(study_of()["config"], words, out=tmp_path / "alone")
    assert contents(alone.path) == contents(tuned.folder / "runs/fedavg-1")


def test_the_best_on_validation_is_chosen_and_all_of_the_search_is_recorded(tuned: Study) -> None:
    for cell in tuned.cells:
        trials = tuned.trials(cell.name)
        assert [(run.trial, run.state, run.seed) for run in trials] == [(0, "finished", 0), (1, "finished", 0)]
        for run in trials:
            last = fedtl.load(tuned.folder / run.folder).last()
            score = "personal" if cell.variant == "local" else "global"
            assert run.value == last[f"{score}/validation-clients"].value
        assert cell.chosen == max(trials, key=lambda run: run.value or 0).values
    assert Study.load(tuned.folder) == tuned
    assert len({run.values[LR] for run in tuned.runs if run.trial is not None}) == 4


def test_what_is_finished_is_not_run_again(tuned: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "run_at", lambda *_: pytest.fail("a run began"))
    assert fedtl.sweep(tuned.folder).runs == tuned.runs


def test_seeds_can_be_added(tuned: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["seed=0:3", "strategy.lr=0.1"]
    small = study_of(variants=METHODS[:1])
    before = fedtl.sweep(small, words[1:], out=tmp_path / "a", jobs=1)
    divided = list[int]()
    monkeypatch.setattr(sweeping, "check_data", lambda name, config, tuned: divided.append(config.seed))
    after = fedtl.sweep(small, words, out=tmp_path / "a", jobs=1)
    assert divided == [2]
    assert [run for run in after.runs if run.seed < 2] == [*before.runs]
    assert states(after) == ["finished"] * 3


def test_a_search_may_give_what_its_method_cannot_do_without(tmp_path: Path, engines_chosen_once: None) -> None:
    fedprox = {"strategy.name": "fedprox", "space": {"strategy.mu": [0.1]}}
    done = swept(tmp_path, variants=[fedprox], seeds=1, search={"by": "grid"})
    assert states(done) == ["finished"] * 2
    assert done.cells[0].chosen == {"strategy.mu": 0.1}


def test_runs_on_several_clusters_are_refused(tmp_path: Path) -> None:
    first, second = (
        {"name": f"on-{port}", "simulation": {"grid": "ray", "address": f"10.0.0.1:{port}"}} for port in (1, 2)
    )
    for each, jobs in itertools.product(([first, second], [first, *METHODS]), (1, 2)):
        with pytest.raises(ConfigError, match=r"simulation\.address: all runs of a study are on one cluster"):
            fedtl.sweep(study_of(variants=each), out=tmp_path, jobs=jobs)


def test_runs_on_a_cluster_that_ask_for_different_things_are_refused(tmp_path: Path) -> None:
    on_ray = {"simulation.grid": "ray", "simulation.address": "10.0.0.1:1"}
    each = [{"name": f"with-{cpus}", "simulation.num_cpus": cpus} for cpus in (1.0, 2.0)]
    with pytest.raises(ConfigError, match=r"simulation\.num_cpus = 1\.0 and 2\.0: on a cluster all runs of a study"):
        fedtl.sweep(study_of(set=on_ray, variants=each), out=tmp_path)


def test_nobody_else_sweeps_into_the_folder(tuned: Study) -> None:
    lock = RunLock(tuned.folder)
    try:
        with pytest.raises(ConfigError, match="is being written by process"):
            fedtl.sweep(tuned.folder)
    finally:
        lock.release()


def test_a_line_has_the_score_of_its_own_run(tuned: Study) -> None:
    screen = io.StringIO()
    lines = Lines(Console(file=screen, width=200))
    first, second = (run for run in tuned.finals if run.cell == tuned.finals[0].cell)
    lines.begin(tuned, make_plan(read_study(tuned.folder)), 2)
    for run, accuracy in ((first, 0.5), (second, 0.25)):  # both are trained at once
        lines.scored(run, Scored(run.folder, 1, {"global/clients": {"accuracy": {"weighted_mean": accuracy}}}))
    lines.changed(first, tuned)
    lines.changed(second, tuned)
    assert re.findall(r"seed (\d) finished, global/clients ([\d.]+) %", screen.getvalue()) == [
        ("0", "50.0"),
        ("1", "25.0"),
    ]


def test_the_table_is_drawn_as_rounds_end_but_not_at_each(tuned: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = list[object]()
    monkeypatch.setattr(Live, "update", lambda self, table, **_: drawn.append(table))
    table, run = LiveTable(Console(file=io.StringIO(), force_terminal=True)), tuned.finals[0]

    def drawings(every: float) -> list[int]:
        monkeypatch.setattr(progress, "DRAW_EVERY", every)
        counts = []
        for told in (
            lambda: table.scored(run, Scored(run.folder, 1, {})),
            lambda: table.look(),
            lambda: table.changed(run, tuned),
        ):
            drawn.clear()
            told()
            counts.append(len(drawn))
        return counts

    table.begin(tuned, make_plan(read_study(tuned.folder)), 1)
    try:
        assert len(drawn) == 1
        assert drawings(0.0) == [1, 1, 1]
        assert drawings(math.inf) == [0, 0, 1]
        # A number says which model it is of on whose data.
        table.scored(run, Scored(run.folder, 1, {"global/clients": {"accuracy": {"weighted_mean": 0.5}}}))
        screen = Console(file=io.StringIO(), width=100)
        screen.print(table._table())
        assert "global/clients 50.0 %" in screen.file.getvalue()  # type: ignore[attr-defined]
    finally:
        table.close()


# Killed and resumed.


@pytest.mark.parametrize("search", [SEARCH, OPTUNA], ids=["random", "optuna"])
def test_a_killed_sweep_goes_on_to_the_same_study(
    search: dict[str, Any], tmp_path: Path, engines_chosen_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if search is OPTUNA:
        pytest.importorskip("optuna", reason="optuna, an extra, is not installed")
    more = {"variants": METHODS[:1], "search": search}
    whole = left_of(swept(tmp_path / "whole", **more).folder)
    deaths, folder = 0, tmp_path / "killed"
    for attempt in itertools.count(1):
        with monkeypatch.context() as patch:
            # In the writing of the record, ever later, or at the end of a run of which the record does not know yet.
            owner, name, call = (Server, "finish", 1) if attempt % 3 == 0 else (Study, "save", attempt)
            stop_at(patch, owner, name, call, after=bool(attempt % 2))
            try:
                swept(folder, **more)
                break
            except Killed:
                deaths += 1
                assert deaths < 40, "it does not get on"
    assert deaths >= 4
    assert left_of(folder) == whole


def test_optuna_prunes_and_keeps_its_trials_in_the_studys_folder(tmp_path: Path, engines_chosen_once: None) -> None:
    optuna = pytest.importorskip("optuna", reason="optuna, an extra, is not installed")
    done = swept(tmp_path / "study", variants=METHODS[:1], seeds=1, search=OPTUNA)
    trials = done.trials("fedavg")
    assert {run.state for run in trials} == {"finished", "pruned"}
    pruned = [run for run in trials if run.state == "pruned"]
    assert all(len(fedtl.load(done.folder / run.folder).rounds) < 2 for run in pruned)
    storage = f"sqlite:///{done.folder / 'search' / 'optuna.sqlite3'}"
    kept = optuna.load_study(study_name="fedavg", storage=storage).trials
    assert [trial.params[LR] for trial in kept] == [run.values[LR] for run in trials]
    assert done.cells[0].chosen == {LR: max((t for t in kept if t.value), key=lambda t: t.value).params[LR]}


@pytest.mark.parametrize("sampler", ["GridSampler", "BruteForceSampler"])
def test_optunas_samplers_that_end_try_each_point_once(sampler: str, tmp_path: Path, engines_chosen_once: None) -> None:
    pytest.importorskip("optuna", reason="optuna, an extra, is not installed")
    space = {LR: [0.05, 0.1], "strategy.batch_size": [10, 20]}
    search = {"by": "optuna", "budget": 4, "sampler": sampler, "space": space}
    with warnings.catch_warnings(action="ignore"):  # one of them is called experimental
        done = swept(tmp_path, variants=METHODS[:1], seeds=1, set={"rounds": 1}, search=search)
    assert states(done) == ["finished"] * 5
    assert len({tuple(run.values.items()) for run in done.trials("fedavg")}) == 4


def test_what_an_interrupted_trial_has_scored_decides_about_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engines_chosen_once: None
) -> None:
    """Its process is lost after a round is on disk, and before anybody has heard of it."""
    pytest.importorskip("optuna", reason="optuna, an extra, is not installed")
    whole = swept(tmp_path / "whole", variants=METHODS[:1], seeds=1, search=OPTUNA)
    pruned = next(run.folder for run in whole.runs if run.state == "pruned")
    round, lost = work._Listener.round, list[str]()

    def unheard(self: work._Listener, report: Any) -> None:
        if self._job.key == pruned and not lost:
            lost.append(self._job.key)
            raise Killed
        round(self, report)

    monkeypatch.setattr(work._Listener, "round", unheard)
    with pytest.raises(Killed):
        swept(tmp_path / "killed", variants=METHODS[:1], seeds=1, search=OPTUNA)
    with warnings.catch_warnings(action="error", category=UserWarning):
        swept(tmp_path / "killed", variants=METHODS[:1], seeds=1, search=OPTUNA)
    assert left_of(tmp_path / "killed") == left_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"sampler": "TPESampel"}, "search.sampler = 'TPESampel' is unknown to Optuna: did you mean 'TPESampler'?"),
        ({"sampler": {"name": "TPESampler", "n_startup": 1}}, "search.sampler.n_startup is no option of TPESampler"),
        ({"pruner": {"name": "PercentilePruner"}}, "search.pruner: PercentilePruner cannot be made"),
        ({"sampler": "GridSampler"}, f"space.{LR}: a grid needs a list, or a range with a step"),
    ],
)
def test_what_optuna_does_not_know(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="optuna, an extra, is not installed")
    with pytest.raises(ConfigError) as error:
        swept(tmp_path, search={**OPTUNA, **more})
    assert message in str(error.value)


# What fails.


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets runs fail whose folder ends so."""
    run_at, endings = work.run_at, list[str]()

    def fails(config: Any, place: Any, *more: Any) -> Any:
        if any(str(place.folder).endswith(ending) for ending in endings):
            raise RunError("the disk is full")
        return run_at(config, place, *more)

    monkeypatch.setattr(work, "run_at", fails)

    def set_endings(*new: str) -> None:
        endings[:] = new

    return set_endings


def test_failed_runs_are_listed_and_tried_again(
    broken: Callable[..., None], tmp_path: Path, engines_chosen_once: None
) -> None:
    broken("local-0")
    done = swept(tmp_path)
    assert [run.state for run in done.finals] == ["finished", "failed", "finished", "finished"]
    assert [(run.folder, run.failure) for run in done.failed] == [("runs/local-0", "the disk is full")]
    broken()
    again = swept(tmp_path)
    assert states(again) == ["finished"] * 4
    assert not again.failed


def test_a_search_goes_on_without_trials_that_fail(
    broken: Callable[..., None], tmp_path: Path, engines_chosen_once: None
) -> None:
    broken("search/fedavg/0", "search/local/0", "search/local/1")
    done = swept(tmp_path, search=SEARCH, seeds=1)
    chosen = {cell.name: cell.chosen for cell in done.cells}
    assert chosen == {"fedavg": done.trials("fedavg")[1].values, "local": None}
    assert "fedavg: 1 of 2 trials failed, as trial 0: the disk is full." in done.notes
    assert done.finals[1].failure == "no trial of its search finished: the disk is full"
    broken()
    again = swept(tmp_path, search=SEARCH, seeds=1)
    assert {cell.name: cell.chosen is None for cell in again.cells} == {"fedavg": False, "local": False}
    assert again.trials("fedavg")[0].state == "failed"  # what was chosen stays
    assert [run.state for run in again.finals] == ["finished"] * 2


def test_a_search_that_goes_on_does_not_try_again_what_its_values_follow_from(
    broken: Callable[..., None], tmp_path: Path, engines_chosen_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna", reason="optuna, an extra, is not installed")
    more = {"variants": METHODS[:1], "search": OPTUNA, "seeds": 1}
    broken("search/fedavg/0")
    swept(tmp_path / "whole", **more)
    with monkeypatch.context() as patch:
        stop_at(patch, Study, "save", 5, after=False)  # after trial 1, of which the record does not say so
        with pytest.raises(Killed):
            swept(tmp_path / "killed", **more)
    broken()
    swept(tmp_path / "killed", **more)
    assert left_of(tmp_path / "killed") == left_of(tmp_path / "whole")


def test_trials_that_all_failed_are_tried_again(
    tmp_path: Path, engines_chosen_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    optuna = pytest.importorskip("optuna", reason="optuna, an extra, is not installed")
    more = {"variants": METHODS[:1], "search": {**OPTUNA, "pruner": None}, "seeds": 1}
    run_at = work.run_at

    def fails(*arguments: Any) -> None:
        run_at(*arguments)
        raise RunError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(work, "run_at", fails)
        assert set(states(swept(tmp_path, **more))) == {"failed"}
    done = swept(tmp_path, **more)  # with other values, as trials that failed say nothing to the sampler
    assert states(done) == ["finished"] * 4
    kept = optuna.load_study(study_name="fedavg", storage=f"sqlite:///{tmp_path / 'search' / 'optuna.sqlite3'}").trials
    assert [trial.value for trial in kept] == [run.value for run in done.trials("fedavg")]


def test_whoever_watches_is_told_of_runs_that_cannot_begin_any_more(tmp_path: Path, engines_chosen_once: None) -> None:
    """All trials of a search were pruned, and the sweep goes on."""
    more: dict[str, Any] = {"variants": METHODS[:1], "search": SEARCH, "seeds": 1}
    done = swept(tmp_path, **more)
    pruned = [run if run.trial is None else replace(run, state="pruned") for run in done.runs]
    waits = [replace(run, state="waiting") if run.trial is None else run for run in pruned]
    replace(done, cells=tuple(replace(cell, chosen=None) for cell in done.cells), runs=tuple(waits)).save()
    console = Console(file=io.StringIO(), width=200)
    again = sweeping.sweep_asked(read_study(tmp_path), tmp_path, 1, Lines(console))
    assert [run.state for run in again.finals] == ["failed"]
    assert "failed: no trial of its search finished: all were pruned" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_trial_whose_records_are_damaged_fails_alone(
    tmp_path: Path, engines_chosen_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna", reason="optuna, an extra, is not installed")
    more = {"variants": METHODS[:1], "search": OPTUNA, "seeds": 1}
    with monkeypatch.context() as patch:
        stop_at(patch, Server, "finish", 1, after=False)
        with pytest.raises(Killed):
            swept(tmp_path, **more)
    (tmp_path / "search/fedavg/0/rounds.jsonl").write_text("{\n{\n{}\n")
    done = swept(tmp_path, **more)
    assert done.trials("fedavg")[0].state == "failed"
    assert done.finals[0].state == "finished"


def test_a_run_that_kills_its_process_each_time_fails_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engines_chosen_once: None
) -> None:
    wait, lost = work.Here.wait, list[str]()

    def lose(self: work.Here, timeout: float, observer: Any) -> None:
        if self._job is not None and self._job.key == "runs/local-0":
            lost.append(self._job.key)
            self._job = None
            observer.ended(Ended(lost[-1], 1.0, "its process was ended by SIGKILL", lost=True))
        else:
            wait(self, timeout, observer)

    monkeypatch.setattr(work.Here, "wait", lose)
    done = swept(tmp_path)
    assert len(lost) == 3
    assert [run.state for run in done.runs] == ["finished", "failed", "finished", "finished"]
    assert done.runs[1].failure == "its process was ended by SIGKILL, 3 times"
    assert done.runs[1].seconds == 3.0


def test_nothing_begins_where_data_cannot_be_divided(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fedavg min_size=999, seed 0: data\.clients = 3: 150 samples"):
        swept(tmp_path, grid={"data.partition.min_size": [1, 999]})
    assert not (tmp_path / "study.json").exists()


def test_nothing_begins_where_a_search_goes_by_a_class_that_is_none(tmp_path: Path) -> None:
    scored = {"evaluate.metrics": ["recall_by_class"]}
    with pytest.raises(ConfigError, match=r"search\.metric = 'recall_by_class/77': there is no such class"):
        swept(tmp_path, set=scored, seeds=1, search={**SEARCH, "metric": "recall_by_class/77"})
    assert not (tmp_path / "study.json").exists()


# Choosing.


def test_the_last_or_the_best_scored_round_counts() -> None:
    seen = {1: Value(0.9), 2: Value(0.7, Coverage(5, 5))}
    assert outcome(seen, Search(by="random")) == seen[2]
    assert outcome(seen, Search(by="random", at="best")) == seen[1]
    assert outcome(seen, Search(by="random", at="best", metric="loss")) == seen[2]
    assert outcome({}, Search(by="random")) is None
    diverged = {**seen, 3: Value(math.nan, Coverage(0, 5))}
    assert outcome(diverged, Search(by="random")) is None
    assert outcome(diverged, Search(by="random", at="best")) == seen[1]
    lacking = {**seen, 3: Value(1.0, Coverage(4, 5)), 4: Value(0.8, Coverage(2, 2, drawn_from=5))}
    assert outcome(lacking, Search(by="random", at="best")) == seen[1], "who was not drawn is not missing"
    few = {at: Value(value, Coverage(4, 5)) for at, (value, _) in seen.items()}
    assert outcome(few, Search(by="random", at="best")) == few[1]
    assert [few[1].part, lacking[4].part, seen[1].part] == ["4 of 5 clients", "", ""]


def test_of_equals_the_first_is_chosen_and_a_smaller_loss_is_better(tuned: Study) -> None:
    trials = [replace(tuned.runs[0], trial=number, value=value) for number, value in enumerate((0.5, 0.7, 0.7))]
    assert getattr(best(trials, Search(by="random")), "trial", None) == 1
    assert getattr(best(trials, Search(by="random", metric="loss")), "trial", None) == 0
    pruned = [replace(run, state="pruned") for run in trials]
    assert best(pruned, Search(by="random")) is None
    few = [replace(trials[0], part=""), replace(trials[1], part="4 of 5 clients"), trials[2]]
    assert best(few, Search(by="random")) is few[2], "nobody has looked at it"
    assert best(few[:2], Search(by="random")) is few[0]
    assert best(few[1:2], Search(by="random")) is few[1]


def test_a_value_at_the_end_of_its_range_is_a_note() -> None:
    space = read_space({LR: {"low": 0.01, "high": 1.0, "log": True}, "strategy.mu": [0.1, 1.0, 10.0]}, "space")
    (note,) = remarks("fedprox", space, (), {LR: 0.99, "strategy.mu": 1.0})
    assert note.startswith("fedprox: strategy.lr = 0.99 was chosen at the largest end")
    assert len(remarks("fedprox", space, (), {LR: 0.1, "strategy.mu": 0.1})) == 1


@pytest.fixture
def broken_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the larger learning rate one client cannot be scored, and the others have all right."""
    score = Rounds.aggregate_evaluate

    def without_one(self: Rounds, server_round: int, replies: Any) -> Any:
        metrics = score(self, server_round, replies)
        for name, row in self.report.scores.items():
            if "clients" in name:
                at = self.settings.lr > 1
                row["accuracy"]["weighted_mean"] = 1.0 if at else 0.5  # type: ignore[index]
                if at:
                    row["scored"] -= 1  # type: ignore[index]
        return metrics

    monkeypatch.setattr(Rounds, "aggregate_evaluate", without_one)


@pytest.mark.parametrize("by", ["grid", "optuna"])
def test_a_trial_that_breaks_a_client_is_not_chosen(
    by: str, tmp_path: Path, broken_client: None, engines_chosen_once: None
) -> None:
    search: dict[str, Any] = {"by": by, "space": {LR: [0.1, 1.5]}}
    if by == "optuna":
        pytest.importorskip("optuna", reason="optuna, an extra, is not installed")
        search |= {"budget": 2, "sampler": "BruteForceSampler"}
    with warnings.catch_warnings(action="ignore"):  # Optuna's sampler is called experimental
        done = swept(tmp_path / "study", variants=METHODS[:1], seeds=1, search=search)
    trials = {run.values[LR]: run for run in done.trials("fedavg")}
    of = fedtl.load(done.folder / trials[1.5].folder).coverage("global/validation-clients")
    assert [trials[0.1].value, trials[0.1].part] == [0.5, ""]
    assert [trials[1.5].value, trials[1.5].part] == [1.0, str(of)]
    assert done.cells[0].chosen == {LR: 0.1}
    (note,) = [note for note in done.notes if "missing" in note]
    assert note == (
        f"fedavg: clients are missing from the scores of 1 of 2 finished trials, as trial {trials[1.5].trial}, whose "
        f"score is over {of}; such a trial is chosen only where there is no other."
    )
    # A study that an earlier version was about to choose for: it did not say who was missing.
    file = done.folder / "study.json"
    table = json.loads(file.read_text())
    for run in table["runs"]:
        del run["part"]
        run["state"] = "finished" if run["trial"] is not None else "waiting"
    table["cells"][0]["chosen"] = None
    file.write_text(json.dumps(table))
    with warnings.catch_warnings(action="ignore"):
        again = swept(tmp_path / "study", variants=METHODS[:1], seeds=1, search=search)
    assert (again.cells, again.notes) == (done.cells, done.notes)
    assert [run.part for run in again.trials("fedavg")] == [run.part for run in done.trials("fedavg")]


def test_where_every_trial_lacks_clients_that_is_a_note(tuned: Study) -> None:
    trials = [replace(tuned.runs[0], trial=i, value=0.5, part="4 of 5 clients") for i in range(2)]
    (note,) = remarks("fedavg", {}, trials, {})
    assert note == (
        "fedavg: clients are missing from the scores of 2 of 2 finished trials, as trial 0, whose score is over 4 of 5 "
        "clients; so trials are compared over different clients."
    )


# Workers.


def test_workers_are_sent_what_any_trial_may_name(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="ray, an extra, is not installed")

    def network(classes: int) -> torch.nn.Module:
        return torch.nn.Linear(64, classes)

    for name in ("first", "second"):
        monkeypatch.setattr(sys.modules["__main__"], name, network, raising=False)
    search = {"by": "grid", "space": {"model.name": ["__main__:first", "__main__:second"]}}
    plan = make_plan(read_study(study_of(variants=METHODS[:1], search=search)))
    sent = sweeping._definitions(plan.cells)
    assert sent is not None
    assert {*pickle.loads(sent)} == {"first", "second"}


class Forks:
    """A nursery whose workers are this test."""

    def __init__(self) -> None:
        self.workers: list[Connection] = []

    def fork(self, gpu: str | None) -> workers._Worker:
        here, there = Pipe()
        self.workers.append(there)
        return workers._Worker(len(self.workers), here, gpu)

    def exit_of(self, process: int) -> int | None:
        return -signal.SIGKILL


def test_a_worker_that_dies_idle_costs_no_run_anything() -> None:
    forks, job = Forks(), Job("runs/local-0", Path("local-0"), {})
    pool = workers.Workers(forks, 2)  # type: ignore[arg-type]
    for worker in forks.workers[:2]:
        worker.close()
    pool.start(job)
    assert len(forks.workers) == 3
    assert forks.workers[2].recv() == job


def test_workers_give_the_same_bits_and_one_that_is_killed_costs_nothing(
    tuned: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One nursery for all: it takes seconds to begin."""
    killed: list[int] = []
    start = workers.Workers.start

    def start_and_kill(self: workers.Workers, job: Any) -> None:
        start(self, job)
        if job.key == "runs/local-0" and len(killed) < 1:
            worker = next(each for each in self._workers if each.job is job)
            killed.append(worker.process)
            os.kill(worker.process, signal.SIGKILL)

    monkeypatch.setattr(workers.Workers, "start", start_and_kill)
    done = fedtl.sweep(study_of(search=SEARCH), out=tmp_path / "study", jobs=2)
    assert killed
    assert left_of(done.folder) == left_of(tuned.folder)
    for process in killed:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
