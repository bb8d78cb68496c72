"""Several runs at once on a Ray cluster: each is one actor's, wherever there is room."""

from __future__ import annotations

import io
import os
import queue
import shutil
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from fedtl.config.schema import Config
from fedtl.data.dataset import Dataset
from fedtl.data.domains import keep_data_sets
from fedtl.failure import RunError
from fedtl.grid import cluster
from fedtl.grid.cluster import WORKER_ENVIRONMENT
from fedtl.grid.notebook import define
from fedtl.grid.shared_folder import FolderMark
from fedtl.sweeps.pool import Ended, Job, Observer, Scored, in_one_process
from fedtl.sweeps.work import work_on

LOOK_EVERY = 5.0
"""Seconds between two looks at how much room the cluster has."""

ASK_EVERY = 0.5
"""Seconds between two questions to an actor what its run has done."""


class RunActor:
    """A process of the cluster that trains one run after another.

    Args:
        path: where modules are looked for.
        definitions: what configs name in the driver's ``__main__``.
        kept: data sets that the driver has read; all actors of a machine share their memory.
        mark: a file in the study's folder.
    """

    def __init__(self, path: list[str], definitions: bytes | None, kept: Mapping[str, Dataset], mark: str) -> None:
        sys.path += [folder for folder in path if folder not in sys.path]
        if definitions is not None:
            define(definitions)
        keep_data_sets(kept)
        self._sees_folder = os.path.exists(mark)
        self._news: list[Scored] = []
        self._answers: queue.Queue[bool] = queue.Queue()
        self._lock = threading.Lock()

    def run(self, job: Job) -> tuple[Ended, bytes | None]:
        """Train a run; where this machine does not see its folder, its files come back as an archive."""
        import torch

        torch.set_num_threads(1)

        def heard(scored: Scored) -> bool:
            with self._lock:
                self._news.append(scored)
            return self._answers.get() if job.asks and scored.scores else True

        if self._sees_folder:
            return work_on(job, heard), None
        with tempfile.TemporaryDirectory() as folder:
            own = replace(job, folder=Path(folder) / "run")
            return work_on(own, heard), _packed(own.folder)

    def news(self) -> list[Scored]:
        """What its run has done since it was last asked."""
        with self._lock:
            news, self._news = self._news, []
        return news

    def answer(self, goes_on: bool) -> None:
        """Let its run go on, or not."""
        self._answers.put(goes_on)


@dataclass
class _Worker:
    """An actor, and what it works on."""

    actor: Any
    job: Job | None = None
    running: Any = None
    asked: Any = None
    asked_at: float = 0.0
    began: float = 0.0


