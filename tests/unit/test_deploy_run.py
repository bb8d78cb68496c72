"""``fedtl deploy run`` without Flower: what it waits for, and what is left when it is stopped."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fedtl.deploy import flower, folders, process
from fedtl.deploy import run as deployed
from fedtl.deploy.client import free_port
from fedtl.deploy.flower import Command
from fedtl.deploy.folders import ServerFolder, read_server
from fedtl.deploy.serverapp import RunRequest
from fedtl.failure import RunError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServerFolder:
    """A server's, as if it ran."""
    folders.create(tmp_path / "study", ["a", "b"], "localhost", port=free_port(), control_port=free_port())
    server_folder = read_server(tmp_path / "study")
    server_folder.studies.mkdir()
    server_folder.log.mkdir()
    monkeypatch.setattr(deployed, "runs", lambda _: True)
    return server_folder


@pytest.fixture
def order() -> RunRequest:
    return RunRequest("s", {}, "/r", None, False, [])


def started(monkeypatch: pytest.MonkeyPatch, **answer: Any) -> list[str]:
    """Flower's command line answers so; gives what it was asked."""
    asked = list[str]()

    def run(command: Command) -> subprocess.CompletedProcess[str]:
        asked.append(command.short)
        return subprocess.CompletedProcess([], 0, json.dumps(answer), "")

    monkeypatch.setattr(deployed.process, "run", run)
    return asked


# What is waited for.


def test_an_earlier_run_that_has_not_ended_yet_is_waited_for(
    folder: ServerFolder, order: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server was stopped, and it takes a while to notice."""
    asked, lines, may_end = started(monkeypatch, success=True, **{"run-id": 7}), list[str](), threading.Event()
    holds = threading.Event()

    def earlier() -> None:
        with order.alone(folder):
            holds.set()
            assert may_end.wait(60)
        assert asked == []

    def say(line: str) -> None:
        lines.append(line)
        may_end.set()

    thread = threading.Thread(target=earlier)
    thread.start()
    assert holds.wait(60)
    assert deployed.start(folder, order, say) == "7"
    thread.join(60)
    assert lines[0] == "an earlier run in /r has not ended yet: waiting for it, at most 30 s"
    assert len(asked) == 1
    assert RunRequest.read(folder, "s") == order


def test_a_run_that_goes_on_is_waited_for_a_while_only(
    folder: ServerFolder, order: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = started(monkeypatch, success=True)
    monkeypatch.setattr(deployed, "ENDS_WITHIN", 0.0)
    refused = r"^the run in /r is already in progress: fedtl deploy status"
    with order.alone(folder), pytest.raises(RunError, match=refused):
        deployed.start(folder, order, print)
    assert asked == []


def test_one_process_starts_and_watches_a_run(folder: ServerFolder, order: RunRequest) -> None:
    with (
        deployed.alone(folder, order),
        pytest.raises(RunError, match=r"^the run in /r is already in progress, watched by another fedtl deploy run$"),
        deployed.alone(folder, order),
    ):
        pytest.fail("two do")
    with deployed.alone(folder, order):
        pass


# What is left.


@pytest.mark.parametrize("met", [KeyboardInterrupt(), RunError("it did not end within 60 s"), None])
@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_is_not_started_is_taken_back(
    met: BaseException | None, resume: bool, folder: ServerFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Ctrl-C while Flower takes it, or as Flower refuses it; and a study that there was is known afterwards."""
    order = RunRequest("s", {}, "/r", "/data", resume, [])
    seen = list[bool]()

    def run(command: Command) -> subprocess.CompletedProcess[str]:
        seen.append(RunRequest.read(folder, "s").withdrawn)
        if met is not None:
            raise met
        return subprocess.CompletedProcess([], 0, json.dumps({"success": False, "error-message": "no"}), "")

    monkeypatch.setattr(deployed.process, "run", run)
    with pytest.raises(RunError if met is None else type(met)):
        deployed.start(folder, order, print)
    assert seen == [False]
    if resume:
        assert RunRequest.read(folder, "s").withdrawn
    else:
        assert not (folder.studies / "s.json").exists()


def test_a_run_is_stopped_whether_or_not_the_server_answers(
    folder: ServerFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is told to end may not wait for it; what was begun goes on then."""
    done = folder.log / "done"

    def flower_stops(within: float) -> bool:
        code = f"import time, pathlib; time.sleep({within}); pathlib.Path({str(done)!r}).touch()"
        monkeypatch.setattr(flower, "stop", lambda *_: Command([sys.executable, "-c", code]))
        return deployed.stop(folder, "7")

    monkeypatch.setattr(deployed, "STOPS_WITHIN", 60.0)
    assert flower_stops(0)
    assert done.exists()
    done.unlink()
    monkeypatch.setattr(deployed, "STOPS_WITHIN", 0.0)
    assert not flower_stops(0.1)
    deadline = time.monotonic() + 60
    while not done.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    monkeypatch.setattr(flower, "stop", lambda *_: Command([sys.executable, "-c", "raise SystemExit(1)"]))
    monkeypatch.setattr(deployed, "STOPS_WITHIN", 60.0)
    assert not deployed.stop(folder, "7")


def test_watching_ends_when_what_shows_the_lines_does_not_want_to(
    folder: ServerFolder, order: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('fedtl: here', flush=True); time.sleep(600)"
    monkeypatch.setattr(flower, "logs", lambda *_: Command([sys.executable, "-c", code]))

    def say(line: str) -> None:
        assert line == "here"
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        deployed.watch(folder, order, "7", say)
    assert time.monotonic() - began < 300
    assert process.OF_THIS_PROCESS["start_new_session"]
