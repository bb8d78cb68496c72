"""Several runs at once on this machine, each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import send_handle
from typing import IO, TYPE_CHECKING, Any

from fedtl.choice import ConfigError
from fedtl.failure import RunError
from fedtl.grid.notebook import module_path
from fedtl.sweeps.nursery import READY, STOP, VISIBLE, Exited, Fork, Question, Setting, socket_pair
from fedtl.sweeps.pool import Ended, Job, Observer, Scored, in_one_process

if TYPE_CHECKING:
    from fedtl.config.schema import Config

START = "from fedtl.sweeps.nursery import main; main({})"
"""The nursery's program; it has a ``__main__`` of its own, for what the asking process has defined in its."""

PATIENCE = 2.0
"""Seconds that a worker has to end a round when all are to stop."""


@dataclass
class _Worker:
    """A process, and what it works on."""

    process: int
    connection: Connection
    gpu: str | None
    job: Job | None = None
    began: float = 0.0


class Nursery:
    """A process that workers are forked from; see :mod:`fedtl.sweeps.nursery`.

    Args:
        log: where it and its workers print.
    """

    def __init__(self, log: IO[Any] | None = None) -> None:
        self._connection, other = socket_pair()
        self.exits: dict[int, int] = {}
        """What workers' ends were, by process."""
        self.ready = False
        self.kept = 0
        """Bytes of data that workers share."""
        with other:
            # A group of its own: Ctrl-C is for whoever asks, who then ends the workers.
            self._process = subprocess.Popen(
                [sys.executable, "-c", START.format(other.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[other.fileno()],
                process_group=0,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(module_path())},
            )

    def begin(self, definitions: bytes | None) -> None:
        """Let it import everything; what configs name in this process's ``__main__`` goes along."""
        self._send(Setting(sys.argv, definitions))

    def check(self, questions: Iterable[Question]) -> None:
        """Let it read the data of cells, and keep them.

        Raises:
            ConfigError: they cannot be had.
        """
        for question in questions:
            self._send(question)
            answer = self._answer()
            if isinstance(answer, str):
                raise ConfigError(answer)
            self.kept = int(answer)

    def fork(self, gpu: str | None = None) -> _Worker:
        """A new worker; ``gpu`` is the only one that it sees, where that is said."""
        here, there = socket_pair()
        with there:
            self._send(Fork(gpu))
            send_handle(self._connection, there.fileno(), self._process.pid)
        return _Worker(self._answer(), here, gpu)

    def exit_of(self, process: int) -> int | None:
        """What a worker's end was, for which it is waited a moment; None if nobody knows."""
        until = time.monotonic() + PATIENCE
        try:
            while process not in self.exits and self._connection.poll(max(0.0, until - time.monotonic())):
                exited = self._connection.recv()
                if isinstance(exited, Exited):
                    self.exits[exited.process] = exited.code
        except (EOFError, OSError):
            return None
        return self.exits.pop(process, None)

    def close(self) -> None:
        """End it, and its workers."""
        self._connection.close()
        if not self.ready:  # it is still importing
            self._process.kill()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, message: Any) -> None:
        try:
            self._connection.send(message)
        except OSError:
            raise self._gone() from None

    def _answer(self) -> Any:
        try:
            while True:
                message = self._connection.recv()
                if isinstance(message, Exited):
                    self.exits[message.process] = message.code
                elif message == READY:
                    self.ready = True
                else:
                    return message
        except (EOFError, OSError):
            raise self._gone() from None

    def _gone(self) -> RunError:
        return RunError(
            "the process that workers begin from has ended, perhaps for want of memory; sweep.log in the study's "
            "folder may say more, and the same command goes on"
        )


class Workers:
    """A pool of processes that are forked from a nursery, shared out among GPUs where there are several."""

    def __init__(self, nursery: Nursery, size: int, gpus: int = 0) -> None:
        self.size = size
        self._nursery = nursery
        shown = [name for name in os.environ.get(VISIBLE, "").split(",") if name] or [*map(str, range(gpus))]
        each = [shown[i % len(shown)] if gpus > 1 else None for i in range(size)]
        self._workers = [nursery.fork(gpu) for gpu in each]

    @property
    def free(self) -> int:
        """How many could begin a run."""
        return sum(worker.job is None for worker in self._workers)

    def fitted(self, config: Config) -> Config:
        """With all clients in the worker: the runs are the parallelism."""
        return in_one_process(config)

    def start(self, job: Job) -> None:
        """Let a worker begin a run."""
        worker = self._idle()
        if worker.connection.poll():  # one that has nothing to do says nothing: it has ended, and the run shall not
            self._replace(worker)  # pay for that
            worker = self._idle()
        worker.job, worker.began = job, time.monotonic()
        with suppress(OSError):  # it has ended, which its connection says as well
            worker.connection.send(job)

    def wait(self, timeout: float, observer: Observer) -> None:
        """Wait for news, and pass them on."""
        busy = {worker.connection: worker for worker in self._workers if worker.job is not None}
        for connection in wait(list(busy), timeout):
            worker = busy[connection]  # type: ignore[index]
            job = worker.job
            assert job is not None
            try:
                news = worker.connection.recv()
            except (EOFError, OSError):
                seconds = time.monotonic() - worker.began
                worker.job = None
                self._replace(worker)
                observer.ended(Ended(job.key, seconds, _how(self._nursery.exit_of(worker.process)), lost=True))
                continue
            if isinstance(news, Scored):
                goes_on = observer.scored(news)
                if job.asks and news.scores:
                    with suppress(OSError):
                        worker.connection.send(goes_on)
            else:
                worker.job = None
                observer.ended(news)

    def close(self) -> None:
        """End all: at the end of a round where that is soon, else wherever they are, which no run minds."""
        busy = [worker for worker in self._workers if worker.job is not None]
        for worker in busy:
            with suppress(OSError):
                worker.connection.send(STOP)
        until = time.monotonic() + PATIENCE
        while busy and (left := until - time.monotonic()) > 0:
            ready = wait([worker.connection for worker in busy], left)
            busy = [worker for worker in busy if worker.connection not in ready or not _at_end(worker)]
        for worker in self._workers:
            worker.connection.close()
        self._nursery.close()

    def _idle(self) -> _Worker:
        return next(worker for worker in self._workers if worker.job is None)

    def _replace(self, worker: _Worker) -> None:
        worker.connection.close()
        self._workers[self._workers.index(worker)] = self._nursery.fork(worker.gpu)


def _at_end(worker: _Worker) -> bool:
    """Whether a worker's connection has ended; what it still says is not wanted."""
    try:
        worker.connection.recv()
    except (EOFError, OSError):
        return True
    return False


def _how(code: int | None) -> str:
    """How a worker ended, in words."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"its process was ended by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")
    return "its process ended" + (f" with exit code {code}" if code is not None else "")
