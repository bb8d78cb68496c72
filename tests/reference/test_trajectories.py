"""Methods round by round against other people's code, on every engine; and the command that does so for any file."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedtl.engine import OneByOne
from fedtl.models.vector import WIDE
from tests.parts import ENGINES
from tests.reference.adapters import adapter_of
from tests.reference.cases import read_cases
from tests.reference.study import Study
from tests.reference.trajectories import A_TEST_METHOD_DOES_NOT, AGREES, DISAGREES, NOT_YET, judge, main

FILE = Path(__file__).with_name("personalised.json")
ROOT = Path(__file__).parents[2]
CASES = {name: case for name, case in read_cases(FILE).items() if adapter_of(name)}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", CASES)
def test_a_case_agrees(name: str, engine: str) -> None:
    verdict = judge(CASES[name], [engine], ["float32"])
    assert verdict.word != DISAGREES, verdict.line()
    assert A_TEST_METHOD_DOES_NOT not in verdict.reason, verdict.line()
    assert verdict.word in (AGREES, NOT_YET) or verdict.reason


def a_case(name: str = "ditto.authors") -> dict[str, Any]:
    """A file of one case."""
    file = json.loads(FILE.read_text())
    return {**file, "cases": {name: copy.deepcopy(file["cases"][name])}}


def run(file: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    path = folder / "file.json"
    path.write_text(json.dumps(file))
    status = main([str(path), "--engine", "one by one", "--precision", "float32"])
    return status, capsys.readouterr().out.splitlines()


def refuted(file: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What is printed of a file that disagrees."""
    status, lines = run(file, folder, capsys)
    assert status == 1
    return lines


def test_a_wrong_number_disagrees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = a_case()
    file["cases"]["ditto.authors"]["rounds"][1]["clients"]["2"]["v"][5] += 1e-3
    lines = refuted(file, tmp_path, capsys)
    assert "disagrees: clients.2.v of round 2" in lines[0]
    assert lines[-1] == "0 of 1 agree"


WHOLE = [
    name for name in CASES if name.startswith(("fedper", "fedrep")) and len(CASES[name].rounds[0]["global"] or []) > 54
]


