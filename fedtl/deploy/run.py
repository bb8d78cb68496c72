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
from fedtl.config.tracking import check_trackers
from fedtl.deploy import flower, process
from fedtl.deploy.folders import ServerFolder
from fedtl.deploy.server import runs, told_as_json
from fedtl.deploy.serverapp import ENDS_WITHIN, RunRequest
from fedtl.deploy.study import new_id
from fedtl.failure import RunError
from fedtl.runs.history import load
from fedtl.strategies import strategy_type

STOPS_WITHIN = 4.0
"""Seconds to wait for the server when a run is stopped."""

LAST_LINES = 2.0
"""Seconds that a run's last lines may arrive after its end."""

APP = '''"""Nothing of fedtl is in here: server and clients run what is installed with them."""

from fedtl.deploy import clientapp, serverapp

server_app = serverapp.app
client_app = clientapp.app
'''


def order_for(server: ServerFolder, config: Config, folder: Path, data: Path | None, resume: bool) -> RunRequest:
    """The order to the server; a resumed run keeps its study's name and the server's data.

    Raises:
        ConfigError: the folder's run is simulated, or of another server; or the method has all samples in one place.
    """
    if strategy_type(config.strategy.name).pools:
        raise ConfigError(
            f"strategy.name = {config.strategy.name!r}: it trains on all clients' samples in one place, and those of a "
            "deployment stay at the clients; compare with it by fedtl run, on data that are in one place"
        )
    check_trackers(config.tracking)
    study = new_id(config.name)
    if resume:
        earlier = load(folder).environment.get("study")
        if not isinstance(earlier, str):
            raise ConfigError(f"--resume: {folder} holds a simulated run; continue it with fedtl run")
        study = earlier
        before = RunRequest.read(server, study)
        data = data or (Path(before.data) if before.data else None)
    where = None if data is None else str(data.resolve())
    return RunRequest(study, config.tables(), str(folder.resolve()), where, resume, sys.argv)


def check_runs(folder: ServerFolder) -> None:
    """Check that a server runs on this machine.

    Raises:
        RunError: none does.
    """
    if not runs(folder):
        raise RunError(f"no server runs on this machine for {folder.path}: start it with fedtl deploy server")


def alone(folder: ServerFolder, order: RunRequest) -> AbstractContextManager[None]:
    """Lock a study, so that one process at a time starts and watches it.

    Raises:
        RunError: another process does, or no server runs here.
    """
    check_runs(folder)
    folder.studies.mkdir(exist_ok=True)
    taken = f"the run in {order.run} is already in progress, watched by another fedtl deploy run"
    return process.alone(folder.studies / f"{order.study}.watched", taken)


def start(folder: ServerFolder, order: RunRequest, say: Callable[[str], None]) -> str:
    """Start a run.

    Waits for an earlier run of the study, which may not have noticed yet that it, or its server, was stopped.

    Returns:
        Flower's number of the run.

    Raises:
        RunError: the earlier run does not end, or Flower refuses the new one.
    """
    if order.goes_on(folder):
        say(f"an earlier run in {order.run} has not ended yet: waiting for it, at most {ENDS_WITHIN:g} s")
    with order.alone(folder, ENDS_WITHIN):
        order.write(folder)
    try:
        command = flower.run(folder, write_app(folder), order.study)
        say(command.short)
        done = process.run(command)
        result = told_as_json(done.stdout)
        if not result.get("success"):
            error = str(result.get("error-message", "")) or done.stderr or done.stdout
            raise RunError(f"the run cannot be started: {' '.join(error.split())[-300:]}")
    except BaseException:  # Ctrl-C too: Flower may have accepted the run, and nobody would watch it
        order.withdraw(folder)
        raise
    say(f"the study is {order.study}: under this name clients keep their models, in their folders' studies/")
    return str(result["run-id"])


def watch(folder: ServerFolder, order: RunRequest, number: str, say: Callable[[str], None]) -> None:
    """Print a run's output as it comes, until its end.

    Raises:
        RunError: the run failed, or the server is gone.
        ConfigError: the config does not fit the clients.
    """
    command = flower.logs(folder, number)
    with (folder.log / "run.log").open("a", encoding="utf-8") as kept:
        viewer = subprocess.Popen(
            command.words,
            env=command.whole_environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            **process.OF_THIS_PROCESS,
        )
        # Flower's stream may last a minute longer than the run.
        threading.Thread(target=_end_with, args=(viewer, order, folder), daemon=True).start()
        try:
            assert viewer.stdout is not None
            for line in viewer.stdout:
                kept.write(line)
                if line.startswith("fedtl: "):
                    say(line.removeprefix("fedtl: ").rstrip())
        finally:
            viewer.kill()  # it has nothing to save
            viewer.wait()
    end = order.end(folder)
    if end is None:
        raise RunError(
            f"the run's output ended before the run did, as if the server had; see {folder.log} and fedtl deploy "
            f"status {folder.path}; --resume continues it"
        )
    if "error" in end:
        raise (ConfigError if end.get("wrong") else RunError)(str(end["error"]))


def _end_with(viewer: subprocess.Popen[str], order: RunRequest, folder: ServerFolder) -> None:
    """End the viewer of a run's output shortly after the run."""
    while viewer.poll() is None and order.end(folder) is None:
        time.sleep(0.5)
    time.sleep(LAST_LINES)
    viewer.terminate()


def stop(folder: ServerFolder, number: str) -> bool:
    """Stop a run; its finished rounds are on disk.

    Returns:
        Whether the server confirmed it within ``STOPS_WITHIN``.
    """
    command = flower.stop(folder, number)
    # In a session of its own, as it may reach the server after the end of this process.
    stopper = subprocess.Popen(
        command.words,
        env=command.whole_environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return stopper.wait(STOPS_WITHIN) == 0
    except subprocess.TimeoutExpired:
        return False


def write_app(folder: ServerFolder) -> Path:
    """The app that ``flwr run`` demands: it only names the installed fedtl."""
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
