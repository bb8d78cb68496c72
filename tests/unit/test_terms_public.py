"""Learning from what clients say of public samples: FedMD's consensus at clients, FedDF's ensemble at the server."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

import fedtl
from fedtl.assemble.parts import make_tasks
from fedtl.choice import ConfigError
from fedtl.config.read import build, read_config
from fedtl.data.federate import federate
from fedtl.data.federation import Federation
from fedtl.disk.memories import MemoryStore
from fedtl.distill.ensemble import FromEnsemble, learn
from fedtl.engine import Engine, OneByOne, Trained
from fedtl.engine.task import RoundContext
from fedtl.losses.terms.public import PublicLogits
from fedtl.strategies import strategy_type
from tests.parts import ENGINES, train_cohort, update_of

PUBLIC = 40
SGD = {"lr": 0.1, "local_steps": 3, "batch_size": 8}
FEDMD = {"objective": [{"term": "cross_entropy"}, {"term": "consensus"}], "strategy": {"name": "local", **SGD}}
FEDDF = {"strategy": {"name": "feddf", **SGD, "distill_steps": 5, "distill_batch_size": 16}}


def tables(**more: Any) -> dict[str, Any]:
    return {
        "name": "public",
        "rounds": 3,
        "data": {
            "name": "digits",
            "clients": 4,
            "samples": 240,
            "partition": {"name": "dirichlet", "alpha": 0.5, "min_size": 9},
            "public": {"name": "digits", "samples": PUBLIC},
        },
        "model": {"name": "mlp", "hidden": [16]},
        "strategy": {"name": "fedavg", **SGD},
        "simulation": {"grid": "in-process"},
        **more,
    }


@functools.cache
def federation() -> Federation:
    return federate(build(tables()).data, 0)


def engine(kind: Any = OneByOne, **more: Any) -> Engine:
    (task,) = make_tasks(build(tables(**more)), federation())
    made: Engine = kind(task)
    return made


def consensus(**options: Any) -> dict[str, Any]:
    return {"objective": [{"term": "cross_entropy"}, {"term": "consensus", **options}]}


def trained(of: Engine, context: RoundContext | None = None, method: str = "fedavg", **options: Any) -> list[Trained]:
    w = of.task.layout.flatten(of.task.module)
    update = update_of(method, **{**SGD, **options})
    outcomes = train_cohort(of, update, w, range(4), [{}] * 4, 2, context or RoundContext())
    assert all(isinstance(outcome, Trained) for outcome in outcomes), outcomes
    return outcomes  # type: ignore[return-value]


def module_at(vector: torch.Tensor) -> nn.Module:
    (task,) = make_tasks(build(tables()), federation())
    task.layout.load(task.module, vector)
    return task.module.eval()


def public_inputs() -> torch.Tensor:
    data = federation()
    return torch.from_numpy(data.x[data.public] * data.scale + data.shift)


def test_the_statistic_is_the_logits_of_all_public_samples() -> None:
    for method in ("fedavg", "local"):
        of = engine(**consensus())
        each = []
        for outcome in trained(of, method=method):
            vector = outcome.uploads.get("w") if method == "fedavg" else outcome.memory["w"]
            assert vector is not None
            logits = module_at(vector)(public_inputs()).detach().numpy().astype(np.float64)
            (sent,) = outcome.statistics
            assert sent.dtype == torch.float64
            assert sent[0] == 1
            np.testing.assert_allclose(sent[1:].reshape(PUBLIC, 10), logits, rtol=1e-5, atol=1e-5)
            each.append(sent)
        merged = PublicLogits("x").merge(None, torch.stack(each).sum(0))
        np.testing.assert_allclose(merged, np.mean([sent[1:].numpy() for sent in each], 0), atol=1e-12)


@pytest.mark.parametrize("loss", ["mae", "mse", "kl"])
def test_the_consensus_term_by_hand(loss: str) -> None:
    """The value, and a step of SGD, against the gradient with respect to the logits written out."""
    rng = np.random.default_rng(0)
    agreed = rng.normal(size=(PUBLIC, 10))
    context = RoundContext(vectors={"statistic:consensus": torch.tensor(agreed.reshape(-1), dtype=torch.float32)})
    of = engine(**consensus(loss=loss, temperature=2.0, weight=0.5))
    got = trained(of, context, lr=0.2, local_steps=1)[1]
    plain = trained(engine(), lr=0.2, local_steps=1)[1]
    places = of.plans(update_of("fedavg", **{**SGD, "local_steps": 1}), 1, 2)[0].more["public"][0]
    assert len(places) == 8
    module = module_at(of.task.layout.flatten(engine().task.module))
    logits = module(public_inputs()[torch.from_numpy(places)])
    z, c = logits.detach().numpy().astype(np.float64), agreed[places]

    def softmax(a: Any) -> Any:
        e = np.exp(a - a.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    if loss == "kl":
        p, q = softmax(z / 2), softmax(c / 2)
        value, slope = 4 * (q * np.log(q / p)).sum() / 8, 2 * (p - q) / 8
    elif loss == "mse":
        value, slope = ((z - c) ** 2).mean(), 2 * (z - c) / z.size
    else:
        value, slope = np.abs(z - c).mean(), np.sign(z - c) / z.size
    assert got.losses[1] == pytest.approx(value, rel=1e-5)
    gradient = torch.autograd.grad(logits, list(module.parameters()), torch.tensor(slope, dtype=torch.float32))
    assert got.uploads.get("w") is not None
    assert plain.uploads.get("w") is not None
    expected = plain.uploads.get("w") - 0.2 * 0.5 * of.task.layout.flat(gradient)
    torch.testing.assert_close(got.uploads.get("w"), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", ["mae", "mse", "kl"])
def test_engines_agree(loss: str) -> None:
    agreed = torch.randn(PUBLIC * 10, generator=torch.Generator().manual_seed(0))
    context = RoundContext(vectors={"statistic:consensus": agreed})
    results = {}
    for name, kind in ENGINES.items():
        of = engine(kind, **consensus(loss=loss))
        results[name] = trained(of, context)
        if of.tracer:
            assert of.tracer.replays_all
    for name, outcomes in results.items():
        for outcome, expected in zip(outcomes, results["one by one"]):
            torch.testing.assert_close(
                outcome.uploads.get("w"), expected.uploads.get("w"), rtol=1e-4, atol=1e-5, msg=name
            )
            torch.testing.assert_close(outcome.statistics[0], expected.statistics[0], rtol=1e-4, atol=1e-4, msg=name)
            assert outcome.losses == pytest.approx(expected.losses, rel=1e-4)


def test_fedmd_begins_with_the_second_round_and_sends_logits_alone(tmp_path: Path) -> None:
    run = fedtl.run(tables(**FEDMD), out=tmp_path)
    assert [set(row["train"]) for row in run.rounds] == [{"cross_entropy"}, *[{"cross_entropy", "consensus"}] * 2]
    assert [row["bytes_down"] for row in run.rounds] == [0, 4 * PUBLIC * 10 * 4, 4 * PUBLIC * 10 * 4]
    assert [row["bytes_up"] for row in run.rounds] == [4 * (1 + PUBLIC * 10) * 4] * 3
    assert set(run.last()) == {"personal/clients"}


@pytest.mark.parametrize("method", [FEDMD, FEDDF])
def test_a_run_that_goes_on_ends_with_the_same_bits(method: dict[str, Any], tmp_path: Path) -> None:
    whole = fedtl.run(tables(**method, rounds=4), out=tmp_path / "a")
    fedtl.run(tables(**method, rounds=2), out=tmp_path / "b")
    again = fedtl.run(tables(**method, rounds=4), out=tmp_path / "b", resume=True)
    assert whole.last() == again.last()
    assert [row["train"] for row in whole.rounds] == [row["train"] for row in again.rounds]
    a, b = load_file(whole.path / "model.safetensors"), load_file(again.path / "model.safetensors")
    assert all(torch.equal(a[name], b[name]) for name in a)
    for client in range(4):
        kept, expected = (MemoryStore(run.path / "memories").load(client, 5) for run in (again, whole))
        assert bool(expected) == (method is FEDMD)
        assert kept.keys() == expected.keys()
        assert all(torch.equal(kept[name], expected[name]) for name in expected)


# FedDF.


def test_without_steps_feddf_is_fedavg_bit_for_bit(tmp_path: Path) -> None:
    without = {"strategy": {**FEDDF["strategy"], "distill_steps": 0}}
    a = fedtl.run(tables(), out=tmp_path / "a")
    b = fedtl.run(tables(**without), out=tmp_path / "b")
    c = fedtl.run(tables(**FEDDF), out=tmp_path / "c")
    models = [load_file(run.path / "model.safetensors") for run in (a, b, c)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    assert not all(torch.equal(models[0][name], models[2][name]) for name in models[0])
    assert [row["bytes_up"] for row in a.rounds] == [row["bytes_up"] for row in b.rounds]
    assert all(row["bytes_down"] == other["bytes_down"] for row, other in zip(a.rounds, c.rounds))


def test_the_server_learns_from_the_mean_of_the_uploads_logits(tmp_path: Path) -> None:
    """One round of FedDF by hand: upload by upload, Adam on KL written out with torch's own modules."""
    how = {"distill_steps": 3, "distill_batch_size": PUBLIC, "distill_lr": 0.01}
    run = fedtl.run(tables(rounds=1, strategy={**FEDDF["strategy"], **how}), out=tmp_path)
    of = engine()
    w = of.task.layout.flatten(of.task.module)
    outcomes = train_cohort(of, update_of("fedavg", **SGD), w, range(4), [{}] * 4, 1)
    uploads = [outcome.uploads.get("w") for outcome in outcomes]  # type: ignore[union-attr]
    sizes = torch.tensor([len(federation().train[client]) for client in range(4)], dtype=torch.float64)
    mean = (torch.stack(uploads).double() * (sizes / sizes.sum())[:, None]).sum(0).float()  # type: ignore[arg-type]
    x = public_inputs()
    teacher = torch.stack([module_at(upload)(x).detach() for upload in uploads]).mean(0)  # type: ignore[arg-type]
    student = module_at(mean)
    optimizer = torch.optim.Adam(student.parameters())
    for step in range(3):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 + math.cos(math.pi * step / 3)) / 2
        optimizer.zero_grad()
        F.kl_div(
            student(x).log_softmax(1), teacher.softmax(1), reduction="batchmean"
        ).backward()  # a batch of all public samples, so that their order is nothing
        optimizer.step()
    state = load_file(run.path / "model.safetensors")
    for name, expected in student.state_dict().items():
        torch.testing.assert_close(state[name], expected, rtol=1e-3, atol=2e-5)


