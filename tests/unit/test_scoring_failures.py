"""Scoring that fails, here and for a strategy of Flower's; and the watch over samples where no changes are counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Error, MessageType, RecordDict

import fedtl
from fedtl.clients.apfl import APFL
from fedtl.clients.ditto import Ditto
from fedtl.engine import OneByOne
from fedtl.engine.served import served
from fedtl.export.of_run import model_of_run
from fedtl.failure import RunError
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


def tables(method: str, personal: str, stacked: bool, **options: Any) -> dict[str, Any]:
    return {
        "name": "raises",
        "rounds": 1,
        "device": "cpu",
        "data": {"name": "digits", "clients": 4},
        "model": {"name": "logistic"},
        "strategy": {"name": method, "local_steps": 2, "lr": 0.1, **options},
        "evaluate": {"personal": personal},
        "simulation": {"grid": "in-process", "stacked": stacked, "traced": False},
    }


SINGULAR = "_LinAlgError: linalg.inv: the input matrix is singular"


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize(
    ("method", "asked", "personal"),
    [
        (Ditto, "personal", "adapted"),
        (Ditto, "personal", "stored"),
        (Ditto, "ensemble", "adapted"),
        (APFL, "first_memory", "stored"),
    ],
)
def test_a_client_whose_own_model_cannot_be_made_is_left_out_alone(
    method: type[Any], asked: str, personal: str, stacked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tables(method.__name__.lower(), personal, stacked, clients_per_round=3)
    whole = fedtl.run(config, out=tmp_path / "whole")
    # Who has never trained is the one that first_memory is asked of when it is scored.
    (last,) = {0, 1, 2, 3} - set(whole.rounds[0]["clients"])
    at = last if asked == "first_memory" else 2
    original, calls = getattr(method, asked), list[int]()

    def once(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == (1 if asked == "first_memory" else at + 1):
            raise torch.linalg.LinAlgError("linalg.inv: the input matrix is singular\nmore of it")
        return original(self, *arguments)

    with monkeypatch.context() as patch:

        def watched(*arguments: Any) -> Any:
            patch.setattr(method, asked, once)  # from now on, not while the round is trained
            return served(*arguments)

        patch.setattr("fedtl.wire.worker.served", watched)
        run = fedtl.run(config, out=tmp_path / "run")
    (line,), (all_of_it,) = run.rounds, whole.rounds
    assert line["failures"] == [{"client": at, "message": f"scoring: {SINGULAR}"}]
    assert [(score["scored"], score["of"]) for score in line["scores"].values() if "of" in score] == [(3, 4)] * 2
    assert line["clients"] == all_of_it["clients"]
    assert line["trained"] == all_of_it["trained"]
    (of_each,), (of_all,) = run.clients, whole.clients
    others = [place for place in range(4) if place != at]
    assert of_each["clients"] == others
    for score, table in of_all["scores"].items():
        assert of_each["scores"][score]["accuracy"] == [table["accuracy"][place] for place in others]


def test_a_model_that_cannot_be_made_is_not_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fedtl.run(tables("ditto", "stored", stacked=False), out=tmp_path / "run")

    def broken(*_: Any) -> Any:
        raise torch.linalg.LinAlgError("linalg.inv: the input matrix is singular")

    monkeypatch.setattr(Ditto, "personal", broken)
    with pytest.raises(RunError, match=f"^client 1's model cannot be made: {SINGULAR}$"):
        model_of_run(tmp_path / "run", client=1)


def test_a_model_that_raises_on_the_server_s_test_samples_goes_on_without_that_score(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).random((80, 3), np.float32), np.arange(80) % 2
    x_test = x[:10].copy()
    x_test[4, 1] = 9
    np.savez(tmp_path / "own.npz", x=x, y=y, x_test=x_test, y_test=y[:10])
    data: dict[str, Any] = {"name": "npz", "path": str(tmp_path / "own.npz"), "clients": 2, "normalise": "none"}
    data["partition"] = {"name": "iid"}
    tables = {
        "name": "picky",
        "rounds": 2,
        "data": data,
        "model": {"name": "tests.odd_models:Picky"},
        "strategy": {"name": "fedavg", "lr": 0.1, "local_steps": 1},
        "evaluate": {"every": 1},
        "simulation": {"grid": "in-process"},
    }
    fedtl.run(tables, out=tmp_path / "run")
    rounds = [json.loads(line)["scores"] for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    assert [set(scores) for scores in rounds] == [{"global/clients"}] * 2
    notes = json.loads((tmp_path / "run" / "environment.json").read_text())["notes"]
    (said,) = [note for note in notes if "has no score" in note]
    assert said.startswith("round 1 has no score 'global/server-test'")
    assert said.endswith("fails: ValueError: a 9 is not for me")


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
