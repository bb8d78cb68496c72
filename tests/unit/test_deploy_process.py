"""Programs that a deployment starts: one of a kind, ended by signals, with logs that do not grow for ever."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import uvicorn
from flwr.supercore.http_logging import get_uvicorn_log_config

from fedtl.deploy import process, superlink
from fedtl.deploy.flower import Command
from fedtl.deploy.process import ChildProcess, alone
from fedtl.failure import RunError

# One at a time.


def test_one_holds_a_file_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with alone(file, "it is held"), pytest.raises(RunError, match=r"^it is held$"), alone(file, "it is held"):
        pytest.fail("two hold it")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), alone(file, "it is held"):
            _ = 1 / 0  # however it ends, it is free then


def test_another_process_holds_it_until_it_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    code = f"import fcntl, sys; f = open({str(file)!r}, 'a'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True)"
    code += "; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(RunError), alone(file, "it is held"):
            pytest.fail("two hold it")
        other.kill()
        other.wait(60)
        with alone(file, "it is held"):
            pass


def test_the_patient_get_it_when_it_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, tried, done = tmp_path / "lock", threading.Event(), list[str]()

    def sleeps(seconds: float) -> None:
        tried.set()
        thread_may_end.wait(60)

    def waits() -> None:
        with alone(file, "it is held", patience=600):
            done.append("held")

    thread_may_end = threading.Event()
    monkeypatch.setattr(process.time, "sleep", sleeps)
    thread = threading.Thread(target=waits)
    with alone(file, "it is held"):
        thread.start()
        assert tried.wait(60)
        assert done == []
    thread_may_end.set()
    thread.join(60)
    assert done == ["held"]


# Output.


def test_a_log_that_is_long_is_put_aside_when_a_program_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LARGEST_LOG", 10)
    log = tmp_path / "log" / "a.log"

    def runs(text: str) -> None:
        program = ChildProcess(Command([sys.executable, "-c", f"print({text!r}, end='')"], {}), log)
        ends = time.monotonic() + 60
        while program.code is None and time.monotonic() < ends:
            time.sleep(0.01)
        assert program.code == 0

    runs("0123456789")
    runs("ab")  # not longer than that yet
    assert log.read_text() == "0123456789ab"
    runs("cd")
    assert log.read_text() == "cd"
    assert (tmp_path / "log" / "a.log.1").read_text() == "0123456789ab"
    log.write_text("x" * 11)
    runs("ef")
    assert (log.read_text(), (tmp_path / "log" / "a.log.1").read_text()) == ("ef", "x" * 11)


# The SuperLink.


@pytest.mark.parametrize("flowers", [True, False])
def test_a_look_for_a_reply_is_no_line_of_the_log(flowers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """uvicorn configures its logging when it is started, after this."""
    access, error = logging.getLogger("uvicorn.access"), logging.getLogger("uvicorn.error")
    for logger in (access, error, logging.getLogger("uvicorn")):
        for name in ("filters", "handlers"):
            monkeypatch.setattr(logger, name, [])
        for name in ("level", "propagate", "disabled"):
            monkeypatch.setattr(logger, name, getattr(logger, name))
    lines = list[logging.LogRecord]()

    def start() -> None:
        how = {"log_config": get_uvicorn_log_config(logging.INFO)} if flowers else {}
        uvicorn.Config(app="none", access_log=True, **how)  # type: ignore[arg-type]
        for logger in (access, error):
            logger.addFilter(lambda record: lines.append(record) or True)  # type: ignore[func-returns-value]
        access.info('%s - "%s %s HTTP/%s" %d', "127.0.0.1:5", "POST", "/v1/runtime/pull-messages", "1.1", 200)
        error.info("started")

    module = type(sys)("flower_superlink")
    module.flower_superlink = start  # type: ignore[attr-defined]
    monkeypatch.setattr(superlink.importlib, "import_module", lambda _: module)
    superlink.main()
    assert [record.getMessage() for record in lines] == ["started"]
