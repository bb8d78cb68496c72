"""Runs that end early and keep their best round: the same bits however they are interrupted.

Scores on validation samples are scripted, so that the best round and the last one are the same on any processor.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

import fedtl
from fedtl.choice import ConfigError
from fedtl.config.read import read_config
from fedtl.data.federate import federate
from fedtl.disk import durable
from fedtl.disk.memories import MemoryStore
from fedtl.experiment import load_model
from fedtl.export.file import OnStored
from fedtl.export.of_run import model_of_run
from fedtl.runs import checkpoint as checkpoints
from fedtl.runs.checkpoint import SETTLED, at_round, load_checkpoint, read_header
from fedtl.runs.record import Recorder
from fedtl.server.rounds import Rounds
from tests.interrupted import Killed, bits, contents, stop_at, stopped_and_resumed, tables

SCORES = {2: 0.3, 4: 0.8, 6: 0.5, 8: 0.6, 10: 0.7, 12: 0.9}
"""On validation samples: with a patience of 2 a run ends after round 8; with 4 it does not, and round 12 is best."""
BEST, LAST = 4, 8
PLAIN = {"grid": "in-process", "stacked": False, "traced": False}
SERVING = "personal/validation-clients"


@pytest.fixture(autouse=True, scope="module")
def _scripted() -> Iterator[None]:
    score = Rounds.aggregate_evaluate

    def scripted(self: Rounds, server_round: int, replies: Any) -> Any:
        metrics = score(self, server_round, replies)
        for name in ("personal/validation-clients", "global/validation-clients"):
            if name in self.report.scores:
                self.report.scores[name]["accuracy"]["weighted_mean"] = SCORES.get(server_round, 0.1)  # type: ignore[index]
        return metrics

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rounds, "aggregate_evaluate", scripted)
        yield


def chosen(method: str = "pfedme", **other: Any) -> dict[str, Any]:
    config = tables(method, rounds=12, stop={"patience": 2}, simulation=PLAIN, **other)
    config["data"]["validation_share"] = 0.2
    config["evaluate"]["keep_best"] = True
    return config


def left(folder: Path, best: int = BEST) -> dict[str, Any]:
    """All that a run leaves, with what it keeps of its best round."""
    mark = read_header(folder)
    assert mark is not None
    kept = load_checkpoint(folder, at_round(mark, best))
    snapshot = contents(folder) | {"best": bits(kept.state | {"w": kept.w})}
    if (folder / "best.safetensors").exists():
        snapshot["best model"] = (folder / "best.safetensors").read_bytes()
    for what in ("memories", "tables"):
        store = MemoryStore(folder / what)
        snapshot |= {f"{what} {c} best": bits(store.load(c, best + 1)) for c in store.clients()}
        snapshot |= {f"{what} {c} versions": store.versions(c) for c in store.clients()}
    snapshot["files"] = sorted(file.name for file in (folder / "checkpoint").iterdir())
    return snapshot


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    known: dict[str, Path] = {}

    def run(method: str) -> Path:
        if method not in known:
            known[method] = tmp_path_factory.mktemp("whole") / "run"
            fedtl.run(chosen(method), out=known[method])
        return known[method]

    return run


def test_a_run_ends_early_and_says_why(whole: Callable[[str], Path], tmp_path: Path) -> None:
    folder = whole("pfedme")
    run = fedtl.load(folder)
    assert [line["round"] for line in run.rounds] == [*range(1, LAST + 1)]
    assert run.clients[-1]["round"] == LAST, "the last round is scored"
    assert run.stopped is not None
    assert str(run.stopped) == (
        f"stopped after round {LAST}: no better than 80.00 % in round {BEST} (accuracy of {SERVING}, stop.patience = 2)"
    )
    # It is the run of so many rounds, which ends without the rule.
    shorter = chosen() | {"rounds": LAST}
    del shorter["stop"]
    other = fedtl.run(shorter, out=tmp_path / "shorter")
    assert left(tmp_path / "shorter") == left(folder)
    assert other.stopped is None


def test_a_stopped_run_that_is_resumed_stays_as_it_is(whole: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole("pfedme"), folder)
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    for more in ([], ["rounds=20"]):
        run = fedtl.run(folder, more, resume=True)
        (note,) = run.environment["notes"]
        assert note.endswith("; to go on, raise stop.patience or give stop=none")
        assert run.stopped == fedtl.load(whole("pfedme")).stopped
    after = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    described = {folder / "environment.json", folder / "config.toml", folder / "checkpoint/checkpoint.json"}
    assert before.keys() == after.keys()
    assert [file for file in before if before[file] != after[file] and file not in described] == []


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("longer") / "run"
    fedtl.run(chosen(), ["stop.patience=4"], out=folder)
    return folder


@pytest.mark.parametrize("change", ["stop.patience=4", "stop=none"])
def test_with_more_patience_it_goes_on_to_the_longer_run(
    change: str, longer: Path, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole("pfedme"), folder)
    run = fedtl.run(folder, [change], resume=True)
    assert run.stopped is None
    assert run.kept_best() == (12, 0.9)
    assert left(folder, 12) == left(longer, 12)
    with pytest.raises(ConfigError, match="would have ended after round 8, and it has finished 12 already"):
        fedtl.run(folder, ["stop.patience=2"], resume=True)


POINTS = {
    "between the checkpoint's tensors and its name": (checkpoints, "write_mark", BEST, False),
    "right after the best round": (Recorder, "checkpoint", BEST, True),
    "when another round is trained": (Recorder, "round", BEST + 1, False),
    "before the last checkpoint": (Recorder, "checkpoint", LAST, False),
    "after the last round, before any model": (Recorder, "finish", 1, False),
    "between the best model and the last": (Recorder, "finish", 1, True),
    "before it is said that the run stopped": (Recorder, "stopped", 1, False),
}


@pytest.mark.parametrize(
    ("method", "point"),
    [
        *(("pfedme", point) for point in POINTS),
        ("adam", "between the checkpoint's tensors and its name"),
        ("fedpac", "when another round is trained"),
    ],
)
def test_killed_and_resumed(method: str, point: str, whole: Callable[[str], Path], tmp_path: Path) -> None:
    owner, name, call, after = POINTS[point]
    run = stopped_and_resumed(chosen(method), tmp_path / "run", call, owner, name, after=after)
    assert left(tmp_path / "run") == left(whole(method))
    assert run.stopped == fedtl.load(whole(method)).stopped


@pytest.mark.parametrize("damage", ["the last checkpoint", "the best round's checkpoint", "a memory of the best round"])
def test_what_the_disk_lost_is_computed_again(damage: str, whole: Callable[[str], Path], tmp_path: Path) -> None:
    """The disk has had the third round for sure: the run goes back there, before the round that was best since."""
    folder = tmp_path / "run"

    def due(_: durable.Settler) -> bool:
        mark = read_header(folder)
        return mark is not None and mark.round == 3

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(durable.Settler, "due", property(due))
        stop_at(patch, Recorder, "checkpoint", 7, after=True)
        fedtl.run(chosen(), out=folder)
    mark = read_header(folder, SETTLED)
    assert mark is not None
    assert mark.round == 3
    files = {file.stem for file in folder.glob("checkpoint/*.safetensors")}
    assert files == {"2", "3", "4", "7"}, "the settled and the last round, and the best as of each"
    if damage == "the last checkpoint":
        (folder / "checkpoint/7.safetensors").unlink()
    elif damage == "the best round's checkpoint":
        (folder / "checkpoint/4.safetensors").unlink()
    else:
        next(folder.glob("memories/*/*-4.safetensors")).unlink()
    run = fedtl.run(folder, resume=True)
    assert "going back to round 3" in run.environment["notes"][0]
    assert left(folder) == left(whole("pfedme"))


def test_a_best_round_that_is_lost_for_good_is_named(whole: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole("pfedme"), folder)
    (folder / f"checkpoint/{BEST}.safetensors").unlink()
    with pytest.raises(ConfigError, match=rf"{BEST}.safetensors is missing"):
        fedtl.run(folder, resume=True)
    with pytest.raises(ConfigError, match=rf"{BEST}.safetensors is missing"):
        model_of_run(folder, round="best")


def test_the_best_rounds_global_model(whole: Callable[[str], Path], tmp_path: Path) -> None:
    folder = whole("pfedme")
    run = fedtl.load(folder)
    with safe_open(folder / "best.safetensors", "np") as file:
        about = file.metadata()
    assert (about["round"], about["score"], about["metric"], about["value"]) == (str(BEST), SERVING, "accuracy", "0.8")
    shorter = fedtl.run(chosen() | {"rounds": BEST}, out=tmp_path / "shorter")
    expected = load_file(shorter.path / "model.safetensors")
    exported = model_of_run(folder, round="best")
    assert exported.about.round == BEST
    for state in (run.state_dict("best"), load_model(run, "best").state_dict(), exported.module.state_dict()):
        assert state.keys() == expected.keys()
        assert all(np.array_equal(state[name], expected[name]) for name in expected)
    assert any(not np.array_equal(run.state_dict()[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("method", "personal"), [("pfedme", "stored"), ("pfedme", "adapted"), ("fedrep", "stored"), ("fedpac", "adapted")]
)
def test_clients_own_models_of_the_best_round_are_those_that_were_scored(
    method: str, personal: str, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    """Kept by the client, made for scoring, the global one with its own head, and made of rows at the server."""
    config = chosen(method)
    before, config["evaluate"]["personal"] = config["evaluate"]["personal"], personal
    run = fedtl.load(whole(method)) if before == personal else fedtl.run(config, out=tmp_path / "run")
    (scored,) = [line for line in run.clients if line["round"] == BEST]
    read, _ = read_config(config)
    federation = federate(read.data, read.seed)
    trained = {client for line in run.rounds[:BEST] for client in line["clients"]}
    for client in sorted(trained)[:2]:
        exported = model_of_run(run.path, client, round="best")
        assert exported.about.round == BEST
        test = federation.test[client]
        logits = OnStored(exported.module, exported.frame)(torch.from_numpy(federation.x[test]))
        accuracy = float((logits.argmax(1).numpy() == federation.y[test]).mean())
        place = scored["clients"].index(client)
        assert accuracy == pytest.approx(scored["scores"]["personal/clients"]["accuracy"][place])


@pytest.mark.parametrize(("recorded", "best", "last"), [("now", BEST, 10), ("by an earlier version", 6, 10)])
def test_a_round_that_lacks_clients_is_not_chosen_however_a_run_is_interrupted(
    recorded: str, best: int, last: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier version chose by the means alone, and its run goes on from what it kept."""
    aggregate = Rounds.aggregate_evaluate

    def without_one(self: Rounds, server_round: int, replies: Any) -> Any:
        metrics = aggregate(self, server_round, replies)
        row = self.report.scores.get(SERVING)
        if row is not None and server_round == 6:
            row["accuracy"]["weighted_mean"] = 0.99  # type: ignore[index]
            row["scored"] -= 1  # type: ignore[index]
            row |= {"lacking": 1} if recorded == "now" else {}  # type: ignore[operator]
        return metrics

    monkeypatch.setattr(Rounds, "aggregate_evaluate", without_one)
    fedtl.run(chosen(), out=tmp_path / "whole")
    for kill in (5, 7):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            stop_at(patch, Recorder, "checkpoint", kill, after=True)
            fedtl.run(chosen(), out=tmp_path / str(kill))
        run = fedtl.run(tmp_path / str(kill), resume=True)
        assert left(run.path, best) == left(tmp_path / "whole", best)
        kept = run.kept_best()
        assert (kept and kept.round, run.rounds[-1]["round"]) == (best, last)
        assert model_of_run(run.path, round="best").about.round == best


