"""Flower's ServerApp and ClientApp, made from the same parts as a simulation.

``flwr run`` finds ``server_app`` and ``client_app`` here (see ``[tool.flwr.app]`` in pyproject.toml); its run
config names the experiment: ``config`` (a config that ships, or a file) and ``overrides`` (separated by
spaces, quoted as in a shell). Its folder is ``results/<name>/<time>-<seed>`` below the ServerApp's working
directory.
"""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedtl.assemble.flower import client_app_of
from fedtl.config.read import read_config
from fedtl.config.schema import Config
from fedtl.engine.choice import Choices


def config_of(context: Context) -> Config:
    """The experiment that a run config names."""
    overrides = shlex.split(str(context.run_config.get("overrides", "")))
    config, _ = read_config(str(context.run_config.get("config", "quickstart")), overrides)
    return config


def _experiment_of(context: Context) -> tuple[str, str, Choices | None, bytes | None]:
    return json.dumps(config_of(context).tables()), str(memories_of(context)), None, None


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
client_app = client_app_of(_experiment_of)
