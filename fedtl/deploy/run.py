"""``fedtl deploy run``: start a study on the server of this machine, and watch it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path

import tomli_w

from fedtl.choice import ConfigError
from fedtl.config.schema import Config
from fedtl.deploy import flower, process
from fedtl.deploy.folders import ServerFolder
from fedtl.deploy.server import runs, told_as_json
from fedtl.deploy.serverapp import ENDS_WITHIN, Order
from fedtl.deploy.study import new_id
from fedtl.failure import RunError
from fedtl.runs.history import load

STOPS_WITHIN = 4.0
"""Seconds that whoever stops a run waits for the server."""

LAST_LINES = 2.0
"""Seconds that a run's last lines may take to come after its end."""

APP = '''"""Nothing of fedtl is in here: server and clients run what is installed with them."""

from fedtl.deploy import clientapp, serverapp

server_app = serverapp.app
client_app = clientapp.app
'''


def order_for(server: ServerFolder, config: Config, folder: Path, data: Path | None, resume: bool) -> Order:
    """What the server is to do; a run that is gone on with keeps its study's name and the server's data.

    Raises:
        ConfigError: the folder's run was not a deployed one, or one of another server.
    """
    study = new_id(config.name)
    if resume:
        found = load(folder).environment.get("study")
        if not isinstance(found, str):
            raise ConfigError(f"--resume: {folder} holds a simulated run; go on with it by fedtl run")
        study = found
        before = Order.read(server, study)
        data = data or (Path(before.data) if before.data else None)
    where = None if data is None else str(data.resolve())
    return Order(study, config.tables(), str(folder.resolve()), where, resume, sys.argv)


def check_runs(folder: ServerFolder) -> None:
    """Check that a server runs on this machine.

    Raises:
        RunError: none does.
    """
    if not runs(folder):
        raise RunError(f"no server runs on this machine for {folder.path}: start it with fedtl deploy server")


def alone(folder: ServerFolder, order: Order) -> AbstractContextManager[None]:
    """Be the one process that starts and watches a study.

    Raises:
        RunError: another one does, or no server runs here.
    """
    check_runs(folder)
    folder.studies.mkdir(exist_ok=True)
    taken = f"the run in {order.run} is going on already, watched by another fedtl deploy run"
    return process.alone(folder.studies / f"{order.study}.watched", taken)


def start(folder: ServerFolder, order: Order, say: Callable[[str], None]) -> str:
    """Start a run; gives Flower's number of it.

    An earlier run of the study may not have noticed yet that it, or its server, was stopped, and is waited for.

    Raises:
        RunError: the study is going on, or Flower refuses.
    """
    if order.goes_on(folder):
        say(f"an earlier run in {order.run} has not ended yet: waiting for it, at most {ENDS_WITHIN:g} s")
    with order.alone(folder, ENDS_WITHIN):
        order.write(folder)
    try:
        command = flower.run(folder, write_app(folder), order.study)
        say(command.short)
        done = process.run(command)
        told = told_as_json(done.stdout)
        if not told.get("success"):
            said = str(told.get("error-message", "")) or done.stderr or done.stdout
            raise RunError(f"the run cannot be started: {' '.join(said.split())[-300:]}")
    except BaseException:  # Ctrl-C too: Flower may have taken it, and nobody would watch it
        order.withdraw(folder)
        raise
    say(f"the study is {order.study}: under this name clients keep what is theirs, in their folders' studies/")
    return str(told["run-id"])


def watch(folder: ServerFolder, order: Order, number: str, say: Callable[[str], None]) -> None:
    """Print a run's lines as they come, until its end.

    Raises:
        RunError: it failed, or the server is gone.
        ConfigError: what was asked for cannot be done.
    """
    command = flower.logs(folder, number)
    with (folder.log / "run.log").open("a", encoding="utf-8") as kept:
        shows = subprocess.Popen(
            command.words,
            env=command.whole_environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            **process.OF_THIS_PROCESS,
        )
        # Flower's stream goes on for a minute after some runs' end.
        threading.Thread(target=_end_with, args=(shows, order, folder), daemon=True).start()
        try:
            assert shows.stdout is not None
            for line in shows.stdout:
                kept.write(line)
                if line.startswith("fedtl: "):
                    say(line.removeprefix("fedtl: ").rstrip())
        finally:
            shows.kill()  # it keeps nothing
            shows.wait()
    end = order.end(folder)
    if end is None:
        raise RunError(
            f"the run's output ended before the run did, as if the server had; see {folder.log} and fedtl deploy "
            f"status {folder.path}; --resume goes on with it"
        )
    if "error" in end:
        raise (ConfigError if end.get("wrong") else RunError)(str(end["error"]))


def _end_with(shows: subprocess.Popen[str], order: Order, folder: ServerFolder) -> None:
    """End what shows a run's lines a little after the run."""
    while shows.poll() is None and order.end(folder) is None:
        time.sleep(0.5)
    time.sleep(LAST_LINES)
    shows.terminate()


def stop(folder: ServerFolder, number: str) -> bool:
    """Stop a run; what is finished of it is on disk.

    Returns:
        Whether the server said that it does, which is not waited for any longer than ``STOPS_WITHIN``.
    """
    command = flower.stop(folder, number)
    # Not of this process: it may reach the server after this process's end.
    stops = subprocess.Popen(
        command.words,
        env=command.whole_environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return stops.wait(STOPS_WITHIN) == 0
    except subprocess.TimeoutExpired:
        return False


def write_app(folder: ServerFolder) -> Path:
    """The app that Flower wants to be given: a name for what is installed."""
    app = folder.flower_home / "app"
    shutil.rmtree(app, ignore_errors=True)
    app.mkdir(parents=True)
    project = {
        "name": "fedtl-deployed",
        "version": "1.0.0",
        "description": "Runs the fedtl that is installed",
        "license": "Apache-2.0",
        "dependencies": [f"flwr=={metadata.version('flwr')}"],
    }
    components = {"serverapp": "deployed:server_app", "clientapp": "deployed:client_app"}
    tool = {"flwr": {"app": {"publisher": "fedtl", "components": components, "config": {"study": ""}}}}
    table = {
        "build-system": {"requires": ["hatchling"], "build-backend": "hatchling.build"},
        "project": project,
        "tool": tool,
    }
    (app / "pyproject.toml").write_text(tomli_w.dumps(table), encoding="utf-8")
    (app / "deployed.py").write_text(APP, encoding="utf-8")
    return app
