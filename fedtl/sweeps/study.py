"""A sweep from its study's file to its record."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from operator import attrgetter
from pathlib import Path
from typing import IO, Any

import torch
from rich.console import Console

from fedtl.assemble.resources import cores
from fedtl.choice import ConfigError
from fedtl.config.read import build
from fedtl.config.schema import Config
from fedtl.data.domains import forget_data_sets, keep_data_sets, kept_data_sets
from fedtl.data.memory import available_memory
from fedtl.runs.lock import RunLock
from fedtl.studies import Planned, Study
from fedtl.sweeps.conductor import Conductor, Unwatched, Watcher
from fedtl.sweeps.file import Asked, read_study
from fedtl.sweeps.nursery import Question
from fedtl.sweeps.plan import Plan, PlannedCell, make_plan
from fedtl.sweeps.pool import Pool, in_one_process
from fedtl.sweeps.record import open_record, write_inputs
from fedtl.sweeps.search import metric_of
from fedtl.sweeps.space import Listed
from fedtl.sweeps.work import Here, check_data
from fedtl.sweeps.workers import Nursery, Workers

ROOT = Path("studies")
"""Where studies are that were given no folder."""

LOG = "sweep.log"
"""In a study's folder: what runs' processes print."""

WORKER = 400 * 2**20
"""Bytes of memory that a worker of its own needs for a small model, about."""


def sweep(
    study: str | Path | Mapping[str, Any],
    words: Sequence[str] = (),
    *,
    out: str | Path | None = None,
    jobs: int | None = None,
    progress: bool | None = None,
) -> Study:
    """Run methods in every setting under every seed, or go on with that; what fails is recorded, and the rest goes on.

    Args:
        study: a study's file, the name of one that ships, its tables, a study's folder, or a config.
        words: as on the command line: ``"strategy.name=fedavg,pfedme"``, ``"seed=0:5"``, ``"rounds=20"``.
        out: the study's folder; ``studies/<name>`` if not given. A study that is there goes on.
        jobs: how many runs at once; by cores and memory if not given. One at a time runs in this process.
        progress: whether to show a table of what goes on; if not given, in a notebook.

    Returns:
        The record; :func:`fedtl.compare` of its folder has the statistics.

    Raises:
        ConfigError: something is wrong with what is asked for, and nothing has begun.
    """
    from fedtl.sweeps.progress import watch

    watcher = watch() if (Console().is_jupyter if progress is None else progress) else Unwatched()
    return sweep_asked(read_study(study, words), out, jobs, watcher)


def sweep_asked(asked: Asked, out: str | Path | None, jobs: int | None, watcher: Watcher) -> Study:
    """The same for what has been read."""
    if jobs is not None and jobs < 1:
        raise ConfigError(f"--jobs = {jobs}: should be 1 or more")
    plan = make_plan(asked)
    folder = folder_of(asked, out)
    with ExitStack() as stack:
        lock = RunLock(folder)
        stack.callback(lock.release)
        record = open_record(plan, folder, tuple(sys.argv))
        conductor = Conductor(plan, record, watcher)
        conductor.retry()
        pool = stack.enter_context(_pool(plan, conductor.unfinished, folder, jobs))
        write_inputs(plan, folder)
        stack.callback(watcher.close)
        return conductor.run(pool)


def folder_of(asked: Asked, out: str | Path | None) -> Path:
    """A study's folder."""
    return Path(out) if out is not None else asked.folder or ROOT / asked.file.name


@contextmanager
def _pool(plan: Plan, left: Sequence[Planned], folder: Path, jobs: int | None) -> Iterator[Pool]:
    """Where the runs that are left are trained, once their data are there; it is closed with the block."""
    names = {run.cell for run in left}
    cells = [each for each in plan.cells if each.cell.name in names]
    address = one_address([each.config for each in cells])
    metric = None if plan.search is None else metric_of(plan.search)
    questions = _questions(cells, {(run.cell, run.seed) for run in left}, plan.seeds, metric)
    if jobs == 1 or not cells:
        for each in questions:
            check_data(each.name, build(each.tables), each.chosen_by)
        with _actors([each.config for each in cells], address):
            yield Here()
        return
    if address is not None:
        yield from _on_cluster(cells, questions, folder, jobs, len(left))
        return
    with ExitStack() as stack:
        nursery = Nursery(stack.enter_context(_log(folder)))
        stack.callback(nursery.close)
        nursery.begin(_definitions(cells))
        nursery.check(questions)
        gpus = 0 if all(each.config.device == "cpu" for each in cells) else torch.cuda.device_count()
        pool = Workers(nursery, min(jobs or default_jobs(nursery.kept, gpus), len(left)), gpus)
        try:
            yield pool
        finally:
            pool.close()


