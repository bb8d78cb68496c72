"""Several runs at once on a Ray cluster: each is one actor's, wherever there is room."""

from __future__ import annotations

import io
import logging
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

from fedtl.assemble.resources import Resources
from fedtl.choice import ConfigError
from fedtl.config.schema import Config
from fedtl.data.dataset import Dataset
from fedtl.data.domains import keep_data_sets
from fedtl.failure import RunError
from fedtl.grid import cluster
from fedtl.grid.cluster import WORKER_ENVIRONMENT
from fedtl.grid.notebook import define, module_path
from fedtl.grid.shared_folder import FolderMark
from fedtl.grid.slots import FAILED_STARTS, SAY_AFTER, SAY_AGAIN, NoRoomError
from fedtl.sweeps.nursery import VISIBLE
from fedtl.sweeps.pool import Ended, Job, Observer, Scored, in_one_process
from fedtl.sweeps.work import work_on

LOOK_EVERY = 5.0
"""Seconds between two looks at how much room the cluster has."""

ASK_EVERY = 0.5
"""Seconds between two questions to an actor what its run has done, and whether it is still there."""

log = logging.getLogger("fedtl")


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
    """An actor, and what it works on.

    Attributes:
        actor: itself.
        there: whether it has begun; until then it may be waiting for room.
        job: its run, which it is given once it is there.
        running: the reference to how that ended.
        asked, asked_at: the reference to what was last asked of it, and when that was.
        began: when its run did.
    """

    actor: Any
    there: bool = False
    job: Job | None = None
    running: Any = None
    asked: Any = None
    asked_at: float = -ASK_EVERY
    began: float = 0.0


