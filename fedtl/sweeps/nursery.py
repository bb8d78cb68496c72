"""The process that workers are forked from: it has imported everything and read the data, once.

It is a program of its own, and not a fork of the one that asks, which may be a notebook with threads. Workers share
what it has read: the memory of a fork is its parent's until somebody writes to it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import recv_handle
from typing import Any, NamedTuple

PDEATHSIG = 1
"""Linux's number for "send me a signal when my parent ends"."""

LOOK_EVERY = 0.5
"""Seconds between two looks at which workers have ended, where nobody asks for anything."""


class Setting(NamedTuple):
    """What a nursery begins with.

    Attributes:
        argv: the command, for runs' records.
        definitions: what configs name in the asking process's ``__main__``, by value.
    """

    argv: list[str]
    definitions: bytes | None


class Question(NamedTuple):
    """A cell whose data are to be read and divided.

    Attributes:
        name: the cell's, for the message if they cannot be.
        tables: the config of one of its runs.
        chosen_by: the metric on validation samples by which a search chooses; None where there is none.
    """

    name: str
    tables: dict[str, Any]
    chosen_by: str | None


READY, STOP = "ready", "stop"

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The environment variable that says which GPUs a process sees."""


class Fork(NamedTuple):
    """A new worker is wanted; ``gpu`` is the only one that it sees, where that is said."""

    gpu: str | None


class Exited(NamedTuple):
    """A worker has ended: its process, and its exit code, or the signal that ended it below 0."""

    process: int
    code: int


def end_with(parent: int) -> None:
    """Let this process be killed when its parent ends, however that ends."""
    try:
        ctypes.CDLL(None).prctl(PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        return  # no Linux: the end of the connection will say it
    if os.getppid() != parent:  # it ended before it was asked for
        os._exit(1)


def main(file: int) -> None:
    """Answer over the socket that has this file descriptor, until its other end is closed."""
    parent, asked = os.getppid(), Connection(file)
    end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks is interrupted itself, and says so
    setting: Setting = asked.recv()
    _begin(setting)
    asked.send(READY)
    workers: set[int] = set()
    try:
        while True:
            for exited in _ended(workers):
                asked.send(exited)
            if not wait([asked], LOOK_EVERY):
                continue
            message = asked.recv()
            if isinstance(message, Fork):
                asked.send(_fork(asked, workers, message.gpu))
            else:
                asked.send(_checked(message))
    except (EOFError, ConnectionError):
        pass
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGKILL)


def _begin(setting: Setting) -> None:
    sys.argv = setting.argv
    import torch

    import fedtl.sweeps.work  # noqa: F401  # so that no worker has to
    from fedtl.data.domains import keep_data_sets
    from fedtl.grid.notebook import define
    from fedtl.runs.record import environment

    torch.set_num_threads(1)
    keep_data_sets()
    environment()  # asks git, whose answer stays
    if setting.definitions is not None:
        define(setting.definitions)


def _checked(question: Question) -> str | int:
    """What is wrong with a cell's data, in a sentence; else how many bytes of data are kept."""
    from fedtl.choice import ConfigError
    from fedtl.config.read import build
    from fedtl.data.domains import kept_bytes
    from fedtl.sweeps.work import check_data

    try:
        check_data(question.name, build(question.tables), question.chosen_by)
    except ConfigError as error:
        return str(error)
    return kept_bytes()


def _fork(asked: Connection, workers: set[int], gpu: str | None) -> int:
    """Begin a worker, which is handed its own connection; gives its process."""
    own, parent = recv_handle(asked), os.getpid()
    process = os.fork()
    if process:
        os.close(own)
        workers.add(process)
        return process
    code = 1
    try:
        asked.close()
        end_with(parent)
        if gpu is not None:  # before anything has looked for one
            os.environ[VISIBLE] = gpu
        _work(Connection(own))
        code = 0
    except (EOFError, ConnectionError, KeyboardInterrupt):
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _work(connection: Connection) -> None:
    """Train one run after another, until the end of a round in which this is no longer wanted."""
    from fedtl.sweeps.pool import Job, Scored
    from fedtl.sweeps.work import work_on

    while True:
        job: Job = connection.recv()

        def heard(scored: Scored, asks: bool = job.asks) -> bool:
            connection.send(scored)
            answer = connection.recv() if (asks and scored.scores) or connection.poll() else True
            if answer == STOP:
                raise KeyboardInterrupt
            return bool(answer)

        connection.send(work_on(job, heard))


def _ended(workers: set[int]) -> list[Exited]:
    """Workers that have ended since the last look."""
    ended = []
    for process in sorted(workers):
        there, status = os.waitpid(process, os.WNOHANG)
        if there:
            workers.discard(process)
            ended.append(Exited(process, os.waitstatus_to_exitcode(status)))
    return ended


def socket_pair() -> tuple[Connection, socket.socket]:
    """A connection, and its other end for another process."""
    here, there = socket.socketpair()
    return Connection(here.detach()), there
