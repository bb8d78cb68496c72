"""Flower's ServerApp and ClientApp, made from the same parts as a simulation.

``flwr run`` finds ``server_app`` and ``client_app`` here (see ``[tool.flwr.app]`` in pyproject.toml); its run
config names the experiment: ``config`` (a config that ships, or a file) and ``overrides`` (separated by
spaces, quoted as in a shell). Its folder is ``results/<name>/<time>-<seed>`` below the ServerApp's working
directory.
"""

from __future__ import annotations

import functools
import os
import shlex
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedtl.assemble.flower import client_app_of, worker_here
from fedtl.config.read import read_config
from fedtl.config.schema import Config
from fedtl.wire.worker import Worker


def config_of(context: Context) -> Config:
    """The experiment that a run config names."""
    return _read(*_named(context))


def _named(context: Context) -> tuple[str, str]:
    """The experiment as the run config names it: the config, and overrides."""
    return str(context.run_config.get("config", "quickstart")), str(context.run_config.get("overrides", ""))


def _read(config: str, overrides: str) -> Config:
    return read_config(config, shlex.split(overrides))[0]


@functools.lru_cache(maxsize=2)
def _worker(config: str, overrides: str, memories: str) -> Worker:
    """One worker for each process and run: config and data are read once, not once a message."""
    return worker_here(_read(config, overrides), memories)


def _worker_for(context: Context) -> Worker:
    return _worker(*_named(context), str(memories_of(context)))


def memories_of(context: Context) -> Path:
    """Where this machine keeps its clients' memories of a run; they never travel."""
    home = Path(os.environ.get("FEDTL_HOME", Path.home() / ".local/state/fedtl"))
    (home / "memories").mkdir(parents=True, exist_ok=True)
    return home / "memories" / str(context.run_id)


def _make_server_app() -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        from fedtl.experiment import serve

        serve(config_of(context), grid)

    return app


server_app = _make_server_app()
client_app = client_app_of(_worker_for)
