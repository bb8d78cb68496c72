"""What clients' private parts begin with: the same values, or each client's own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import fedtl
from fedtl.assemble.parts import make_tasks
from fedtl.choice import ConfigError
from fedtl.config.read import build, read_config
from fedtl.data.federate import federate
from fedtl.engine.task import Task
from fedtl.export.of_run import model_of_run
from tests.parted import Parted, assert_same, descend
from tests.parts import EACH_ENGINE, EngineKind, federation_of

SIZES = [4, 6, 9]
QUICK = {"grid": "in-process", "stacked": False, "traced": False}


def tables(strategy: dict[str, Any], **other: Any) -> dict[str, Any]:
    return {
        "name": "private-start",
        "rounds": 1,
        "data": {"name": "digits", "clients": 4, "samples": 100, "partition": {"name": "iid"}},
        "model": {"name": "mlp", "hidden": [8]},
        "strategy": {"clients_per_round": 2, "local_steps": 1, "lr": 0.1, **strategy},
        "simulation": QUICK,
        **other,
    }


def task_of(config: dict[str, Any]) -> Task:
    read = build(config)
    return make_tasks(read, federate(read.data, read.seed))[0]


def test_each_client_draws_for_itself_as_the_model_does() -> None:
    """Other numbers at each client and for each seed, within what torch's linear layer draws."""
    task, other = (task_of(tables({"name": "fedper"}, seed=seed)) for seed in (0, 1))
    assert task.first_private is not None
    assert other.first_private is not None
    assert task.sharing is not None
    drawn = torch.stack([task.first_private(client) for client in range(4)])
    assert torch.equal(drawn[2], task.first_private(2))
    common = task.layout.flatten(task.module)[task.sharing.private]
    assert len({row.tobytes() for row in (*drawn.numpy(), common.numpy(), other.first_private(0).numpy())}) == 6
    limit = 8**-0.5
    assert drawn.shape == (4, 10 * 8 + 10)
    assert limit * 0.9 < drawn.abs().max() <= limit
    torch.testing.assert_close(drawn.std(), torch.tensor(limit / 3**0.5), rtol=0.15, atol=0.0)


def test_what_is_not_private_is_not_drawn(tmp_path: Path) -> None:
    """The base that travels is that of the same run with common heads, before the first round."""
    own, common = (
        task_of(tables({"name": "fedrep", "private_start": start, "local_steps": None})) for start in ("own", "common")
    )
    assert common.first_private is None
    assert torch.equal(own.layout.flatten(own.module), common.layout.flatten(common.module))


@EACH_ENGINE
@pytest.mark.parametrize("method", ["fedavg", "lg-fedavg"])
def test_a_round_from_parts_of_ones_own(method: str, kind: EngineKind) -> None:
    table = {"name": method, "private": ["body"], "private_start": "own"}
    run = Parted(table, federation_of(SIZES), [[0, 1, 2]], kind)
    run.rounds()
    for client in range(3):
        module = run.begun(client)
        descend(module, [*module.parameters()], *run.samples(client), lr=0.2)
        assert_same(run.served(client).body, module.body)


def test_terms_see_the_clients_own_first_model() -> None:
    """MOON's contrast of the received model with the run's first one is none before the first step."""
    moon = [{"term": "cross_entropy"}, {"term": "moon", "weight": 0.5, "previous": "initial"}]
    run = Parted({"name": "fedper", "private": ["body"]}, federation_of(SIZES), [[0, 1, 2]], objective=moon)
    run.rounds()
    assert run.losses[0]["moon"] == pytest.approx(math.log(2), rel=1e-6)


def test_a_module_of_a_term_begins_alike_at_all_clients() -> None:
    terms = [{"term": "cross_entropy"}, {"term": "simclr", "weight": 0.1, "shared": False}]
    images = {"views": {}, "data": {"name": "digits", "clients": 4, "samples": 100}, "objective": terms}
    task = task_of(tables({"name": "fedper"}, **images))
    assert task.first_private is not None
    assert task.sharing is not None
    first, second = task.first_private(0), task.first_private(1)
    extras = torch.cat([torch.arange(s.start, s.stop) for s in task.layout.slots if s.name.startswith("extras.")])
    of_term = torch.isin(task.sharing.private, extras)
    assert of_term.any()
    assert torch.equal(first[of_term], second[of_term])
    assert not torch.equal(first[~of_term], second[~of_term])


