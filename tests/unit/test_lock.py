"""One writer a run's folder, in one process, on one machine, and on several."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fedtl.choice import ConfigError
from fedtl.failure import OutputError
from fedtl.runs import lock
from fedtl.runs.lock import RunLock

HOLDER = """
import sys, time
from pathlib import Path
from fedtl.runs.lock import RunLock

RunLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    first = RunLock(tmp_path / "run")
    here = f"process {os.getpid()} on {socket.gethostname()}"
    with pytest.raises(ConfigError, match=f"run is being written by {here}"):
        RunLock(tmp_path / "run")
    first.check()
    first.release()
    second = RunLock(tmp_path / "run")
    first.release()  # once more: it is no longer its own
    with pytest.raises(ConfigError):
        RunLock(tmp_path / "run")
    second.release()
    assert list((tmp_path / "run").iterdir()) == []


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_killed_writer_holds_nothing(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(ConfigError, match=f"process {holder.pid} on"):
        RunLock(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    RunLock(tmp_path).release()


def test_of_many_at_once_one_writes(tmp_path: Path) -> None:
    taken: list[RunLock] = []
    refused: list[ConfigError] = []
    start = threading.Barrier(8)

    def take() -> None:
        start.wait()
        try:
            taken.append(RunLock(tmp_path))
        except ConfigError as error:
            refused.append(error)

    for _ in range(20):  # the last holder's release, which removes the file, is among them
        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(taken) == 1
        taken.pop().release()
    assert len(refused) == 140


def elsewhere(folder: Path) -> Path:
    file = folder / lock.NAME
    file.write_text(json.dumps({"host": "another-machine", "process": 7, "id": "x"}) + "\n")
    return file


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT", 0.1)
    monkeypatch.setattr(lock, "SILENCE", 1.0)


@pytest.mark.usefixtures("quick")
def test_a_writer_on_another_machine_that_lives(tmp_path: Path) -> None:
    """Between machines the kernel may tell nothing, but the other one's signs of life do."""
    file, stop = elsewhere(tmp_path), threading.Event()

    def live() -> None:
        while not stop.wait(0.1):
            os.utime(file)

    other = threading.Thread(target=live)
    other.start()
    try:
        with pytest.raises(ConfigError, match="is being written by process 7 on another-machine"):
            RunLock(tmp_path)
    finally:
        stop.set()
        other.join()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("left", ["silent", "gone meanwhile"])
def test_a_writer_on_another_machine_that_ended(tmp_path: Path, left: str) -> None:
    file = elsewhere(tmp_path)
    if left == "gone meanwhile":
        threading.Timer(0.3, file.unlink).start()
    mine = RunLock(tmp_path)
    mine.check()
    assert json.loads(file.read_text())["process"] == os.getpid()
    mine.release()


@pytest.mark.usefixtures("quick")
def test_a_writer_gives_signs_of_life(tmp_path: Path) -> None:
    mine = RunLock(tmp_path)
    file = tmp_path / lock.NAME
    before, deadline = file.stat().st_mtime_ns, time.monotonic() + 10
    while file.stat().st_mtime_ns == before:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    mine.release()


def test_a_folder_that_is_gone_or_another_one(tmp_path: Path) -> None:
    mine = RunLock(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(OutputError, match="was deleted or moved"):
        mine.check()
    other = RunLock(tmp_path / "run")
    with pytest.raises(OutputError, match="was deleted or moved"):
        mine.check()
    mine.release()
    other.check()  # its file is still there
    other.release()


def test_a_writer_that_was_taken_for_dead(tmp_path: Path) -> None:
    mine = RunLock(tmp_path)
    elsewhere(tmp_path)  # written by whoever took over
    with pytest.raises(OutputError, match="was taken over"):
        mine.check()


def test_a_file_that_says_nothing(tmp_path: Path) -> None:
    for text in ("", "no JSON", "[]", '{"host": 1}', '{"host": "h", "process": "p"}'):
        (tmp_path / lock.NAME).write_text(text)
        RunLock(tmp_path).release()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written: Not a directory"):
        RunLock(tmp_path / "file" / "run")
