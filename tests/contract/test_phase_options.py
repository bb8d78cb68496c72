"""What a method goes on with where a phase has other options than the one before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import fedtl
from fedtl.config.read import read_config
from fedtl.engine.task import of_method
from fedtl.runs.record import Recorder
from tests.interrupted import Killed, contents, stop_at, tables
from tests.parted import Parted
from tests.parts import METHODS, federation_of

FEDERATION = federation_of([5, 7, 6])
SAMPLED = [[0, 1], [1, 2], [0, 2]]
"""Client 2 trains for the first time in the second phase."""

FIRST = 1
"""Rounds of the first phase."""


def strategy_of(method: str) -> dict[str, Any]:
    return {"name": method, "local_steps": 2, "batch_size": 3, **METHODS[method]}


def run_of(strategy: dict[str, Any], *phases: dict[str, Any], sampled: list[list[int]] = SAMPLED) -> Parted:
    """A run whose phases have these options; the first one lasts a round."""
    lengths = [FIRST, len(sampled) - FIRST] if len(phases) == 2 else [len(sampled) // len(phases)] * len(phases)
    more = [{"rounds": rounds, "strategy": options} for rounds, options in zip(lengths, phases, strict=True)]
    return Parted(strategy, FEDERATION, sampled, more={"phases": more, "rounds": len(sampled)})


def _tables(strategy: dict[str, Any], phases: list[dict[str, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = {"name": "digits", "clients": 3, "samples": 60}
    if strategy["name"] == "feddf":
        data["public"] = {"name": "digits", "samples": 20}
    return {"name": "phases", "data": data, "model": {"name": "mlp", "hidden": [4]}, "strategy": strategy} | {
        "phases": phases
    }


AVERAGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "fedsam": ({"swa_from": 1}, {"swa_from": None}),
    "afl": ({"output": "average"}, {"output": "last"}),
}
"""Options with which a mean of rounds' models is scored, and without."""


@pytest.mark.parametrize("method", AVERAGES)
def test_a_mean_of_models_begins_and_ends_with_a_phase_and_training_goes_on(method: str) -> None:
    averages, last = AVERAGES[method]
    strategy, sampled = strategy_of(method), [[0, 1], [1, 2], [0, 2], [0, 1], [1, 2], [0, 2]]
    plain = run_of(strategy, last, last, last, sampled=sampled).rounds()
    run = run_of(strategy, last, averages, last, sampled=sampled)
    seen = run.rounds()
    for round in (0, 1, 4, 5):
        torch.testing.assert_close(seen[round], plain[round], msg=f"round {round + 1}")
    torch.testing.assert_close(seen[2], plain[2])
    torch.testing.assert_close(seen[3], (plain[2] + plain[3]) / 2)
    assert not torch.allclose(seen[3], plain[3])
    assert {"trained", "averaged"}.isdisjoint(run.server.state)


@pytest.mark.parametrize(("method", "stop"), [("afl", 1), ("afl", 4), ("fedsam", 2), ("fedsam", 3)])
def test_a_run_that_is_resumed_around_them_is_the_same(
    method: str, stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    averages, last = AVERAGES[method]
    given = tables(method, 6, model={"name": "logistic"})
    given["strategy"] |= averages
    given["data"] |= {"samples": 120}
    phases = [{"rounds": 2, "strategy": options} for options in (last, averages, last)]
    given["phases"] = phases if method == "afl" else [{"rounds": 2}, {"rounds": 2, "strategy": averages}, {"rounds": 2}]
    if method == "fedsam":
        del given["strategy"]["swa_from"]
    fedtl.run(given, out=tmp_path / "once")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, Recorder, "checkpoint", stop, after=True)
        fedtl.run(given, out=tmp_path / "twice")
    fedtl.run(given, out=tmp_path / "twice", resume=True)
    assert contents(tmp_path / "twice") == contents(tmp_path / "once")


def test_a_mean_that_would_begin_after_its_phase_is_noted() -> None:
    given = _tables({"name": "fedsam", "lr": 0.1}, [{"rounds": 2, "strategy": {"swa_from": 3}}, {"rounds": 2}])
    note = "phases[0].strategy.swa_from has no effect: it acts from round 3 on, and the phase ends with round 2"
    assert note in read_config(given)[1]
    given["phases"] = given["phases"][::-1]
    assert read_config(given)[1] == []


ADAM = {"name": "adam", "lr": 0.05, "keep": True}
SGD = {"name": "sgd", "momentum": 0.9}


def test_an_optimiser_does_not_take_up_what_another_kept() -> None:
    """Whether clients keep Adam's moments, or those of the SGD that follows, its first round is the same."""
    sampled, strategy = [[0, 1], [0, 2]], {"name": "fedavg", "lr": 0.1, "local_steps": 2}
    kept = run_of(strategy, {"optimizer": ADAM}, {"optimizer": {**SGD, "keep": True}}, sampled=sampled)
    fresh = run_of(strategy, {"optimizer": {**ADAM, "keep": False}}, {"optimizer": SGD}, sampled=sampled)
    assert torch.equal(kept.rounds()[1], fresh.rounds()[1])
    assert not of_method(kept.memory(0))
    assert {*kept.memory(0)} == {"optimizer_w_m"}


def test_an_optimisers_own_moments_go_on_in_a_later_phase() -> None:
    sampled, strategy = [[0, 1], [0, 2]], {"name": "fedavg", "lr": 0.1, "local_steps": 2, "optimizer": ADAM}
    phases, one = run_of(strategy, {}, {"local_steps": 2}, sampled=sampled), Parted(strategy, FEDERATION, sampled)
    assert torch.equal(torch.stack(phases.rounds()), torch.stack(one.rounds()))


@pytest.mark.parametrize("batch_norm", [False, True])
def test_nor_does_a_servers(batch_norm: bool) -> None:
    """In its first step a momentum of η = 1 goes to the mean itself."""
    momentum, adam = ({"server": {"name": name}} for name in ("momentum", "adam"))
    sent = []
    for first in (momentum, {"server": "none"}):
        phases = [{"rounds": 1, "strategy": first}, {"rounds": 2, "strategy": adam}]
        strategy, more = {"name": "fedavg", "lr": 0.1, "local_steps": 2}, {"phases": phases, "rounds": 3}
        run = Parted(strategy, FEDERATION, SAMPLED, model={"norm": batch_norm}, more=more)
        sent.append(torch.stack(run.rounds()))
    torch.testing.assert_close(*sent)