@EACH_ENGINE
def test_a_second_model_of_a_clients_begins_with_its_own_parts_too(kind: EngineKind) -> None:
    """Ditto's v_k is the run's initial model as that client has it."""
    table = {"name": "ditto", "lam": 0.0, "personal_lr": 1e-12, "private": ["head"], "private_start": "own"}
    run = Parted(table, federation_of(SIZES), [[0, 1, 2]], kind)
    run.rounds()
    for client in range(3):
        v = run.module(run.memory(client)["v"])
        assert_same(v, run.begun(client))


@EACH_ENGINE
def test_a_client_without_a_model_of_its_own_is_scored_with_its_own_parts(kind: EngineKind) -> None:
    """Under a method that counts it as one without; the head of the model's initialisation is nobody's."""
    table = {"name": "fedavg", "private": ["head"], "private_start": "own"}
    run = Parted(table, federation_of(SIZES), [[0, 1]], kind)
    (sent,) = run.rounds()
    module = run.global_model(sent)
    module.head = run.begun(2).head
    x, y = run.task.samples.batch(run.federation.test[2])
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(module(x), y, reduction="sum").item()
    assert run.score_of(2)["personal/loss_sum"] == pytest.approx(loss, rel=1e-5)


def test_a_client_that_has_not_trained_is_served_and_exported_with_its_own(tmp_path: Path) -> None:
    config = tables({"name": "fedper"})
    run = fedtl.run(config, out=tmp_path / "run")
    (row,) = (line["scores"]["personal/clients"] for line in run.rounds)
    assert row["clients_without"] == 0
    task, everybodys = task_of(config), load_file(run.path / "model.safetensors")
    assert task.first_private is not None
    for client in {*range(4)} - {*run.rounds[0]["clients"]}:
        own = dict(model_of_run(run.path, client).module.named_parameters())
        head = [name for name in own if name.startswith("head.")]
        assert torch.equal(torch.cat([own[name].flatten() for name in head]), task.first_private(client))
        assert all(torch.equal(own[name], everybodys[name]) for name in own if name not in head)


def test_with_pretrained_weights_all_begin_with_those(tmp_path: Path) -> None:
    first = fedtl.run(tables({"name": "fedavg"}), out=tmp_path / "first")
    model = {"name": "mlp", "hidden": [8], "pretrained": str(first.path / "model.safetensors")}
    config = tables({"name": "fedper"}, model=model)
    assert task_of(config).first_private is None
    assert not [note for note in read_config(config)[1] if "private_start" in note]
    (note,) = (
        note
        for note in read_config(tables({"name": "fedper", "private_start": "own"}, model=model))[1]
        if "private_start" in note
    )
    assert note == ("strategy.private_start has no effect: with model.pretrained all clients begin alike")
    run = fedtl.run(config, out=tmp_path / "run")
    (first.path / "model.safetensors").unlink()
    left_out = next(client for client in range(4) if client not in run.rounds[0]["clients"])
    own = dict(model_of_run(run.path, left_out).module.named_parameters())
    weights = load_file(run.path / "model.safetensors")
    assert torch.equal(own["head.weight"], weights["head.weight"])


@pytest.mark.parametrize(
    ("strategy", "why"),
    [
        ({"name": "fedavg"}, "no part of the model is private"),
        ({"name": "fedper", "private": []}, "no part of the model is private"),
        ({"name": "local"}, "under local the whole model stays at the client"),
    ],
)
def test_where_nothing_is_private_it_says_so(strategy: dict[str, Any], why: str) -> None:
    notes = read_config(tables({**strategy, "private_start": "own"}))[1]
    assert f"strategy.private_start has no effect: {why}" in notes


def test_it_is_the_same_in_all_phases() -> None:
    phases = [{"rounds": 1}, {"rounds": 1, "strategy": {"private_start": "common"}}]
    config = {key: value for key, value in tables({"name": "fedper"}, phases=phases).items() if key != "rounds"}
    with pytest.raises(ConfigError, match=r"phases\[1\]\.strategy\.private_start: it is the same in all phases"):
        build(config)