@pytest.mark.parametrize("name", WHOLE)
def test_a_wrong_number_of_what_is_not_shared_disagrees(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Some code keeps the mean of the private parts beside what is shared."""
    file = a_case(name)
    file["cases"][name]["rounds"][0]["global"][-1] += 0.1
    assert "disagrees: global's private part of round 1" in refuted(file, tmp_path, capsys)[0]


def test_a_wrong_number_before_a_case_stops_applying_disagrees(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = a_case("fedper")
    assert "not applicable: from round 2 on" in run(file, tmp_path, capsys)[1][0]
    file["cases"]["fedper"]["rounds"][0]["global"][0] += 1e-3
    assert "disagrees: global of round 1" in refuted(file, tmp_path, capsys)[0]


def test_a_wrong_number_of_a_method_that_does_not_ship_is_said_and_not_yet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = a_case("fedamp")
    file["cases"]["fedamp"]["rounds"][1]["clients"]["2"]["w"][5] += 1e-3
    status, lines = run(file, tmp_path, capsys)
    assert status == 0
    assert f"not yet ({A_TEST_METHOD_DOES_NOT}: clients.2.w of round 2" in lines[0]


@pytest.mark.parametrize("where", ["clients", "server"])
def test_what_is_recorded_under_an_unknown_name_is_not_passed_over(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = a_case()
    record = file["cases"]["ditto.authors"]["rounds"][0][where]
    (record["0"] if where == "clients" else record)["velocity"] = [0.0]
    status, lines = run(file, tmp_path, capsys)
    assert status == 1
    assert "velocity is recorded, and has no counterpart that is known" in lines[0]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"hyperparameters": {"temperature": 2.0}}, "temperature = 2.0 has no counterpart"),
        ({"hyperparameters": {"lam": None}}, "hyperparameters has no 'lam'"),
        ({"model": "transformer"}, "model = 'transformer' is no network that is known"),
        ({"batches": "some"}, "batches = 'some'"),
        ({"batches": None}, "there is no 'batches' beside 'source', "),
        ({"model": None}, "there is no 'model' beside 'source', "),
        ({"rounds": []}, "no round is recorded"),
        ({"participation": "some"}, "participation = 'some' does not say who takes part in round 1"),
    ],
)
def test_a_case_that_cannot_be_run_says_why_in_a_sentence(
    change: dict[str, Any], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = a_case()
    case = file["cases"]["ditto.authors"]
    hyper = {**case["hyperparameters"], **change.pop("hyperparameters", {})}
    case |= {**change, "hyperparameters": hyper}
    for table in (case, hyper):
        for name in [name for name, value in table.items() if value is None]:
            del table[name]
    status, lines = run(file, tmp_path, capsys)
    assert status == 0
    assert f"not applicable: {why}" in lines[0]


def test_a_case_without_hyperparameters_leaves_the_others_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = a_case()
    bare = {name: value for name, value in file["cases"]["ditto.authors"].items() if name != "hyperparameters"}
    file["cases"] = {"ditto.bare": bare, **file["cases"]}
    status, lines = run(file, tmp_path, capsys)
    assert status == 0
    assert "not applicable: hyperparameters has no 'lr'" in lines[0]
    assert lines[-1] == "1 of 2 agree"


def test_what_a_case_need_not_say_may_be_absent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = a_case()
    (case,) = file["cases"].values()
    file |= {"inputs": {**file["inputs"], "clients": [dict(each) for each in file["inputs"]["clients"]]}}
    for client in file["inputs"]["clients"]:
        del client["x_test"], client["y_test"]
    case["rounds"][0] |= {"server": None, "loss": 99.0}
    case["rtol"] = None
    status, lines = run(file, tmp_path, capsys)
    assert status == 0
    assert lines[0].endswith("agrees (but for loss of the rounds)")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            '{"inputs": {}, "cases": {"ditto.a": {}, "fedavg": {}, "ditto.a": {}}}',
            "'ditto.a' is there twice in a table",
        ),
        ("[]", "'cases' is to be a table"),
        ('{"cases": {"fedavg": null}}', "'cases' is to be a table"),
        ("{", "Expecting"),
    ],
)
def test_a_file_that_holds_no_cases_is_refused_in_a_sentence(
    text: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(SystemExit) as ended:
        main([str(path)])
    assert ended.value.code == 2
    assert f"{path}: {why}" in capsys.readouterr().err


def test_a_method_that_is_not_there_is_not_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = a_case()
    file["cases"]["fedeverything.v2"] = file["cases"].pop("ditto.authors")
    status, lines = run(file, tmp_path, capsys)
    assert status == 0
    assert lines[0].split() == ["fedeverything", "v2", "not", "yet"]
    assert lines[-1] == "0 of 1 agree"


def test_a_shipped_method_without_an_adapter_is_not_taken_for_a_missing_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = a_case()
    file["cases"]["fedsam"] = file["cases"].pop("ditto.authors")
    _, lines = run(file, tmp_path, capsys)
    assert "not applicable: no adapter knows how a file records this method" in lines[0]


def test_in_float64_the_cases_agree_to_their_last_digits() -> None:
    """In a process of its own: what is imported there may keep what float32 meant."""
    command = [sys.executable, "-m", "tests.reference.trajectories", "--only", "scaffold", "--precision", "float64"]
    done = subprocess.run([*command, "--engine", "stacked"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    *lines, _, last = done.stdout.splitlines()
    assert last == "5 of 5 agree"
    assert all(float(line.split()[2]) < 1e-10 for line in lines)


def test_clients_by_other_numbers_give_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same federation with its clients in another order, and one more that stands aside."""
    file = a_case("ifca.mlp")
    case, inputs = file["cases"]["ifca.mlp"], file["inputs"]
    order = [2, 0, 3, 1]
    inputs["clients"] = [*(inputs["clients"][i] for i in order), inputs["clients"][0]]
    inputs["sampled"]["full"] = [[0, 1, 2, 3]] * len(case["rounds"])
    for record in case["rounds"]:
        server = record["server"]
        del server["assignment_after"], server["assignment_used"]
    status, lines = run(file, tmp_path, capsys)
    assert (status, "a test method agrees" in lines[0]) == (0, True)


def test_a_wide_layer_comes_back_in_the_files_order(tmp_path: Path) -> None:
    """It lies turned in the vectors here."""
    case = CASES["fedper.weighted"]
    inputs, wide = case.inputs, WIDE + 3
    numbers = wide * (inputs["dim"] + 1) + inputs["classes"] * (wide + 1)
    flat = np.arange(numbers, dtype=np.float32)
    case = case._replace(inputs={**inputs, "hidden": wide, "init": {**inputs["init"], "mlp": flat.tolist()}})
    study = Study(case, OneByOne, tmp_path, {"name": "fedper", "lr": 0.1})
    np.testing.assert_array_equal(study.theirs(study.initial), flat)
    np.testing.assert_array_equal(study.theirs(study.initial, "base"), flat[: wide * (inputs["dim"] + 1)])
