"""Which run ``fedtl export`` means where there are several: the newest of one experiment, by what is in it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from fedtl.cli import commands, printing
from fedtl.export import file as model_file
from fedtl.export import of_run as export


class Said:
    """The command line in this process; gives what it printed, and which run it took."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys
        self.taken = list[Path]()

        def model_of_run(folder: Path, *_: Any) -> SimpleNamespace:
            self.taken.append(folder)
            return SimpleNamespace(about="its model")

        monkeypatch.setattr(export, "model_of_run", model_of_run)
        monkeypatch.setattr(model_file, "write_safetensors", lambda *_: None)

    def __call__(self, *words: object, code: int = 0) -> str:
        for name, stderr in (("out", False), ("err", True)):
            self.monkeypatch.setattr(printing, name, Console(stderr=stderr, highlight=False, width=60))
        self.monkeypatch.setattr(sys, "argv", ["fedtl", "export", *map(str, words)])
        self.taken.clear()
        with pytest.raises(SystemExit) as ended:
            commands.main()
        err = self.capsys.readouterr().err
        assert ended.value.code == code, err
        return err


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Said:
    monkeypatch.chdir(tmp_path)
    return Said(monkeypatch, capsys)


def study(
    folder: Path, started: str | None, name: str = "hospitals", method: str = "pfedme", model: bool = True
) -> Path:
    """What a run leaves, as far as it is looked at."""
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "config.toml").write_text(f'name = "{name}"\nstrategy = {{ name = "{method}" }}\n')
    (folder / "environment.json").write_text(json.dumps({} if started is None else {"started": started}))
    if model:
        (folder / "checkpoint" / "checkpoint.json").write_text('{"round": 1}')
    return folder


OLD, NEW = "2026-10-25T02:40:00+0200", "2026-10-25T02:10:00+0100"
"""In this order, though not of their letters: the clocks were put back."""


def client(path: Path) -> Path:
    path.mkdir()
    (path / "client.toml").write_text('name = "a"\n')
    return path


def test_of_a_clients_studies_the_newest(command: Said) -> None:
    folder = client(Path("a"))
    assert command(folder, "--client", "a", code=2) == "fedtl: a keeps nothing of any study yet\n"
    only = study(folder / "studies" / "hospitals-f00", OLD)
    assert command(folder, "--client", "a") == ""
    assert command.taken == [only]
    newer = study(folder / "studies" / "hospitals-0ff", NEW)
    os.utime(only / "config.toml")
    assert command(folder, "--client", "a") == f"the newest of 2 runs: {newer}\n"
    assert command.taken == [newer]
    study(folder / "studies" / "hospitals-aaa", "2026-12-01T00:00:00+0100", model=False)  # it has just begun
    assert command(folder, "--client", "a") == f"the newest of 3 runs: {newer}\n"
    assert command.taken == [newer]
    command(only, "--client", "a")
    assert command.taken == [only]


def test_runs_that_a_pattern_names(command: Said) -> None:
    old, new = study(Path("2-pfedme"), OLD), study(Path("1-pfedme"), NEW)
    unknown = study(Path("3-pfedme"), None)
    for runs in ([old, new], [new, old], [new, unknown]):
        assert command(*runs) == f"the newest of 2 runs: {new}\n"
        assert command.taken == [new]


@pytest.mark.parametrize("other", [{"name": "clinics"}, {"method": "fedavg"}])
def test_runs_of_different_experiments_are_named(other: dict[str, str], command: Said) -> None:
    folder = client(Path("a"))
    one, two = study(folder / "studies" / "x", OLD), study(folder / "studies" / "y", NEW, **other)  # type: ignore[arg-type]
    for words in ([folder], [one, two]):
        sentence = f"fedtl: 2 runs of different experiments or methods: give one of {one}, {two}\n"
        assert command(*words, code=2) == sentence
        assert command.taken == []