class OnCluster:
    """A pool of actors all over a Ray cluster, as many as it has room for at the moment.

    What an actor did that is lost with its machine, another one goes on with, from the checkpoint where all machines
    see the study's folder.

    Args:
        folder: the study's.
        config: of a run, which says where the cluster is, what an actor asks of it, and how long it is waited for room.
        jobs: how many runs at once, at most; None for as many as there is room for.
        most: how many runs there are.
        definitions: what configs name in this process's ``__main__``.
        kept: the data sets that were read here.

    Raises:
        ConfigError: no Ray answers there, or what an actor asks for contradicts itself.
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
        on_ray = config.simulation.model_copy(update={"grid": "ray"})
        self._connection = cluster.connect(on_ray.address, environment=WORKER_ENVIRONMENT)
        try:
            asked = Resources.of(config.model_copy(update={"simulation": on_ray}), busy=1)
        except ConfigError:
            self._disconnect()
            raise
        self._needs, self._patience = cluster.Needs(asked.num_cpus, asked.num_gpus), on_ray.patience
        self._most = min(jobs or most, most)
        # Ray itself lets an actor that asks for no GPU see all of them.
        environment = WORKER_ENVIRONMENT if asked.num_gpus else {**WORKER_ENVIRONMENT, VISIBLE: ""}
        self._mark = FolderMark(folder.absolute())
        self._options: dict[str, Any] = {
            "num_cpus": asked.num_cpus,
            "num_gpus": asked.num_gpus,
            "max_restarts": 0,
            "max_concurrency": 2,  # one that trains, one that answers
            "scheduling_strategy": "SPREAD",
            "runtime_env": {"env_vars": environment},
        }
        self._parts = (module_path(), definitions, ray.put(dict(kept)), str(self._mark.file))
        self._workers: list[_Worker] = []
        self._looked = -LOOK_EVERY
        self._failed_starts = 0
        self._there_at = time.monotonic()
        self._say_at = self._there_at + SAY_AFTER
        self._fill()

    @property
    def size(self) -> int:
        """How many runs at once there is room for."""
        return len(self._workers)

    @property
    def free(self) -> int:
        """How many actors are there and have nothing to do."""
        return sum(worker.there and worker.job is None for worker in self._workers)

    def fitted(self, config: Config) -> Config:
        """With all clients in the actor: the runs are the parallelism."""
        return in_one_process(config)

    def start(self, job: Job) -> None:
        """Let an actor begin a run."""
        worker = next(worker for worker in self._workers if worker.there and worker.job is None)
        worker.job, worker.began = replace(job, folder=job.folder.absolute()), time.monotonic()
        worker.running = worker.actor.run.remote(worker.job)

    def wait(self, timeout: float, observer: Observer) -> None:
        """Wait for news, and pass them on.

        Raises:
            RunError: no actor can begin, or for longer than the patience there was no room for one.
        """
        self._fill()
        self._look_for_room()
        now = time.monotonic()
        for worker in self._workers:
            if worker.asked is None and now - worker.asked_at >= ASK_EVERY:
                worker.asked, worker.asked_at = worker.actor.news.remote(), now
        waiting = {
            each: worker for worker in self._workers for each in (worker.running, worker.asked) if each is not None
        }
        if not waiting:
            time.sleep(timeout)
            return
        ready, _ = ray.wait([*waiting], timeout=timeout)
        for reference in ready:
            worker = waiting[reference]
            try:
                if reference == worker.running:
                    self._end(worker, observer)
                elif reference == worker.asked:
                    self._hear(worker, observer)
            except RayError as error:
                self._lose(worker, error, observer)

    def close(self) -> None:
        """End all; a run that is going on is left as it stands."""
        for worker in self._workers:
            ray.kill(worker.actor)
        self._mark.remove()
        self._disconnect()

    def _disconnect(self) -> None:
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

    def _look_for_room(self) -> None:
        """Say that no actor has begun for a while, and give up after the patience."""
        now = time.monotonic()
        if any(worker.there for worker in self._workers):
            self._there_at, self._say_at = now, now + SAY_AFTER
            return
        if now < min(self._say_at, self._there_at + self._patience):
            return
        asked_and_had = f"each asks for {self._needs}, there are {cluster.size()}"
        if now - self._there_at > self._patience:
            raise NoRoomError(f"no Ray actor has begun within {self._patience:g} s: {asked_and_had}")
        log.warning("waiting for a Ray actor to begin: %s", asked_and_had)
        self._say_at = now + SAY_AGAIN

    def _hear(self, worker: _Worker, observer: Observer) -> None:
        """Pass on what an actor was asked for."""
        news: list[Scored] = ray.get(worker.asked)
        worker.asked, worker.there, self._failed_starts = None, True, 0
        for scored in news:
            goes_on = observer.scored(scored)
            if worker.job is not None and worker.job.asks and scored.scores:
                worker.actor.answer.remote(goes_on)

    def _end(self, worker: _Worker, observer: Observer) -> None:
        job = worker.job
        assert job is not None
        ended, archive = ray.get(worker.running)
        if worker.asked is not None:
            self._hear(worker, observer)
        worker.asked = worker.actor.news.remote()  # what it has done since
        self._hear(worker, observer)
        if archive is not None:
            _unpack(archive, job.folder)
        worker.job = worker.running = None
        observer.ended(ended)

    def _lose(self, worker: _Worker, error: RayError, observer: Observer) -> None:
        """Put another actor in the place of one that has died, alone or with its machine; it may have been idle."""
        ray.kill(worker.actor)
        self._workers.remove(worker)
        self._looked = -LOOK_EVERY
        self._failed_starts += not worker.there
        if (isinstance(error, RayActorError) and error.actor_init_failed) or self._failed_starts == FAILED_STARTS:
            raise RunError(f"a Ray actor cannot begin: {_last_line(error)}") from None
        if worker.job is not None:
            seconds = time.monotonic() - worker.began
            observer.ended(Ended(worker.job.key, seconds, f"its Ray actor ended: {_last_line(error)}", lost=True))


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
        safe: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # from Python 3.11.4 on
        tar.extractall(unfinished, **safe)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
