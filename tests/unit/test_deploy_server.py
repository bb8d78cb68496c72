"""``fedtl deploy server`` without Flower: when clients may come, whose the ports are, and whose keys are let in."""

from __future__ import annotations

import importlib
import inspect
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedtl.deploy import folders, superlink
from fedtl.deploy import server as servers
from fedtl.deploy.client import free_port
from fedtl.deploy.flower import Command
from fedtl.deploy.folders import ServerFolder, read_server
from fedtl.deploy.process import ChildProcess, alone
from fedtl.failure import RunError


@pytest.fixture
def folder(tmp_path: Path) -> ServerFolder:
    folders.create(tmp_path / "study", ["a", "b"], "localhost", port=free_port(), control_port=free_port())
    return read_server(tmp_path / "study")


def until(ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# When clients may come.


def test_clients_may_come_when_their_keys_are_registered(
    folder: ServerFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    happened = list[str]()

    class Pretended:
        """A SuperLink that ends as soon as it has begun."""

        code = None
        output = folder.log / "superlink.log"

        def __init__(self, command: Any, output: Path, leash: bool) -> None:
            happened.append(f"started, leash {leash}")
            self.command = command

        def tell(self, word: str) -> None:
            happened.append(word)

        def stop(self) -> None:
            happened.append("stopped")

    def ready(is_so: Callable[[], bool], program: Any, _: float) -> None:
        assert is_so()
        program.code = 1 if "open" in happened else None

    monkeypatch.setattr(servers, "ChildProcess", Pretended)
    monkeypatch.setattr(servers, "wait_until", ready)
    monkeypatch.setattr(servers, "runs", lambda _: True)
    monkeypatch.setattr(servers, "serves", lambda *_: "open" in happened)
    monkeypatch.setattr(servers, "register", lambda _, name: happened.append(f"registered {name}"))
    with pytest.raises(RunError, match="ended with exit code 1"):
        servers.serve(folder, "127.0.0.1", print)
    assert happened == ["started, leash True", "registered a", "registered b", "open", "stopped"]
    assert "ready: 2 clients" in capsys.readouterr().out


def test_what_flower_knows_already_is_not_registered_again(
    folder: ServerFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered, listed = list[str](), list[str]()

    def lists(_: ServerFolder) -> list[dict[str, Any]]:
        return [{"node-id": number, "status": "online"} for number in listed]

    def register(of: ServerFolder, name: str) -> None:
        registered.append(name)
        servers.keep_numbers(of, servers.node_numbers(of) | {name: f"7{name}"})

    monkeypatch.setattr(servers, "registered", lists)
    monkeypatch.setattr(servers, "register", register)
    monkeypatch.setattr(servers, "shut_out", lambda _, name: registered.append(f"not {name}"))
    folder.flower_home.mkdir()
    servers.admit(folder)
    assert registered == ["a", "b"]
    listed += ["7a", "7b"]
    servers.admit(folder)
    assert registered == ["a", "b"]
    listed.remove("7b")  # another database
    servers.admit(folder)
    assert registered == ["a", "b", "b"]
    folder.public_key("a").rename(folder.revoked_key("a"))
    servers.admit(folder)
    assert registered[3:] == ["not a", "b"]


def test_a_superlink_lets_nobody_connect_before_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    happened, heard = list[str](), list[Callable[[str], None]]()

    class Lifespan:
        def _start_fleet_api(self) -> None:
            happened.append("clients may connect")

        def startup(self) -> None:
            self._start_fleet_api()
            happened.append("runs may be started")

    def runs_flower(app: Any, timeout_graceful_shutdown: int | None = None) -> None:
        happened.append(f"drains for {timeout_graceful_shutdown}")
        module.SuperLinkLifespan().startup()
        happened.append(f"detaches by {module.get_popen_detach_kwargs()}")

    module: Any = SimpleNamespace(
        SuperLinkLifespan=Lifespan,
        get_popen_detach_kwargs=lambda: {"start_new_session": True},
        uvicorn=SimpleNamespace(run=runs_flower),
        flower_superlink=lambda: module.uvicorn.run(app=None),
    )
    monkeypatch.setattr(superlink.importlib, "import_module", lambda _: module)
    monkeypatch.setattr(superlink, "follow", heard.append)
    monkeypatch.setenv("FEDTL_LEASH", "1")
    superlink.main()
    assert happened == ["drains for 2", "runs may be started", "detaches by {}"]
    (hear,) = heard
    hear("anything")
    assert "clients may connect" not in happened
    hear(superlink.OPEN)
    assert happened[-1] == "clients may connect"


@pytest.mark.skipif(not metadata.version("flwr").startswith("1.39."), reason="deployments need flwr 1.39")
def test_flowers_superlink_has_what_is_put_on_a_leash() -> None:
    """Names of Flower's own that are replaced."""
    module: Any = importlib.import_module("flwr.superlink.cli.flower_superlink")
    assert inspect.signature(module.SuperLinkLifespan._start_fleet_api).parameters.keys() == {"self"}
    assert "self._start_fleet_api()" in inspect.getsource(module.SuperLinkLifespan.startup)
    assert "**get_popen_detach_kwargs()" in inspect.getsource(module.SuperLinkLifespan._start_superexec_if_needed)
    assert "uvicorn.run(" in inspect.getsource(module._run_superlink_http_api)
    assert "timeout_graceful_shutdown" in inspect.signature(module.uvicorn.run).parameters


# Whose the ports are.


def test_a_folder_has_one_server(folder: ServerFolder) -> None:
    folder.log.mkdir()
    with (
        alone(folder.log / "lock", "held"),
        pytest.raises(RunError, match=rf"^the server of {folder.path} already runs, in another process$"),
    ):
        servers.serve(folder, "127.0.0.1", print)


@pytest.mark.parametrize("which", ["port", "control_port"])
def test_the_ports_of_a_server_that_was_killed_are_waited_for(
    which: str, folder: ServerFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = list[str]()
    monkeypatch.setattr(servers, "run_superlink", lambda *_: begun.append("began"))
    port = getattr(folder, which)
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        monkeypatch.setattr(servers, "FREE_WITHIN", 0.0)
        with pytest.raises(RunError, match=f"^port {port} is in use on this machine: another server runs, or "):
            servers.serve(folder, "127.0.0.1", print)
        assert begun == []
        monkeypatch.setattr(servers, "FREE_WITHIN", 600.0)
        looks = list[float]()

        def sleeps(seconds: float) -> None:
            looks.append(seconds)
            if len(looks) == 3:
                other.close()

        monkeypatch.setattr(servers, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleeps))
        servers.serve(folder, "127.0.0.1", print)
    assert begun == ["began"]
    assert len(looks) == 3


# However the server ends.

STARTER = """
import sys, time
from pathlib import Path
from fedtl.deploy.flower import Command
from fedtl.deploy.process import ChildProcess
folder = Path(sys.argv[1])
command = Command([sys.executable, str(folder / "superlink.py"), str(folder)])
program = ChildProcess(command, folder / "log", leash=True)
program.tell("hello")
while program.code is None:
    time.sleep(0.1)
"""

SUPERLINK = """
import signal, subprocess, sys, time
from pathlib import Path
from fedtl.deploy import leash
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one that waits for its connections to be closed
assert leash.leashed()
folder = Path(sys.argv[1])
child = "import time; time.sleep(600)"
serverapp = "from fedtl.deploy.leash import end_with_starter; end_with_starter(); print(flush=True); " + child
plain = subprocess.Popen([sys.executable, "-c", child])
apart = subprocess.Popen([sys.executable, "-c", serverapp], start_new_session=True, stdout=subprocess.PIPE)
apart.stdout.readline()
def hear(word):
    import os
    (folder / "unfinished").write_text(f"{word} {os.getpid()} {plain.pid} {apart.pid}")
    (folder / "unfinished").rename(folder / "pids")
leash.follow(hear)
time.sleep(600)
"""


def runs(pid: int) -> bool:
    """Whether a process does; one that has ended and was not waited for does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_nothing_outlives_a_server_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "superlink.py").write_text(SUPERLINK)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", STARTER, str(tmp_path)], env=environment) as starter:
        try:
            until(lambda: (tmp_path / "pids").exists() or starter.poll() is not None)
            word, *pids = (tmp_path / "pids").read_text().split()
            assert word == "hello"
            assert all(runs(int(pid)) for pid in pids)
        finally:
            starter.kill()
    until(lambda: not any(runs(int(pid)) for pid in pids))


def test_a_word_to_a_program_that_has_ended_is_not_heard(tmp_path: Path) -> None:
    program = ChildProcess(Command([sys.executable, "-c", ""]), tmp_path / "log", leash=True)
    until(lambda: program.code is not None)
    program.tell("hello")
    program.stop()