def test_a_run_that_goes_on_has_a_best_round(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, Recorder, "checkpoint", 6, after=True)
        fedtl.run(chosen(), out=tmp_path)
    assert model_of_run(tmp_path, round="best").about.round == BEST
    with pytest.raises(ConfigError, match=r"holds no best\.safetensors"):
        fedtl.load(tmp_path).state_dict("best")


def test_a_run_that_keeps_none_says_so(tmp_path: Path) -> None:
    run = fedtl.run(chosen() | {"rounds": 2}, ["evaluate.keep_best=none"], out=tmp_path)
    for ask in (
        lambda: run.state_dict("best"),
        lambda: load_model(run, "best"),
        lambda: model_of_run(tmp_path, round="best"),
    ):
        with pytest.raises(
            ConfigError, match=r"keeps the models of its last round only: set evaluate\.keep_best = true"
        ):
            ask()
    with pytest.raises(ConfigError, match="round = 'worst': give 'last' or 'best'"):
        run.state_dict("worst")  # type: ignore[arg-type]
    (tmp_path / "best.safetensors").write_bytes(b"the user's own")
    fedtl.run(tmp_path, resume=True)
    assert (tmp_path / "best.safetensors").read_bytes() == b"the user's own"
    with pytest.raises(ConfigError, match=r"evaluate\.keep_best is not given there and 'accuracy' here"):
        fedtl.run(tmp_path, ["evaluate.keep_best=true"], resume=True)


