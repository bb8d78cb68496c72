"""What the disk has before a file gets its name, where a power cut must lose nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedtl.assemble.driver import Silent
from fedtl.config.read import build
from fedtl.data.federate import federate
from fedtl.disk.durable import put, replacing, settle
from fedtl.disk.memories import MemoryStore
from fedtl.experiment import Place, open_run
from fedtl.runs.checkpoint import last_round, read_header
from fedtl.runs.record import Recorder
from fedtl.server.report import Round

TABLES: dict[str, Any] = {
    "name": "tiny",
    "rounds": 1,
    "device": "cpu",
    "data": {"name": "digits", "clients": 2, "samples": 60},
    "model": {"name": "logistic"},
    "strategy": {"name": "fedavg", "lr": 0.1},
    "simulation": {"grid": "in-process", "traced": False},
}


def test_a_file_is_replaced_by_a_whole_one_or_stays(tmp_path: Path) -> None:
    place, link = tmp_path / "a.txt", tmp_path / "link.txt"
    link.symlink_to("a.txt")
    for target, text in ((place, "first"), (place, "second"), (link, "third")):
        with replacing(target) as unfinished:
            unfinished.write_text(text)
        assert place.read_text() == text
    assert link.is_symlink()
    for error in (OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()):
        with pytest.raises(type(error)), replacing(link) as unfinished:
            unfinished.write_text("half")
            raise error
    assert place.read_text() == "third"
    assert {file.name for file in tmp_path.iterdir()} == {"a.txt", "link.txt"}


def test_what_is_no_file_is_written_to_itself(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with replacing(pipe) as unfinished:
            unfinished.write_text("through it")
        assert os.read(reader, 100) == b"through it"
    finally:
        os.close(reader)
    assert [file.name for file in tmp_path.iterdir()] == ["pipe"]


class Disk:
    """What was waited for, and which names files got, one after another; a file is known by its inode."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waited: list[int] = []
        self.named: list[tuple[Path, bool]] = []
        """Each file that got a name, and whether the disk had its content by then."""
        fsync, replace = os.fsync, os.replace

        def waits(file: int) -> None:
            self.waited.append(os.fstat(file).st_ino)
            fsync(file)

        def names(path: Path | str, target: Path | str) -> None:
            self.named.append((Path(target), self.has(Path(path))))
            self._forget(Path(target).parent)  # its names are others now
            replace(path, target)

        monkeypatch.setattr(os, "fsync", waits)
        monkeypatch.setattr(os, "replace", names)

    def has(self, path: Path) -> bool:
        """Whether it was waited for the file, or for the folder since a name in it changed."""
        return path.stat().st_ino in self.waited

    def has_all(self, count: int) -> bool:
        """Whether so many files got names, each once the disk had it, and the disk then had the name."""
        assert len(self.named) == count
        return all(had and self.has(path.parent) for path, had in self.named)

    def _forget(self, folder: Path) -> None:
        self.waited = [each for each in self.waited if each != folder.stat().st_ino]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_a_file_gets_its_name_when_the_disk_has_it(disk: Disk, tmp_path: Path) -> None:
    for durable in (False, True):
        unfinished = tmp_path / "a.unfinished"
        unfinished.write_text(f"durable: {durable}")
        put(unfinished, tmp_path / "a", durable)
        assert (tmp_path / "a").read_text() == f"durable: {durable}"
        assert not unfinished.exists()
        assert disk.named[-1] == (tmp_path / "a", durable)
        assert disk.has(tmp_path) == durable


def test_folders_settle_too(disk: Disk, tmp_path: Path) -> None:
    settle(tmp_path)
    assert disk.waited == [tmp_path.stat().st_ino]
    with pytest.raises(FileNotFoundError):
        settle(tmp_path / "none")


@pytest.mark.parametrize("durable", [False, True])
def test_memories(durable: bool, disk: Disk, tmp_path: Path) -> None:
    store = MemoryStore(tmp_path)
    assert not store.durable
    store.durable = durable
    store.save(3, 1, {"w": torch.ones(2)})
    assert disk.has_all(1) == durable
    assert bool(disk.waited) == durable
    assert store.load(3, 2)["w"].tolist() == [1, 1]


@pytest.mark.parametrize("durable", [False, True])
def test_a_finished_round(durable: bool, disk: Disk, tmp_path: Path) -> None:
    config = build(TABLES)
    recorder = Recorder(tmp_path / "run", durable)
    recorder.begin(config, {})
    recorder.round(Round(1, [0]), np.zeros(2, np.float32), {})
    recorder.finish({"w": np.zeros(2, np.float32)})
    # environment.json and config.toml; the vector and what says that it counts; the model.
    assert disk.has_all(5) == durable
    assert disk.has(tmp_path / "run" / "rounds.jsonl") == durable
    assert bool(disk.waited) == durable
    recorder.resume(config, {}, read_header(recorder.folder))
    # Once more the description; a simulated run, which has not waited before, now says what the disk has.
    assert disk.has_all(7 if durable else 8) == durable
    assert last_round(tmp_path / "run") == 1


@pytest.mark.parametrize("deployed", [False, True])
def test_the_server_of_real_clients_waits_for_the_disk(deployed: bool, tmp_path: Path) -> None:
    config = build(TABLES)
    federation = federate(config.data, config.seed)
    server = open_run(config, federation, Place(tmp_path / "run"), Silent(), elsewhere=deployed)
    assert server.recorder.durable == deployed
