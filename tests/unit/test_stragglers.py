"""Clients that stop early: how much they train, that all engines agree, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedtl
from fedtl.config.read import read_config
from fedtl.data.batches import Budget
from fedtl.engine import Trained
from fedtl.engine.plan import share_of_work
from tests.parts import EACH_ENGINE, EngineKind, engine_of, federation_of, small_module, train_cohort, update_of

SIZES = [20, 12, 20, 7, 30, 25]


def test_of_e_epochs_any_number_is_as_likely() -> None:
    draws = 6000
    shares = np.array([share_of_work(0.6, 0, 1, client) for client in range(draws)])
    assert shares.min() > 0
    np.testing.assert_allclose(np.mean(shares < 1), 0.6, atol=4 * np.sqrt(0.25 / draws))
    epochs = np.array([Budget(10, epochs=5).of_share(share).epochs for share in shares])
    expected = [0.12, 0.12, 0.12, 0.12, 0.52]  # a fifth of those who stop early goes through all five
    np.testing.assert_allclose(np.bincount(epochs, minlength=6)[1:] / draws, expected, atol=4 * np.sqrt(0.25 / draws))
    assert Budget(10, steps=7).of_share(1e-9).steps == 1
    assert {share_of_work(0.0, 0, 1, client) for client in range(9)} == {1.0}


def trained(kind: EngineKind, name: str = "fedavg", **options: Any) -> list[Trained]:
    engine = engine_of(federation_of(SIZES), small_module(), kind)
    update = update_of(name, lr=0.1, batch_size=5, **options)
    w = engine.task.layout.flatten(engine.task.module)
    ends = train_cohort(engine, update, w, range(len(SIZES)), [{} for _ in SIZES], 3)
    assert all(isinstance(end, Trained) for end in ends), ends
    return [end for end in ends if isinstance(end, Trained)]


@EACH_ENGINE
def test_a_straggler_trains_as_one_who_is_asked_for_fewer_epochs(kind: EngineKind) -> None:
    late = trained(kind, local_epochs=4, stragglers=0.7)
    whole = {epochs: trained(kind, local_epochs=epochs) for epochs in range(1, 5)}
    epochs = [Budget(5, epochs=4).of_share(share_of_work(0.7, 0, 3, client)).epochs for client in range(len(SIZES))]
    assert len({*epochs}) > 2
    for client, (end, asked) in enumerate(zip(late, epochs)):
        assert asked is not None
        assert end.steps == whole[asked][client].steps == asked * -(-SIZES[client] // 5)
        torch.testing.assert_close(end.uploads["w"], whole[asked][client].uploads["w"], rtol=1e-5, atol=1e-6)


@EACH_ENGINE
def test_fednova_divides_by_the_steps_that_were_taken(kind: EngineKind) -> None:
    engine = engine_of(federation_of(SIZES), small_module())
    w = engine.task.layout.flatten(engine.task.module)
    plain, normalised = (trained(kind, name, local_steps=8, stragglers=1.0) for name in ("fedavg", "fednova"))
    assert len({end.steps for end in plain}) > 2
    for one, other in zip(plain, normalised):
        expected = w - (w - one.uploads["w"]) / one.steps
        torch.testing.assert_close(other.uploads["w"], expected, rtol=1e-5, atol=1e-6)


def tables(strategy: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "name": "stragglers",
        "rounds": 3,
        "data": {"name": "digits", "clients": 6, "samples": 300, **more},
        "model": {"name": "logistic"},
        "strategy": {"lr": 0.1, "clients_per_round": 3, **strategy},
        "simulation": {"grid": "in-process"},
    }


def test_a_round_says_how_many_steps_there_were(tmp_path: Path) -> None:
    run = fedtl.run(tables({"name": "fedavg", "local_steps": 10, "stragglers": 1.0}), out=tmp_path / "run")
    shares = [[share_of_work(1.0, 0, line["round"], client) for client in line["clients"]] for line in run.rounds]
    assert [line["steps"] for line in run.rounds] == [sum(int(np.ceil(10 * s)) for s in round) for round in shares]


@pytest.mark.parametrize(
    ("strategy", "scored", "held_out"),
    [
        ({"name": "fedavg-finetune", "finetune_steps": 4, "finetune_lr": 0.1}, "personal/clients", 0),
        ({"name": "ditto", "personal_lr": 0.1}, "personal/unseen-clients", 2),
    ],
)
def test_what_is_made_for_scoring_alone_is_made_whole(
    strategy: dict[str, Any], scored: str, held_out: int, tmp_path: Path
) -> None:
    """With a global model that stands still, nothing else could make a difference."""
    still = {**strategy, "lr": 1e-30, "local_steps": 6}
    runs = [
        fedtl.run(tables({**still, "stragglers": share}, held_out_clients=held_out), out=tmp_path / str(share))
        for share in (0.0, 1.0)
    ]
    assert [line["steps"] for line in runs[0].rounds] != [line["steps"] for line in runs[1].rounds]
    assert [line["scores"][scored] for line in runs[0].rounds] == [line["scores"][scored] for line in runs[1].rounds]


def test_one_epoch_cannot_be_cut() -> None:
    asked = ["strategy.name=fedavg", "strategy.local_steps=none", "strategy.stragglers=0.5"]
    _, notes = read_config("quickstart", [*asked, "strategy.local_epochs=1"])
    assert any(note.startswith("strategy.stragglers has no effect: a client goes through one epoch") for note in notes)
    _, notes = read_config("quickstart", [*asked, "strategy.local_epochs=2"])
    assert not any("stragglers" in note for note in notes)