def test_a_score_that_the_run_will_not_have(tmp_path: Path) -> None:
    config = chosen("adam") | {"stop": {"patience": 1, "score": SERVING}}
    with pytest.raises(
        ConfigError, match=r"stop\.score = 'personal/validation-clients': this run has no such score; it has global/"
    ):
        fedtl.run(config, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_end_that_is_chosen_on_test_data_is_recorded(tmp_path: Path) -> None:
    stop = {"patience": 1, "min_delta": 1, "score": "global/clients"}
    run = fedtl.run(tables("adam", rounds=3, stop=stop, evaluate={}, simulation=PLAIN), out=tmp_path)
    assert run.stopped is not None
    assert run.stopped.round == 2, "no accuracy is better by more than 1"
    (note,) = run.environment["notes"]
    assert note.startswith("stop.score = 'global/clients' is on test data: the last round is chosen on the data")


def test_the_rounds_before_the_last_phase_do_not_count(tmp_path: Path) -> None:
    """Of the second phase round 6 is the first scored one; it, 8 and 10 are each no better by more than 1."""
    config = chosen() | {"phases": [{"rounds": 5}, {"rounds": 7}], "stop": {"patience": 2, "min_delta": 1}}
    del config["rounds"]
    run = fedtl.run(config, out=tmp_path)
    assert run.stopped is not None
    assert run.stopped.round == 10
    assert run.kept_best() == (BEST, 0.8), "of all rounds"
    assert json.loads((tmp_path / "environment.json").read_text())["stopped"]["round"] == 10


def test_the_run_that_ends_by_the_same_rule_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    short = chosen("adam") | {"rounds": 2}
    patient = {**short, "stop": {"patience": 5}}
    first = fedtl.run(patient)
    second = fedtl.run(short)
    assert fedtl.run(patient, resume=True).path == first.path
    assert fedtl.run(short | {"stop": {"patience": 7}}, resume=True).path in (first.path, second.path)
