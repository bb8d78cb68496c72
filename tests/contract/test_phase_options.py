"""A method's options that are others in a later phase: each acts there, or a sentence says why not."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from torch import Tensor

import fedtl
from fedtl.choice import ConfigError
from fedtl.clients.settings import Settings
from fedtl.config.read import build, build_to_read, read_config
from fedtl.engine.task import of_method
from fedtl.optimizers.settings import AveragingSettings, OptimizerSettings
from fedtl.server.scoring import Evaluation
from fedtl.strategies import strategy_type
from tests.interrupted import contents, stopped_and_resumed, tables
from tests.parted import Parted
from tests.parts import METHODS, federation_of

COMMON = {*Settings.model_fields, *OptimizerSettings.model_fields, *AveragingSettings.model_fields}
COMMON |= {"momentum", "weight_decay"}  # of all methods with SGD

FEDERATION = federation_of([5, 7, 6])
SAMPLED = [[0, 1], [1, 2], [0, 2]]
"""Client 2 trains for the first time in the second phase."""

FIRST = 1
"""Rounds of the first phase."""

MORE: dict[str, dict[str, Any]] = {"fedntd": {"tau": 2.0}, "feddyn": {"mean_samples": None}}
"""Options with which others act: τ = 1 has no square, and all clients alike no mean of samples."""

OWN = [
    (method, option)
    for method in METHODS
    if method != "feddf"  # whose options are of public samples
    for option in strategy_type(method).settings_type.model_fields
    if option not in COMMON
]


def strategy_of(method: str) -> dict[str, Any]:
    return {"name": method, "local_steps": 2, "batch_size": 3, **METHODS[method], **MORE.get(method, {})}


def run_of(strategy: dict[str, Any], *phases: dict[str, Any], sampled: list[list[int]] = SAMPLED) -> Parted:
    """A run whose phases have these options; the first one lasts a round."""
    lengths = [FIRST, len(sampled) - FIRST] if len(phases) == 2 else [len(sampled) // len(phases)] * len(phases)
    more = [{"rounds": rounds, "strategy": options} for rounds, options in zip(lengths, phases, strict=True)]
    return Parted(strategy, FEDERATION, sampled, more={"phases": more, "rounds": len(sampled)})


def outcome(run: Parted) -> Tensor:
    """What the run sends in its last round, and how its models score."""
    run.server.evaluation = Evaluation(personal="adapted", clients=0)
    sent = run.rounds()[-1]
    scores = [value for client in range(3) for _, value in sorted(run.score_of(client).items())]
    return torch.cat([sent, torch.tensor(scores)])


def others(field: Any, present: Any) -> list[Any]:
    """Other values of an option."""
    kinds = [each for kind in (field.annotation, *typing.get_args(field.annotation)) for each in _plain(kind)]
    values: list[Any] = []
    for kind in kinds:
        if typing.get_origin(kind) is typing.Literal:
            values += typing.get_args(kind)
        elif kind is bool:
            values += [True, False]
        elif kind is int:
            values.append((present or 1) + 1)
        elif kind is float:
            values.append((present or 0.3) * 0.6 + 0.05)
        elif kind == tuple[str, ...]:
            values += [("body",), ()]
        elif kind is str:
            values.append("body")
    return [value for value in values if value != present]


def _plain(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind)[:1] if typing.get_origin(kind) is typing.Annotated else (kind,)


@pytest.mark.parametrize(("method", "option"), OWN)
def test_an_option_acts_in_a_later_phase_or_a_sentence_says_why_not(method: str, option: str) -> None:
    kind, strategy = strategy_type(method), strategy_of(method)
    settings = kind.settings_type.model_validate(strategy)
    assert isinstance(settings, BaseModel)
    plain: Tensor | None = None
    there = others(kind.settings_type.model_fields[option], getattr(settings, option))
    assert there, f"{option}: no other value is known here"
    for value in there:
        refused, changed = "", None
        try:
            changed = run_of(strategy, {}, {option: value})
        except ConfigError as error:
            refused = str(error)
        if changed is None:
            assert refused.startswith(f"phases[1].strategy{'.' + option if option in settings.same_in_phases else ''}")
            return
        assert option not in settings.same_in_phases
        if option in kind.unused(changed.server.phases[1].settings):  # a note says so
            return
        plain = outcome(run_of(strategy, {}, {})) if plain is None else plain
        if not torch.equal(outcome(changed), plain):
            return
    pytest.fail(f"{option} = {there} changes nothing in the second phase, and nothing says so")


@pytest.mark.parametrize("method", METHODS)
def test_a_phase_may_say_a_length_the_other_way(method: str) -> None:
    settings = strategy_type(method).settings_type
    pairs = {(f"{start}_epochs", f"{start}_steps") for start in ("local", "head", "finetune", "personal", "adapt")}
    there = {frozenset(pair) for pair in pairs if settings.model_fields.keys() >= {*pair}}
    assert {*map(frozenset, settings.one_of)} == there
    for pair in settings.one_of:
        for own, other in (pair, pair[::-1]):
            strategy = {**{k: v for k, v in METHODS[method].items() if k not in pair}, "name": method, own: 2}
            phases = [{"rounds": 1}, {"rounds": 1, "strategy": {other: 3}}]
            read = build(_tables(strategy, phases)).stages()
            assert [(getattr(stage.strategy, own), getattr(stage.strategy, other)) for stage in read] == [
                (2, None),
                (None, 3),
            ]


def _tables(strategy: dict[str, Any], phases: list[dict[str, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = {"name": "digits", "clients": 3, "samples": 60}
    if strategy["name"] == "feddf":
        data["public"] = {"name": "digits", "samples": 20}
    return {"name": "phases", "data": data, "model": {"name": "mlp", "hidden": [4]}, "strategy": strategy} | {
        "phases": phases
    }


def test_a_runs_models_can_be_read_whatever_its_phases_changed() -> None:
    asked = _tables({"name": "fedcp", "lr": 0.1}, [{"rounds": 1}, {"rounds": 1, "strategy": {"global_parts": "last"}}])
    with pytest.raises(ConfigError, match=r"^phases\[1\]\.strategy\.global_parts: it is the same in all phases; give"):
        read_config(asked)
    assert build_to_read(asked).rounds == 2


def test_modules_of_a_methods_term_are_those_of_all_phases() -> None:
    asked = _tables(
        {"name": "moon", "lr": 0.1, "projector": 3}, [{"rounds": 1}, {"rounds": 1, "strategy": {"layer": "head"}}]
    )
    with pytest.raises(ConfigError, match=r"^phases\[1\]\.strategy: .* would have another layer; give it in \[strat"):
        build(asked)


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
def test_a_run_that_is_resumed_around_them_is_the_same(method: str, stop: int, tmp_path: Path) -> None:
    averages, last = AVERAGES[method]
    asked = tables(method, 6, model={"name": "logistic"})
    asked["strategy"] |= averages
    asked["data"] |= {"samples": 120}
    phases = [{"rounds": 2, "strategy": options} for options in (last, averages, last)]
    asked["phases"] = phases if method == "afl" else [{"rounds": 2}, {"rounds": 2, "strategy": averages}, {"rounds": 2}]
    if method == "fedsam":
        del asked["strategy"]["swa_from"]
    fedtl.run(asked, out=tmp_path / "once")
    stopped_and_resumed(asked, tmp_path / "twice", stop)
    assert contents(tmp_path / "twice") == contents(tmp_path / "once")


def test_a_mean_that_would_begin_after_its_phase_is_noted() -> None:
    asked = _tables({"name": "fedsam", "lr": 0.1}, [{"rounds": 2, "strategy": {"swa_from": 3}}, {"rounds": 2}])
    note = "phases[0].strategy.swa_from has no effect: it acts from round 3 on, and the phase ends with round 2"
    assert note in read_config(asked)[1]
    asked["phases"] = asked["phases"][::-1]
    assert read_config(asked)[1] == []


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
