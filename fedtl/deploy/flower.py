"""Flower's command lines, and the environment variables that they need."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import tomli_w

from fedtl.choice import ConfigError
from fedtl.deploy.folders import ClientFolder, ServerFolder, address

SUPERLINK = "fedtl"
"""The server's name in Flower's configuration."""

SERVER_FOLDER, SOCKET, STUDY = "FEDTL_SERVER", "FEDTL_AGENT", "study"
"""Environment variables with the server's folder and the client agent's socket, and the key of Flower's run config."""

ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    # Otherwise each run installs an environment of its own, from the network.
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    # Seconds between polls for work; each message would pay for Flower's default of 1 s.
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
}


def check_version() -> None:
    """Refuse a Flower whose SuperNodes speak another protocol.

    From 1.40 on they connect by HTTPS to the port by which runs are started too, and only this machine should reach
    that port.

    Raises:
        ConfigError: another version is installed.
    """
    installed = metadata.version("flwr")
    if not installed.startswith("1.39."):
        raise ConfigError(
            f"flwr {installed} is installed, and fedtl deploy needs 1.39, the last one whose SuperNodes speak gRPC: "
            "pip install 'flwr==1.39.*'"
        )


@dataclass(frozen=True)
class Command:
    """A command line.

    Attributes:
        words: the program and its arguments.
        environment: variables in addition to those of this process.
    """

    words: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def whole_environment(self) -> dict[str, str]:
        """All environment variables of the program."""
        return {**os.environ, **self.environment}

    @property
    def short(self) -> str:
        """As one would type it, without the environment."""
        return shlex.join(self.words)

    def __str__(self) -> str:
        """As one would type it."""
        here = os.environ.get("PATH", os.defpath)
        shown = [
            f"{name}={shlex.quote(value.removesuffix(here))}{'$PATH' if name == 'PATH' else ''}"
            for name, value in sorted(self.environment.items())
        ]
        return " ".join([*shown, shlex.join(self.words)])


def superlink(folder: ServerFolder, host: str = "0.0.0.0") -> Command:
    """The server: clients connect from anywhere; runs are started on this machine only."""
    words = [
        *(sys.executable, "-m", "fedtl.deploy.superlink"),
        *("--ssl-ca-certfile", str(folder.ca)),
        *("--ssl-certfile", str(folder.certificate)),
        *("--ssl-keyfile", str(folder.key)),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
        *("--fleet-api-type", "grpc-rere"),
        *("--fleet-api-address", address(host, folder.port)),
        *("--host", "127.0.0.1"),
        *("--port", str(folder.control_port)),
        *("--database", str(folder.database)),
    ]
    return Command(words, _environment(folder.flower_home) | {SERVER_FOLDER: str(folder.path)})


def configure(folder: ServerFolder) -> None:
    """Tell Flower's command line where the server is."""
    table = {"address": f"127.0.0.1:{folder.control_port}", "root-certificates": str(folder.ca)}
    folder.flower_home.mkdir(exist_ok=True)
    text = tomli_w.dumps({"superlink": {"default": SUPERLINK, SUPERLINK: table}})
    (folder.flower_home / "config.toml").write_text(text, encoding="utf-8")


def register(folder: ServerFolder, name: str) -> Command:
    """Register a client's key."""
    return _flwr(folder, "supernode", "register", str(folder.public_key(name)), SUPERLINK, "--name", name)


def unregister(folder: ServerFolder, number: str) -> Command:
    """Remove a client's key."""
    return _flwr(folder, "supernode", "unregister", number, SUPERLINK)


def nodes(folder: ServerFolder) -> Command:
    """Who is registered, and who is connected."""
    return _flwr(folder, "supernode", "list", SUPERLINK)


def run(folder: ServerFolder, app: Path, study: str) -> Command:
    """Start a run of an app."""
    return _flwr(folder, "run", str(app), SUPERLINK, "--run-config", f'{STUDY}="{study}"')


def stop(folder: ServerFolder, run: str) -> Command:
    """Stop a run."""
    return _flwr(folder, "stop", run, SUPERLINK)


def logs(folder: ServerFolder, run: str) -> Command:
    """Stream a run's output until its end."""
    return Command(["flwr", "log", run, SUPERLINK, "--stream"], _environment(folder.flower_home))


def _flwr(folder: ServerFolder, *words: str) -> Command:
    return Command(["flwr", *words, "--format", "json"], _environment(folder.flower_home))


def supernode(folder: ClientFolder, port: int, programs: Path) -> Command:
    """The client's connection to the server.

    Args:
        folder: the client's.
        port: by which the client's own processes reach it, on this machine only.
        programs: a folder whose ``flwr-clientapp`` comes before Flower's.
    """
    words = [
        "flower-supernode",
        *("--root-certificates", str(folder.ca)),
        *("--superlink", folder.server),
        *("--auth-supernode-private-key", str(folder.key)),
        *("--node-config", f"client={folder.client}"),
        *("--host", "127.0.0.1"),
        *("--port", str(port)),
    ]
    environment = _environment(folder.flower_home)
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    return Command(words, environment | {SOCKET: str(folder.socket)})


def _environment(home: Path) -> dict[str, str]:
    """Variables for all of Flower's programs; these start each other by name, so this Python's folder comes first."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**ENVIRONMENT, "FLWR_HOME": str(home), "PATH": path}
