"""A client that has never trained begins with the vectors that one keeps that has: so the two share a stack."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fedtl.choice import ConfigError
from fedtl.clients.contract import Count, Memory, State, Vectors
from fedtl.clients.sgd import SGD, SGDSettings
from fedtl.engine import Stacked, Trained
from fedtl.engine.first_memory import check_first_memory
from fedtl.engine.task import of_method
from fedtl.strategies import STRATEGIES
from tests.parts import (
    METHODS,
    engine_for,
    engine_of,
    federation_of,
    receive_first,
    small_module,
    train_cohort,
    update_of,
)


@pytest.mark.parametrize("method", STRATEGIES)
def test_first_memory_names_what_a_round_keeps(method: str) -> None:
    engine = receive_first(
        engine_for(method, federation_of([20, 20]), small_module(), Stacked), method, **METHODS[method]
    )
    update = update_of(method, engine.task.layout, **METHODS[method], batch_size=10)
    check_first_memory(engine.task, update)
    w = engine.task.layout.flatten(engine.task.module)
    first = update.first_memory({**engine.task.received, "w": w, "initial": w.clone()})
    for outcome in train_cohort(engine, update, w, [0, 1], [{}, {}], 1):
        assert isinstance(outcome, Trained)
        assert of_method(outcome.memory).keys() in (first.keys(), set())


@pytest.mark.parametrize("method", STRATEGIES)
def test_clients_with_and_without_a_memory_share_a_stack(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = receive_first(
        engine_for(method, federation_of([20] * 6), small_module(), Stacked), method, **METHODS[method]
    )
    update = update_of(method, engine.task.layout, **METHODS[method], batch_size=10)
    w = engine.task.layout.flatten(engine.task.module)
    stacks: list[int] = []
    start = type(update).start

    def counted(self: Any, received: Any, memory: Memory, probe: Any) -> Any:
        stacks.append(len(received["w"]))  # [C, P]
        return start(self, received, memory, probe)

    monkeypatch.setattr(type(update), "start", counted)
    memories: list[Memory] = [{} for _ in range(6)]
    for client, outcome in zip((1, 4), train_cohort(engine, update, w, [1, 4], [{}, {}], 1)):
        assert isinstance(outcome, Trained)
        memories[client] = outcome.memory
    train_cohort(engine, update, w, list(range(6)), memories, 2)
    assert stacks == [2, 6]


def test_pfedme_is_the_same_with_a_memory_and_without() -> None:
    """θ̃ of the last round begins no round: Algorithm 1 starts from w."""
    engine = engine_of(federation_of([20, 20]), small_module())
    update = update_of("pfedme", **METHODS["pfedme"], batch_size=10)
    w = engine.task.layout.flatten(engine.task.module)
    first, other = (
        train_cohort(engine, update, w, [0], [memory], 2)[0] for memory in ({}, {"theta": torch.full_like(w, 3.0)})
    )
    assert isinstance(first, Trained)
    assert isinstance(other, Trained)
    assert torch.equal(first.uploads.get("w"), other.uploads.get("w"))  # type: ignore[arg-type]
    assert torch.equal(first.memory["theta"], other.memory["theta"])


class Forgets(SGD):
    """Keeps what its first memory does not name."""

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        return {"w": state["w"]}, {"own": state["w"]}


class Names(Forgets):
    def first_memory(self, received: Vectors) -> Memory:
        return {"own": received["w"].clone()}


class More(Forgets):
    def first_memory(self, received: Vectors) -> Memory:
        return {"own": received["w"].clone(), "control": torch.zeros_like(received["w"])}


class OtherShape(Forgets):
    def first_memory(self, received: Vectors) -> Memory:
        return {"own": received["w"][:1].clone()}


class AfterAStep(Names):
    """A vector that the first step adds is kept too."""

    def step(self, state: State, batch: Any, grad: Any) -> State:
        return {**super().step(state, batch, grad), "c": grad(state["w"], batch)}

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        return {"w": state["w"]}, {"own": state["w"], "c": state["c"]}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Forgets, "Forgets.finish keeps 'own', and its first_memory gives nothing"),
        (More, "(here 'control')"),
        (AfterAStep, "(here 'c')"),
        (OtherShape, "'own' of shape [48], and its first_memory gives one of shape [1]"),
    ],
)
def test_a_method_of_ones_own_that_breaks_this_is_refused(kind: type[SGD], message: str) -> None:
    task = engine_of(federation_of([20, 20]), small_module(inputs=6)).task
    parameters = task.layout.parameters
    with pytest.raises(ConfigError) as refused:
        check_first_memory(task, kind(SGDSettings(name="mine", lr=0.1), task.layout))
    assert message.replace("[48]", f"[{parameters}]") in str(refused.value)
    assert "\n" not in str(refused.value)
    check_first_memory(task, Names(SGDSettings(name="mine", lr=0.1), task.layout))