def test_the_ensemble_teaches() -> None:
    """A student that is all zeros comes to agree with a teacher, its mode and the random state left alone."""
    x = public_inputs()
    (task,) = make_tasks(build(tables()), federation())
    teacher = task.module.eval()(x).detach() * 5
    student = nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(64, 10))
    nn.init.zeros_(student[2].weight)  # type: ignore[arg-type]
    nn.init.zeros_(student[2].bias)  # type: ignore[arg-type]
    before = torch.default_generator.get_state()
    learn(student, lambda places: x[torch.from_numpy(places)], teacher, FromEnsemble(400, 0.02, 16, 1.0, False), 0)
    assert torch.equal(torch.default_generator.get_state(), before)
    assert (student.eval()(x).argmax(1) == teacher.argmax(1)).float().mean() > 0.8


def test_feddf_keeps_no_logits_and_trains_no_frozen_part(tmp_path: Path) -> None:
    frozen = {"strategy": {**FEDDF["strategy"], "frozen": ["head"]}}
    run = fedtl.run(tables(**frozen), out=tmp_path)
    head = module_at(engine().task.layout.flatten(engine().task.module)).state_dict()
    state = load_file(run.path / "model.safetensors")
    same = [name for name in head if torch.equal(state[name], head[name])]
    assert len(same) == 2  # weight and bias of the head
    assert not [file for file in (run.path / "checkpoint").iterdir() if b"ensemble" in file.read_bytes()]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (consensus(), r"objective\[1\]: the term 'consensus' needs public data; there are none: set data.public"),
        (FEDDF, "strategy.name = 'feddf': its server learns from public data; there are none: set data.public"),
    ],
)
def test_public_data_are_asked_for(change: dict[str, Any], says: str) -> None:
    config = tables(**change)
    config["data"] = {key: value for key, value in config["data"].items() if key != "public"}
    with pytest.raises(ConfigError, match=says):
        build(config)


def test_errors_and_notes() -> None:
    with pytest.raises(ConfigError, match=r"private = \['head'\]: the server distils the whole model; leave it out"):
        build(tables(strategy={**FEDDF["strategy"], "private": ["head"]}))
    for change, lines in (({}, 1), (FEDDF, 0), (consensus(), 0)):
        assert sum("data.public has no effect" in note for note in read_config(tables(**change))[1]) == lines


def test_no_other_method_asks_for_statistics() -> None:
    settings = build(tables()).strategy
    assert strategy_type("fedavg").statistics(settings) == ()
