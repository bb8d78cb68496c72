"""A deployment on this machine: its folders, and its programs as real processes, all of which end with the test."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from fedtl.deploy.client import free_port
from fedtl.deploy.folders import ServerFolder, read_server
from fedtl.experiment import run as simulate

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent
MARK = "FEDTL_TEST_DEPLOYMENT"
"""Environment variable by which all processes of a deployment are known, however deep they were started."""

ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),  # experiments name classes of these tests
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "CUDA_VISIBLE_DEVICES": "",
}

PATIENCE = 240.0
"""Seconds to wait for anything: far more than it takes, as other tests may run beside these."""

IMPATIENT = f"""#!{sys.executable}
from types import SimpleNamespace
import time
import flwr.client.grpc_rere_client.connection as connection
import flwr.supercore.heartbeat as heartbeat
import flwr.supernode.start_client_internal as loop
connection.HEARTBEAT_DEFAULT_INTERVAL = heartbeat.HEARTBEAT_DEFAULT_INTERVAL = 10
loop.time = SimpleNamespace(sleep=lambda seconds: time.sleep(min(seconds, 0.5)))
from flwr.supernode.cli import flower_supernode
flower_supernode()
"""
"""Flower's SuperNode, but that it is missed after 20 s and not 60, and looks for messages every 0.5 s and not 3."""


MISSED_AFTER = 20.0
"""Seconds after its last heartbeat that it is missed."""


def until(ready: Callable[[], object], what: str) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < deadline, f"after {PATIENCE:g} s: not yet {what}"
        time.sleep(0.05)


class Running:
    """A program that was started, with what it prints in a file."""

    def __init__(self, words: Sequence[object], log: Path, environment: Mapping[str, str]) -> None:
        self.log = log
        self._seen = 0
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [str(word) for word in words],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                cwd=log.parent,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, words: str) -> str:
        """Wait until it prints something that it had not printed when last asked; gives that line."""

        def line_end() -> int:
            start = self.text.find(words, self._seen)
            return -1 if start < 0 else self.text.find("\n", start)

        deadline = time.monotonic() + PATIENCE
        while (end := line_end()) < 0:
            if time.monotonic() > deadline or (self.process.poll() is not None and line_end() < 0):
                raise AssertionError(f"{words!r} is not printed:\n{self.text}")
            time.sleep(0.05)
        self._seen = end
        return self.text[:end].rpartition("\n")[2]

    def end(self) -> int:
        """Wait for its end; gives its exit code."""
        return self.process.wait(PATIENCE)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.end()


