"""FedPer (Arivazhagan et al. 2019): base layers are shared, the head stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fedtl
from fedtl.clients.serving import Serving
from fedtl.config.read import read_config
from fedtl.export.of_run import model_of_run
from tests.parted import Parted, assert_same, descend, mean
from tests.parts import EACH_ENGINE, EngineKind, federation_of

SIZES = [4, 6, 9]


@EACH_ENGINE
def test_a_round_worked_out_by_hand(kind: EngineKind) -> None:
    """(W_B, W_P,j) ← SGD_j(W_B, W_P,j), and W_B ← Σ γ_j W_B,j, of two clients of three."""
    run = Parted({"name": "fedper"}, federation_of(SIZES), [[0, 2]], kind)
    (sent,) = run.rounds()
    trained = {client: run.begun(client) for client in (0, 2)}
    for client, module in trained.items():
        descend(module, [*module.parameters()], *run.samples(client), lr=0.2)
    base = mean([module.body for module in trained.values()], [SIZES[0], SIZES[2]])
    assert_same(run.global_model(sent).body, base)
    assert len(sent) == sum(p.numel() for p in base)
    for client in range(3):
        own = run.served(client)
        assert_same(own.body, base)
        # Who has never trained is served by its first head, which is no mean of others' heads.
        assert_same(own.head, trained.get(client, run.begun(client)).head, exactly=client not in trained)


@pytest.mark.parametrize("start", ["own", "common"])
def test_a_client_that_enters_later_begins_with_its_first_head(start: str) -> None:
    run = Parted({"name": "fedper", "private_start": start}, federation_of(SIZES), [[0, 2], [1]])
    first, _ = run.rounds()
    module = run.global_model(first)
    if start == "common":
        assert_same(module.head, run.begun().head, exactly=True)
    module.head = run.begun(1).head
    descend(module, [*module.parameters()], *run.samples(1), lr=0.2)
    assert_same(run.served(1), module)


def test_without_a_private_part_it_is_fedavg() -> None:
    rounds = [
        Parted(table, federation_of(SIZES), [[0, 1], [1, 2]]).rounds()
        for table in ({"name": "fedper", "private": []}, {"name": "fedavg"})
    ]
    assert all(map(torch.equal, *rounds))


def test_it_is_fedavg_with_a_private_head() -> None:
    runs = [
        Parted(table, federation_of(SIZES), [[0, 1], [1, 2], [0, 2]])
        for table in (
            {"name": "fedper", "private_start": "common", "momentum": 0.5},
            {"name": "fedavg", "private": ["head"], "momentum": 0.5},
        )
    ]
    assert all(map(torch.equal, *(run.rounds() for run in runs)))
    for client in range(3):
        one, other = (run.memory(client) for run in runs)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_everybody_is_scored_in_a_run(tmp_path: Path) -> None:
    """Two of six clients take part in the only round."""
    few = ["rounds=1", "data.clients=6", "data.partition.min_size=5", "strategy.clients_per_round=2"]
    few += ["strategy.local_steps=1", "simulation.grid=in-process"]
    run = fedtl.run("quickstart", [*few, "strategy.name=fedper"], out=tmp_path / "run")
    (row,) = (line["scores"]["personal/clients"] for line in run.rounds)
    assert (row["model"], row["clients_without"]) == (Serving.PARTIAL, 0)
    left_out = next(client for client in range(6) if client not in run.rounds[0]["clients"])
    assert isinstance(model_of_run(run.path, left_out).module, torch.nn.Module)


def test_a_word_on_which_model_is_scored_is_answered() -> None:
    _, notes = read_config("quickstart", ["strategy.name=fedper", "evaluate.personal=stored"])
    assert [note for note in notes if "personal" in note] == [
        "evaluate.personal has no effect: a client's own model is always the global one with its own head"
    ]