class OnCluster:
    """A pool of actors all over a Ray cluster, as many as it has room for at the moment.

    What an actor did that is lost with its machine, another one goes on with, from the checkpoint where all machines
    see the study's folder.

    Args:
        folder: the study's.
        config: of a run, which says where the cluster is and what an actor asks of it.
        jobs: how many runs at once, at most; None for as many as there is room for.
        most: how many runs there are.
        definitions: what configs name in this process's ``__main__``.
        kept: the data sets that were read here.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        jobs: int | None,
        most: int,
        definitions: bytes | None,
        kept: Mapping[str, Dataset],
    ) -> None:
        simulation = config.simulation
        gpus = (1.0 if config.device == "cuda" else 0.0) if simulation.num_gpus == "auto" else simulation.num_gpus
        self._connection = cluster.connect(simulation.address, environment=WORKER_ENVIRONMENT)
        self._needs, self._most = cluster.Needs(simulation.num_cpus, gpus), min(jobs or most, most)
        self._mark = FolderMark(folder.absolute())
        self._options: dict[str, Any] = {
            "num_cpus": simulation.num_cpus,
            "num_gpus": gpus,
            "max_restarts": 0,
            "max_concurrency": 2,  # one that trains, one that answers
            "scheduling_strategy": "SPREAD",
            "runtime_env": {"env_vars": WORKER_ENVIRONMENT},
        }
        path = [os.path.abspath(each) for each in ["", *sys.path]]
        self._parts = (path, definitions, ray.put(dict(kept)), str(self._mark.file))
        self._workers: list[_Worker] = []
        self._looked = -LOOK_EVERY
        self._fill()

    @property
    def size(self) -> int:
        """How many runs at once there is room for."""
        return len(self._workers)

    @property
    def free(self) -> int:
        """How many actors have nothing to do."""
        return sum(worker.job is None for worker in self._workers)

    def fitted(self, config: Config) -> Config:
        """With all clients in the actor: the runs are the parallelism."""
        return in_one_process(config)

    def start(self, job: Job) -> None:
        """Let an actor begin a run."""
        worker = next(worker for worker in self._workers if worker.job is None)
        worker.job, worker.began = replace(job, folder=job.folder.absolute()), time.monotonic()
        worker.running, worker.asked = worker.actor.run.remote(worker.job), None

    def wait(self, timeout: float, observer: Observer) -> None:
        """Wait for news, and pass them on."""
        self._fill()
        busy = [worker for worker in self._workers if worker.job is not None]
        if not busy:
            time.sleep(timeout)
            return
        now = time.monotonic()
        for worker in busy:
            if worker.asked is None and now - worker.asked_at >= ASK_EVERY:
                worker.asked, worker.asked_at = worker.actor.news.remote(), now
        waiting = {each: worker for worker in busy for each in (worker.running, worker.asked) if each is not None}
        ready, _ = ray.wait([*waiting], timeout=timeout)
        for reference in ready:
            worker = waiting[reference]
            if worker.job is None:
                continue  # it was lost with the other answer
            try:
                if reference == worker.asked:
                    worker.asked = None
                    self._pass_on(worker, ray.get(reference), observer)
                else:
                    self._end(worker, observer)
            except RayError as error:
                self._lose(worker, error, observer)

    def close(self) -> None:
        """End all; a run that is going on is left as it stands."""
        for worker in self._workers:
            ray.kill(worker.actor)
        self._mark.remove()
        if self._connection.ours:
            ray.shutdown()

    def _fill(self) -> None:
        """Have as many actors as there is room for."""
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY:
            return
        self._looked = now
        wanted = max(1, min(self._most, cluster.room(self._needs)))
        while len(self._workers) < wanted:
            self._workers.append(_Worker(self._new_actor()))

    def _new_actor(self) -> Any:
        return ray.remote(RunActor).options(**self._options).remote(*self._parts)

    def _pass_on(self, worker: _Worker, news: list[Scored], observer: Observer) -> None:
        job = worker.job
        assert job is not None
        for scored in news:
            goes_on = observer.scored(scored)
            if job.asks and scored.scores:
                worker.actor.answer.remote(goes_on)

    def _end(self, worker: _Worker, observer: Observer) -> None:
        job = worker.job
        assert job is not None
        ended, archive = ray.get(worker.running)
        self._pass_on(worker, ray.get(worker.actor.news.remote()), observer)
        if archive is not None:
            _unpack(archive, job.folder)
        worker.job = worker.running = worker.asked = None
        observer.ended(ended)

    def _lose(self, worker: _Worker, error: RayError, observer: Observer) -> None:
        """Put another actor in the place of one that has died, alone or with its machine."""
        job, seconds = worker.job, time.monotonic() - worker.began
        assert job is not None
        ray.kill(worker.actor)
        self._workers.remove(worker)
        self._looked = -LOOK_EVERY
        if isinstance(error, RayActorError) and error.actor_init_failed:
            raise RunError(f"a Ray actor cannot begin: {_last_line(error)}") from None
        observer.ended(Ended(job.key, seconds, f"its Ray actor ended: {_last_line(error)}", lost=True))


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _packed(folder: Path) -> bytes:
    """A run's files as an archive."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        if folder.is_dir():
            tar.add(folder, arcname=".")
    return archive.getvalue()


def _unpack(archive: bytes, folder: Path) -> None:
    """Put a run's files in its folder, in place of what was there."""
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(unfinished, filter="data")
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
