"""What happens to a run's folder while it is written: a second writer, a folder that goes away, numbers that do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

import fedtl
from fedtl.assemble.driver import Silent
from fedtl.choice import ConfigError
from fedtl.config.read import read_config
from fedtl.failure import OutputError, RunError
from fedtl.server.report import Round
from tests.interrupted import ROUNDS, contents, tables


class At(Silent):
    """Does something after one of the rounds."""

    def __init__(self, round: int, what: Callable[[], object]) -> None:
        self._round, self._what = round, what

    def round(self, report: Round) -> None:
        if report.round == self._round:
            self._what()


def test_a_second_writer_is_refused_and_the_first_one_goes_on(
    uninterrupted: Callable[..., object], tmp_path: Path
) -> None:
    refused = []

    def second() -> None:
        for resume in (True, False):
            with pytest.raises(ConfigError, match="run is being written by process"):
                fedtl.run(tables(), out=tmp_path / "run", resume=resume)
            refused.append(resume)

    fedtl.run(tables(), out=tmp_path / "run", listener=At(2, second))
    assert refused == [True, False]
    assert contents(tmp_path / "run") == uninterrupted()
    assert not (tmp_path / "run" / "lock").exists()


def test_where_nothing_was_begun_resume_begins(uninterrupted: Callable[..., object], tmp_path: Path) -> None:
    """So that a job that a cluster starts again is one command."""
    run = fedtl.run(tables(), out=tmp_path / "run", resume=True)
    assert contents(run.path) == uninterrupted()
    assert run.environment["notes"] == [f"--resume: no run of this config has begun yet in {run.path}, so one begins"]


@pytest.mark.parametrize("method", ["pfedme", "momentum"])
def test_a_folder_deleted_under_a_run_ends_it(method: str, tmp_path: Path) -> None:
    last = list[int]()

    class Watching(At):
        def round(self, report: Round) -> None:
            last.append(report.round)
            super().round(report)

    folder = tmp_path / "run"

    def delete() -> None:
        while folder.exists():  # somebody may be writing into it
            shutil.rmtree(folder, ignore_errors=True)

    with pytest.raises(OutputError, match=r"run was deleted or moved|cannot be written: No such file") as caught:
        fedtl.run(tables(method, rounds=40), out=folder, listener=Watching(3, delete))
    assert "\n" not in str(caught.value)
    assert last[-1] <= 5  # at once: a round may be on its way to the disk when it notices
    assert not folder.exists()


UNFIT: dict[str, dict[str, Any]] = {
    "a momentum that overflows": {"name": "fedavg", "lr": 0.05, "server": {"name": "momentum", "lr": 1e39}},
    "a mixing that overflows": {"name": "pfedme", "lr": 0.05, "lam": 15.0, "inner_lr": 0.05, "beta": 1e300},
    "a second moment that overflows": {
        "name": "fedavg",
        "lr": 1e21,  # one step: the uploads are finite, their squares are not
        "local_steps": 1,
        "server": {"name": "adagrad", "lr": 1e-30},
    },
}


@pytest.mark.parametrize("rounds", [1, ROUNDS])
@pytest.mark.parametrize("what", UNFIT)
def test_a_server_step_that_leads_nowhere_ends_the_run(what: str, rounds: int, tmp_path: Path) -> None:
    config = tables(rounds=rounds)
    config["strategy"] = {"clients_per_round": 3, "local_steps": 2, "batch_size": 10, **UNFIT[what]}
    config["evaluate"] = {"every": 2}
    with pytest.raises(RunError, match="is not finite after round 1") as caught:
        fedtl.run(config, out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    _, _, hint = str(caught.value).partition("; a smaller ")
    named = hint.removesuffix(" may help").split(" or ")
    assert ("strategy.server.lr" in named) == ("server" in UNFIT[what])
    for option in named:  # which the method has
        attrgetter(option)(read_config(config)[0])
    assert fedtl.load(tmp_path / "run").rounds == []
    assert not (tmp_path / "run" / "model.safetensors").exists()
