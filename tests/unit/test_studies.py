"""A study's file: what is written is read back, and readers of runs know what belongs to it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fedtl.choice import ConfigError
from fedtl.comparison import compare
from fedtl.studies import Cell, Planned, Study, is_study
from fedtl.studies.record import FILE
from tests.studies import small_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """In a folder that no test changes."""
    return small_study(tmp_path_factory.mktemp("study"))


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    trial = Planned("search/a/0", "a", 0, "pruned", trial=0, values={"strategy.lr": 0.1}, value=0.5)
    cell = Cell("a", "fedavg", {"data.clients": 3}, {"strategy.name": "fedavg"}, chosen={"strategy.lr": 0.1})
    study = Study(
        tmp_path, "s", "why?", ("fedtl",), {"rounds": 2}, ("fedavg",), {"k": (1, 2)}, (0,), {}, (cell,), (trial,)
    )
    study.save()
    assert is_study(tmp_path)
    assert Study.load(tmp_path) == study
    assert study.trials("a") == (trial,)
    assert study.finals == ()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ([], "is damaged: it holds [], and no table"),
        ({"format": 0}, "has format 0; this version of fedtl reads 1"),
        ({"cells": 5}, "is damaged: cells: Input should be a valid tuple"),
        ({"cells": [{"variant": "a"}]}, "is damaged: cells.0.name: Field required"),
        (
            {"runs": [{"folder": "a", "cell": "a", "seed": 0, "state": "lost"}]},
            "is damaged: runs.0.state: Input should be",
        ),
    ],
)
def test_a_damaged_file_is_one_sentence(damage: object, message: str, tmp_path: Path) -> None:
    Study(tmp_path, "s").save()
    file = tmp_path / FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), **damage} if isinstance(damage, dict) else damage))
    with pytest.raises(ConfigError) as error:
        Study.load(tmp_path)
    assert str(error.value).startswith(f"{file} {message}")
    assert "\n" not in str(error.value)


def test_comparison_takes_finished_runs_and_says_what_is_missing(study: Study) -> None:
    comparison = compare(study.folder)
    assert {len(group.runs) for group in comparison.groups} == {1, 2}
    assert "Of the study 'small' 1 of 12 runs are missing; 1 of them failed." in comparison.notes


def test_trials_are_not_compared(study: Study, tmp_path: Path) -> None:
    first, *others = (replace(run, folder=str(study.folder / run.folder)) for run in study.runs)
    replace(study, folder=tmp_path, runs=(replace(first, trial=0), *others)).save()
    assert len(Study.load(tmp_path).load_runs()) == len(others) - 1  # one failed


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is no study: it has no study\.json"):
        Study.load(tmp_path)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        Study.load(tmp_path)
    (tmp_path / FILE).write_text(json.dumps({"format": 99}))
    with pytest.raises(ConfigError, match="has format 99; this version of fedtl reads 1"):
        Study.load(tmp_path)