class Deployment:
    """A server's folder and its clients', and whatever runs of them.

    Args:
        folder: a new one.
        names: the clients'.
        data: a folder with each client's data under its number, and the server's.
        impatient: whether SuperNodes are :data:`IMPATIENT`.
    """

    def __init__(self, folder: Path, names: Sequence[str], data: Path, impatient: bool = True) -> None:
        self.folder, self.names, self.data = folder, tuple(names), data
        self.environment = {**ENVIRONMENT, MARK: secrets.token_hex(8)}
        self.logs = folder.with_name(f"{folder.name}-logs")
        self.logs.mkdir(parents=True)
        self._started: list[Running] = []
        ports = ("--port", free_port(), "--control-port", free_port())
        made = self.start("deploy", "init", folder, "--clients", ",".join(names), "--server", "localhost", *ports)
        assert made.end() == 0, made.text
        if impatient:
            for name in names:
                be_impatient(folder / name)

    @property
    def server_folder(self) -> ServerFolder:
        return read_server(self.folder)

    def start(self, *words: object, environment: Mapping[str, str] | None = None) -> Running:
        """Start ``fedtl`` with some words."""
        return self.start_program(PROGRAMS / "fedtl", *words, environment=environment)

    def start_program(self, *words: object, environment: Mapping[str, str] | None = None) -> Running:
        """Start any program as a part of this deployment."""
        log = self.logs / f"{len(self._started):02d}.log"
        self._started.append(Running(words, log, {**self.environment, **(environment or {})}))
        return self._started[-1]

    def server(self) -> Running:
        """Start the server; it is ready."""
        started = self.start("deploy", "server", self.folder / "server", "--host", "127.0.0.1")
        started.wait_for("ready:")
        return started

    def client(self, name: str, *words: object, folder: Path | None = None) -> Running:
        """Start a client, which may not be connected yet."""
        data = self.data / str(self.names.index(name))
        return self.start("deploy", "client", folder or self.folder / name, "--data", data, "--device", "cpu", *words)

    def clients(self, *words: object) -> dict[str, Running]:
        """Start all clients; they are connected."""
        started = {name: self.client(name, *words) for name in self.names}
        for each in started.values():
            each.wait_for("connected to")
        return started

    def run(self, config: Path, out: Path, *words: object) -> Running:
        """Start a study."""
        return self.start("deploy", "run", config, self.folder / "server", *words, "--out", out)

    def processes(self) -> dict[int, str]:
        """The command lines of all that runs of it, by process id."""
        return {pid: command for pid in _all_pids() if (command := self._command(pid))}

    def _command(self, pid: int) -> str:
        """A process's command line, if it is one of these."""
        proc, mark = Path("/proc") / str(pid), f"{MARK}={self.environment[MARK]}".encode()
        with suppress(OSError):
            if mark in (proc / "environ").read_bytes().split(b"\0"):
                return (proc / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        return ""

    def children(self, of: int, containing: str = "") -> list[int]:
        """The process ids of what a process started, and of what that started, whose command line contains a word."""
        return [pid for pid, command in self.processes().items() if of in _ancestors(pid) and containing in command]

    def heard_from_all(self, since: float) -> bool:
        """Whether the server has had a heartbeat of each client's SuperNode since a time; of impatient ones."""
        with closing(sqlite3.connect(f"file:{self.server_folder.database}?mode=ro", uri=True)) as database:
            nodes = database.execute("SELECT online_until FROM node").fetchall()
        return len(nodes) == len(self.names) and all((until or 0) - MISSED_AFTER > since for (until,) in nodes)

    def close(self) -> None:
        """End whatever still runs, and nothing else."""
        while left := self.processes():
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for each in self._started:
                each.process.poll()
            time.sleep(0.05)


def be_impatient(client: Path) -> None:
    """Give a client an :data:`IMPATIENT` SuperNode."""
    program = client / "flower" / "bin" / "flower-supernode"
    program.parent.mkdir(parents=True)
    program.write_text(IMPATIENT, encoding="utf-8")
    program.chmod(0o700)


def _all_pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _ancestors(pid: int) -> list[int]:
    pids = []
    while pid > 1:
        try:
            stat = (Path("/proc") / str(pid) / "stat").read_text()
        except OSError:
            break
        pid = int(stat.rpartition(")")[2].split()[1])
        pids.append(pid)
    return pids


# Experiments, and what runs leave.


def write_config(file: Path, text: str, **keys: object) -> Path:
    """Write an experiment; each key in braces is replaced."""
    for key, value in keys.items():
        text = text.replace(f"{{{key}}}", str(value))
    file.write_text(text, encoding="utf-8")
    return file


def export(config: Path, to: Path) -> Path:
    """What each client holds in an experiment, as files."""
    command = [PROGRAMS / "fedtl", "partition", config, "--export", to, "-o", to.with_suffix(".png")]
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=to.parent, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    return to


def simulated(config: Path, out: Path, *overrides: str) -> Path:
    """The run's folder of the same experiment in this process."""
    simulate(str(config), ["simulation.grid=in-process", "device=cpu", *overrides], out=out)
    return out


def rounds(folder: Path, name: str = "rounds.jsonl") -> list[dict[str, Any]]:
    """A run's finished rounds, as one of its records has them."""
    file = folder / name
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in lines]


def failures(line: Mapping[str, Any]) -> dict[int, str]:
    """Who failed in a round, and what of."""
    return {each["client"]: each["message"] for each in line["failures"]}


def model(folder: Path) -> NDArray[np.float32]:
    """A run's final global model as one vector."""
    tensors = load_file(folder / "model.safetensors")
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])


def global_model(folder: Path) -> NDArray[np.float32]:
    """The vector of a run's last checkpoint."""
    about = json.loads((folder / "checkpoint" / "checkpoint.json").read_text())
    return load_file(folder / "checkpoint" / about["tensors"])["w"]


def memory(folder: Path, client: int, round: int) -> dict[str, NDArray[np.float32]]:
    """What a client kept of a round, in the memories under a folder."""
    (file,) = folder.rglob(f"memories/*/{client}-{round}.safetensors")
    return load_file(file)


def studied(client: Path, run: Path) -> Path:
    """What a client keeps of a run."""
    return client / "studies" / json.loads((run / "environment.json").read_text())["study"]


def copied(folder: Path, to: Path) -> Path:
    """A client's folder under another path, without what has run there."""
    return Path(shutil.copytree(folder, to, ignore=shutil.ignore_patterns("flower", "log", "studies", "*.sock")))
