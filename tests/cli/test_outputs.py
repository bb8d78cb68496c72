"""Files that commands write for users: a disk that is full as one is written again costs nobody the old one."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fedtl
from fedtl.choice import ConfigError
from fedtl.cli.commands import app
from fedtl.disk import durable
from fedtl.failure import RunError

OUTPUTS = {
    "a.png": ["plot", "run", "-q"],
    "a.svg": ["plot", "run", "-q"],
    "a.tex": ["table", "run", "--format", "latex"],
    "a.html": ["report", "run"],
    "a.safetensors": ["export", "run"],
    "split.csv": ["partition", "quickstart", "--save"],
    "split.npz": ["partition", "quickstart", "--save"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outputs")
    config = {
        "name": "outputs",
        "rounds": 1,
        "device": "cpu",
        "data": {"name": "digits", "clients": 3},
        "model": {"name": "logistic"},
        "strategy": {"name": "fedavg", "local_steps": 1, "lr": 0.1},
        "simulation": {"grid": "in-process", "stacked": False, "traced": False},
    }
    fedtl.run(config, out=folder / "run")
    return folder


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_old_file_stays_where_the_new_one_does_not_fit(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").symlink_to(folder / "run")
    monkeypatch.chdir(tmp_path)
    words = OUTPUTS[name]
    command = [*words, name, "-o", "picture.png"] if words[-1] == "--save" else [*words, "-o", name]
    app(command, standalone_mode=False)
    old, files = Path(name).read_bytes(), sorted(tmp_path.iterdir())

    def full(unfinished: Path | str, target: Path | str, *_: Any) -> None:
        """The disk's last blocks: what was written does not fit."""
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        put(unfinished, target)

    put: Callable[..., None] = durable.put
    monkeypatch.setattr(durable, "put", full)
    with pytest.raises((ConfigError, RunError), match="No space left on device"):
        app(command, standalone_mode=False)
    assert Path(name).read_bytes() == old
    assert sorted(tmp_path.iterdir()) == files