@contextmanager
def _actors(configs: Sequence[Config], address: str | None) -> Iterator[None]:
    """One Ray, and actors that begin once, for runs one after another that train on them."""
    on_ray = [config.simulation for config in configs if config.simulation.grid == "ray"]
    if not on_ray:
        yield
        return
    try:
        from fedtl.grid.warm import warm_actors
    except ModuleNotFoundError:
        yield  # the first run says what is missing
        return
    asked = [each.num_cpus * (cores() if each.actors == "auto" else each.actors) for each in on_ray]
    with warm_actors(address, max(asked)):
        yield


def _on_cluster(
    cells: Sequence[PlannedCell], questions: Iterator[Question], folder: Path, jobs: int | None, runs: int
) -> Iterator[Pool]:
    try:
        from fedtl.sweeps.cluster import OnCluster
    except ModuleNotFoundError as error:
        raise ConfigError("simulation.address: that needs the package ray; leave it out") from error
    check_same_needs([each.config for each in cells])
    keep_data_sets()
    try:
        for each in questions:
            check_data(each.name, build(each.tables), each.chosen_by)
        kept = kept_data_sets()
    finally:
        forget_data_sets()
    pool = OnCluster(folder, cells[0].config, jobs, runs, _definitions(cells), kept)
    try:
        yield pool
    finally:
        pool.close()


def one_address(configs: Sequence[Config]) -> str | None:
    """The cluster that all runs' configs name; None where they name none.

    Raises:
        ConfigError: they do not all name the same.
    """
    addresses = {config.simulation.address for config in configs}
    if len(addresses) > 1:
        raise ConfigError("simulation.address: all runs of a study are on one cluster; give it in [set]")
    return addresses.pop() if addresses else None


def check_same_needs(configs: Sequence[Config]) -> None:
    """Check that any actor of a cluster can train any run.

    Raises:
        ConfigError: they do not all ask for the same.
    """
    for key in ("device", "simulation.num_cpus", "simulation.num_gpus"):
        asked = {attrgetter(key)(config) for config in configs}
        if len(asked) > 1:
            listed = " and ".join(sorted(map(repr, asked)))
            raise ConfigError(
                f"{key} = {listed}: on a cluster all runs of a study ask for the same; give it in [set], or run them "
                "one after another with --jobs 1"
            )


def _questions(
    cells: Sequence[PlannedCell], left: Collection[tuple[str, int]], seeds: Sequence[int], metric: str | None
) -> Iterator[Question]:
    """All that data are divided among, once for each way and each seed: another draw may not be possible.

    Args:
        cells: of which runs are left.
        left: the cell and the seed of each of these runs.
        seeds: of the study.
        metric: by which its search chooses.
    """
    asked = set()
    for each, seed in itertools.product(cells, seeds):
        if (each.cell.name, seed) not in left:
            continue
        # As it was checked: of a cell that is tuned, its search may give what its method cannot do without.
        config, chosen_by = each.config.model_copy(update={"seed": seed}), metric if each.trials else None
        chosen = chosen_by, *config.chosen_by.values()
        key = config.data.model_dump_json(), seed, config.strategy.clients_per_round, *chosen
        if key not in asked:
            asked.add(key)
            yield Question(each.cell.name, in_one_process(config).tables(), chosen_by)


def default_jobs(kept: int, gpus: int = 0) -> int:
    """How many runs at once this machine has cores and memory for; with GPUs one on each.

    Args:
        kept: bytes of the data that workers share; each may need as much again for what it makes of them.
        gpus: that runs may train on.
    """
    memory = free_memory()
    at_once = gpus or cores()
    return max(1, at_once if memory is None else min(at_once, memory // (WORKER + 2 * kept)))


def free_memory() -> int | None:
    """Bytes that could be used now; None where nobody says."""
    limit = available_memory()
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 2**10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return limit
    return free if limit is None else min(free, limit)


def _definitions(cells: Sequence[PlannedCell]) -> bytes | None:
    """What the cells' configs and spaces name in this process's ``__main__``, by value."""
    from fedtl.grid.notebook import definitions

    listed = [axis.values for each in cells for axis in each.space.values() if isinstance(axis, Listed)]
    return definitions({"cells": [each.config.tables() for each in cells], "space": listed})


@contextmanager
def _log(folder: Path) -> Iterator[IO[Any]]:
    with (folder / LOG).open("ab") as log:
        yield log
