"""``fedtl sweep``: what it prints, and how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fedtl.choice import ConfigError
from fedtl.cli.commands import app
from fedtl.failure import RunError
from fedtl.studies import Study
from fedtl.sweeps import work
from tests.sweeps import BASE, study_of


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import tomli_w

    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.toml").write_text(tomli_w.dumps(BASE))
    (tmp_path / "tiny.toml").write_text(tomli_w.dumps(study_of(config="base.toml")))
    return tmp_path


def fedtl(*args: str) -> Result:
    return CliRunner().invoke(app, ["sweep", *args])


def test_a_study_is_run_compared_and_named(here: Path, engines_chosen_once: None) -> None:
    planned = fedtl("tiny.toml", "--dry-run")
    assert planned.exit_code == 0
    assert "2 cells, 0 trials, 4 runs with seeds 0, 1: at most 8 rounds, into studies/tiny" in planned.output
    assert not (here / "studies").exists()
    done = fedtl("tiny.toml", "--jobs", "1")
    assert done.exit_code == 0, done.output
    assert "\n4/4 " in done.output
    assert "local, seed 1 finished" in done.output
    assert "Differences in percentage points" in done.output
    assert "fedtl report studies/tiny" in done.output
    assert done.output.endswith("studies/tiny\n")
    again = fedtl("studies/tiny", "--quiet")
    assert (again.exit_code, again.output) == (0, "studies/tiny\n")


def test_what_fails_is_listed_with_exit_code_1(
    here: Path, monkeypatch: pytest.MonkeyPatch, engines_chosen_once: None
) -> None:
    run_at = work.run_at

    def fails(config: object, place: object, *more: object) -> object:
        if "local-1" in str(place):
            raise RunError("the disk is full")
        return run_at(config, place, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(work, "run_at", fails)
    done = fedtl("tiny.toml", "--jobs", "1")
    assert done.exit_code == 1
    assert "runs/local-1 failed: the disk is full" in done.output
    assert "The same command tries them again: fedtl sweep studies/tiny" in done.output


def test_ctrl_c_says_how_to_go_on(here: Path, monkeypatch: pytest.MonkeyPatch, engines_chosen_once: None) -> None:
    run_at, begun = work.run_at, list[object]()

    def interrupted(config: object, place: object, *more: object) -> object:
        begun.append(place)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return run_at(config, place, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(work, "run_at", interrupted)
    done = fedtl("tiny.toml", "--jobs", "1", "--quiet")
    assert done.exit_code == 130
    assert "stopped after 1 of 4 runs; to go on: fedtl sweep studies/tiny" in done.output
    assert not (here / "studies/tiny/lock").exists()
    assert fedtl("studies/tiny", "--jobs", "1", "--quiet").exit_code == 0
    assert {run.state for run in Study.load("studies/tiny").runs} == {"finished"}


def test_what_is_wrong_is_a_sentence(here: Path) -> None:
    for args, message in {
        ("tiny.toml", "strategy.lr=-1"): "fedavg: strategy.lr = -1",
        ("tiny.toml", "--jobs", "0"): "--jobs = 0: should be 1 or more",
        ("none.toml",): "there is no study or config 'none.toml'",
    }.items():
        done = fedtl(*args)
        assert isinstance(done.exception, ConfigError)
        assert message in str(done.exception)
