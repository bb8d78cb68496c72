"""Scoring that fails, for a strategy of Flower's; and the watch over changed samples where tensors count no changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Error, MessageType, RecordDict

from fedtl.engine import OneByOne
from fedtl.wire import messages as m
from tests import odd_models
from tests.parts import METHODS, engine_of, federation_of, small_module, train_cohort, update_of, worker_of


def test_flower_s_strategies_are_told_of_a_client_that_cannot_be_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(federation_of([20] * 2, test=6), small_module())
    worker = worker_of(engine, update_of("fedavg", lr=0.1))
    content = RecordDict({m.ARRAYS: m.pack(worker.initial.numpy()), m.CONFIG: ConfigRecord({})})
    (reply,) = worker.handle(MessageType.EVALUATE, content, (0,))
    assert isinstance(reply.content, RecordDict)
    assert m.metrics_of(reply.content)[m.SAMPLES] != 0

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no such row")

    monkeypatch.setattr(type(engine), "score", broken)
    (reply,) = worker.handle(MessageType.EVALUATE, content, (0,))
    assert isinstance(reply.content, Error)
    assert "no such row" in reply.content.reason
    assert reply.clients == (0,)


def test_inference_mode_s_tensors_may_be_looked_at_after_samples_were_changed() -> None:
    engine = engine_of(federation_of([30] * 4, shape=(5,), classes=2), odd_models.Rarely((5,), 2), OneByOne)
    w = engine.task.layout.flatten(engine.task.module)
    train_cohort(engine, update_of("pfedme", **METHODS["pfedme"], batch_size=10), w, [0, 1, 2, 3], [{}] * 4, 1)
    local, x = engine.local, torch.full((3, 5), 0.05)  # which this model changes
    local.run(x)
    with pytest.raises(RuntimeError, match="changed its input"):
        local.run(x)
    with torch.inference_mode():
        assert local.run(torch.ones(3, 5))["logits"].shape == (3, 2)
