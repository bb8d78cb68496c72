"""Teachers, peers, prototypes, anchors: against plain torch and numpy; and starting from pretrained weights."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

import fedtl
from fedtl.assemble.parts import make_tasks
from fedtl.choice import ConfigError
from fedtl.config.read import build
from fedtl.data.federate import federate
from fedtl.data.federation import Federation
from fedtl.data.torchvision_ops import import_torchvision
from fedtl.disk.memories import MemoryStore
from fedtl.engine import OneByOne, Trained
from fedtl.engine.module import ClientObjective
from fedtl.engine.task import PRIVATE, Outcome, RoundContext, Task
from fedtl.losses.batch import Batch
from fedtl.losses.terms.prototypes import ClassMeans
from fedtl.models import build_model, read_model
from fedtl.models.vector import WIDE
from fedtl.runs.checkpoint import read_checkpoint
from fedtl.runs.record import Recorder
from tests.parts import ENGINES, EngineKind, train_cohort, update_of

HIDDEN, CLASSES = 12, 10
MODEL = 64 * HIDDEN + HIDDEN + HIDDEN * CLASSES + CLASSES
DIGITS = {"name": "digits", "clients": 4, "samples": 200, "partition": {"name": "dirichlet", "alpha": 1.0}}


def tables(*terms: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "name": "teaching",
        "seed": 1,
        "rounds": 3,
        "device": "cpu",
        "data": DIGITS,
        "model": {"name": "mlp", "hidden": [HIDDEN]},
        "strategy": {"name": "fedavg", "lr": 0.05, "local_epochs": 1, "batch_size": 8},
        "objective": list(terms),
        "evaluate": {"every": 3},
        "simulation": {"grid": "in-process"},
        **more,
    }


@functools.cache
def federation() -> Federation:
    return federate(build(tables({"term": "cross_entropy"})).data, 1)


def task_of(*terms: dict[str, Any]) -> Task:
    (task,) = make_tasks(build(tables(*terms)), federation())
    return task


# --- each term by hand ------------------------------------------------------------------------------------


def linear(w: Tensor, at: int, inputs: int, outputs: int, x: Tensor) -> Tensor:
    """A linear layer whose numbers begin at ``at`` in a vector."""
    middle = at + inputs * outputs
    weight = w[at:middle].view(inputs, outputs) if outputs >= WIDE else w[at:middle].view(outputs, inputs).T
    return x @ weight + w[middle : middle + outputs]


def mlp(w: Tensor, x: Tensor, at: int = 0, hidden: int = HIDDEN) -> tuple[Tensor, Tensor]:
    """Features and logits of the network as it stands in a vector."""
    z = linear(w, at, 64, hidden, x.flatten(1)).relu()
    return z, linear(w, at + 65 * hidden, hidden, CLASSES, z)


def noisy(w: Tensor, seed: int) -> Tensor:
    return w + 0.1 * torch.randn(len(w), generator=torch.Generator().manual_seed(seed))


def kl(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    log_student = (student / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(log_student, (teacher / temperature).softmax(1), reduction="batchmean")


SEEN = torch.tensor([1.0, 1, 0, 1, 1, 1, 1, 0, 1, 1])
GENERATOR = torch.Generator().manual_seed(8)
MEANS, MEAN_LOGITS = (torch.randn(CLASSES, d, generator=GENERATOR) for d in (HIDDEN, CLASSES))
MEANS[2] = torch.nan  # of a class that nobody had


class Seen:
    """What a term's value is made of, in one place."""

    def __init__(self, w: Tensor, vectors: dict[str, Tensor], x: Tensor, y: Tensor) -> None:
        self.w, self.x, self.y, self.vectors = w, x, y, vectors

    def other(self, model: str) -> Tensor:
        return self.vectors[f"model:{model}"]


def by_hand_distillation(s: Seen, model: str = "global", temperature: float = 4.0) -> Tensor:
    return kl(mlp(s.other(model), s.x)[1], mlp(s.w, s.x)[1], temperature)


def by_hand_unscaled(s: Seen) -> Tensor:
    return by_hand_distillation(s, "initial", 3.0) / 9


def by_hand_mutual(s: Seen, alpha: tuple[float, float, float] = (1, 1, 1)) -> Tensor:
    ours, peer = mlp(s.w, s.x)[1], mlp(s.w, s.x, MODEL, 7)[1]
    a, b, c = alpha
    return a * F.cross_entropy(peer, s.y) + b * kl(ours.detach(), peer) + c * kl(peer.detach(), ours)


def by_hand_fml(s: Seen) -> Tensor:
    return by_hand_mutual(s, (0.3, 0.7, 0.2))


def contrast(z: Tensor, z_global: Tensor, z_previous: Tensor) -> Tensor:
    """As the authors compute it: cross-entropy of the similarities, the first being right."""
    similar = [F.cosine_similarity(z, other, dim=1) for other in (z_global, z_previous)]
    return F.cross_entropy(torch.stack(similar, 1) / 0.5, torch.zeros(len(z), dtype=torch.long))


def by_hand_moon(s: Seen) -> Tensor:
    return contrast(*(mlp(w, s.x)[0] for w in (s.w, s.other("global"), s.other("previous"))))


def by_hand_moon_projected(s: Seen) -> Tensor:
    def projected(w: Tensor) -> Tensor:
        first = linear(w, MODEL, HIDDEN, HIDDEN, mlp(w, s.x)[0]).relu()
        return linear(w, MODEL + HIDDEN * (HIDDEN + 1), HIDDEN, 6, first)

    return contrast(*(projected(w) for w in (s.w, s.other("global"), s.other("previous"))))


def by_hand_prototype(s: Seen) -> Tensor:
    z, _ = mlp(s.w, s.x)
    squares = [(z[i] - MEANS[c]).square().sum() for i, c in enumerate(s.y.tolist()) if SEEN[c]]
    return sum(squares, torch.zeros(())) / z.numel()


def by_hand_class_logits(s: Seen) -> Tensor:
    logits = mlp(s.w, s.x)[1].log_softmax(1)
    values = []
    for i, c in enumerate(s.y.tolist()):
        p = MEAN_LOGITS[c].softmax(0)
        values.append(SEEN[c] * (p * (p.log() - logits[i])).sum())
    return torch.stack(values).mean()


def by_hand_proximal(s: Seen) -> Tensor:
    return 0.5 * (s.w - s.other("global")[: len(s.w)]).square().sum()


def by_hand_l2_sp(s: Seen) -> Tensor:
    body, start = s.w[: 65 * HIDDEN], s.other("initial")[: 65 * HIDDEN]
    return 0.05 * (body - start).square().sum() + 0.005 * s.w[65 * HIDDEN : MODEL].square().sum()


def by_hand_l2_sp_all(s: Seen) -> Tensor:
    return 0.05 * (s.w - s.other("initial")).square().sum()


PEER = {"term": "mutual", "peer": {"name": "mlp", "hidden": [7]}}
TERMS: dict[str, tuple[dict[str, Any], Callable[[Seen], Tensor]]] = {
    "distillation": ({"term": "distillation"}, by_hand_distillation),
    "from the phase's model": (
        {"term": "distillation", "teacher": "phase", "stream": "source"},
        functools.partial(by_hand_distillation, model="phase"),
    ),
    "without T²": (
        {"term": "distillation", "teacher": "initial", "temperature": 3, "scale_t2": False},
        by_hand_unscaled,
    ),
    "mutual, DML": (PEER, by_hand_mutual),
    "mutual, FML": ({**PEER, "alpha": 0.3, "beta": 0.8}, by_hand_fml),
    "moon": ({"term": "moon"}, by_hand_moon),
    "moon with a projector": ({"term": "moon", "projector": 6}, by_hand_moon_projected),
    "prototype": ({"term": "prototype"}, by_hand_prototype),
    "class_logits": ({"term": "class_logits"}, by_hand_class_logits),
    "proximal": ({"term": "proximal"}, by_hand_proximal),
    "l2_sp": ({"term": "l2_sp"}, by_hand_l2_sp),
    "l2_sp of an old head": ({"term": "l2_sp", "new_head": False}, by_hand_l2_sp_all),
}


def batch_of(n: int = 16) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    return x, torch.arange(n) % CLASSES


@pytest.mark.parametrize("kind", TERMS)
def test_value_and_gradient_are_those_worked_out_by_hand(kind: str) -> None:
    table, by_hand = TERMS[kind]
    task = task_of(table)
    w = noisy(task.layout.flatten(task.module), 0)
    names = ["global", "previous", "phase", "initial"]
    vectors = {f"model:{name}": noisy(w, 1 + i) for i, name in enumerate(names)}
    vectors["statistic:prototype"] = torch.cat([SEEN, MEANS.reshape(-1)])
    vectors["statistic:class_logits"] = torch.cat([SEEN, MEAN_LOGITS.reshape(-1)])
    task.layout.load(task.module, w)
    local, parameters = (
        ClientObjective(task.module, task.layout, task.objective, task.frozen),
        [*task.module.parameters()],
    )
    x, y = batch_of()
    value, (recorded,) = local(Batch(x, y, None), vectors, lambda: task.layout.flat(parameters))
    gradient = task.layout.flat(torch.autograd.grad(value, parameters, materialize_grads=True))

    leaf = w.clone().requires_grad_()
    expected = by_hand(Seen(leaf, vectors, x, y))
    (slope,) = torch.autograd.grad(expected, leaf)
    assert expected > 0
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(recorded, value)
    torch.testing.assert_close(gradient, slope, rtol=1e-4, atol=1e-6)

    # Padding counts nothing.
    weight = torch.cat([torch.ones(16), torch.zeros(3)])
    padded = Batch(torch.cat([x, x[:3]]), torch.cat([y, y[:3]]), weight)
    other, _ = local(padded, vectors, lambda: task.layout.flat(parameters))
    torch.testing.assert_close(other, value, rtol=1e-5, atol=1e-6)
    again = task.layout.flat(torch.autograd.grad(other, parameters, materialize_grads=True))
    torch.testing.assert_close(again, gradient, rtol=1e-4, atol=1e-6)


def test_distillation_is_the_loss_function_to_the_bit() -> None:
    task = task_of({"term": "distillation", "temperature": 2.5})
    w = task.layout.flatten(task.module)
    local, (x, y), vectors = (
        ClientObjective(task.module, task.layout, task.objective),
        batch_of(),
        {"model:global": noisy(w, 1)},
    )
    value, _ = local(Batch(x, y, None), vectors, lambda: task.layout.flat(task.module.parameters()))
    logits, teacher_logits = task.module(x), local.run_under(vectors["model:global"], x)["logits"]
    assert torch.equal(value, fedtl.losses.distillation(logits, teacher_logits, temperature=2.5))


def test_moon_of_a_first_round_has_no_gradient() -> None:
    task = task_of({"term": "moon"})
    received = noisy(task.layout.flatten(task.module), 1)
    local, parameters, (x, y) = (
        ClientObjective(task.module, task.layout, task.objective),
        [*task.module.parameters()],
        batch_of(),
    )
    vectors = {"model:global": received, "model:previous": received}
    value, _ = local(Batch(x, y, None), vectors, lambda: task.layout.flat(parameters))
    assert value.item() == pytest.approx(np.log(2))
    assert not task.layout.flat(torch.autograd.grad(value, parameters, materialize_grads=True)).any()


# --- engines ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of another architecture, with a file."""
    file = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_file(build_model(read_model({"name": "mlp", "hidden": [9, 8]}), (1, 8, 8), CLASSES, 5).state_dict(), file)
    return file


def trained(make: EngineKind, *terms: dict[str, Any], rounds: int = 3) -> list[Outcome]:
    """All clients' outcomes of the last round; the first client's model stands for the mean."""
    task = task_of(*terms)
    engine, update = make(task), update_of("fedavg", lr=0.05, local_epochs=1, batch_size=8)
    w = task.layout.flatten(task.module)
    vectors = {"model:phase": noisy(w, 1)}
    memories: list[Any] = [{}] * 4
    outcomes: list[Outcome] = []
    for round in range(1, rounds + 1):
        outcomes = train_cohort(engine, update, w, range(4), memories, round, RoundContext(0.5, vectors))
        memories = [outcome.memory for outcome in outcomes]  # type: ignore[union-attr]
        w = outcomes[0].uploads.get("w")  # type: ignore[union-attr, assignment]
        for i, statistic in enumerate(task.objective.statistics):
            total = sum(outcome.statistics[i] for outcome in outcomes)  # type: ignore[union-attr, misc]
            before = vectors.get(f"statistic:{statistic.name}")
            vectors[f"statistic:{statistic.name}"] = statistic.merge(before, total).float()
    assert engine.tracer is None or engine.tracer.replays_all
    return outcomes


VARIANTS = {**{kind: table for kind, (table, _) in TERMS.items()}, "a teacher's file": {"term": "distillation"}}


@pytest.mark.parametrize("kind", VARIANTS)
def test_engines_train_the_same_with_padding(kind: str, teacher: Path) -> None:
    table = {**VARIANTS[kind], "weight": 0.5}
    if kind == "a teacher's file":
        table["teacher"] = {"file": str(teacher), "model": {"name": "mlp", "hidden": [9, 8]}}
    results = {name: trained(make, {"term": "cross_entropy"}, table) for name, make in ENGINES.items()}
    for name, outcomes in results.items():
        for a, b in zip(results["one by one"], outcomes):
            assert isinstance(a, Trained), name
            assert isinstance(b, Trained), name
            assert a.uploads.get("w") is not None
            assert b.uploads.get("w") is not None
            torch.testing.assert_close(b.uploads.get("w"), a.uploads.get("w"), rtol=1e-3, atol=2e-5)
            assert b.losses == pytest.approx(a.losses, rel=1e-3, abs=1e-5)
            assert a.memory.keys() == b.memory.keys()


def test_the_proximal_term_is_fedprox() -> None:
    task = task_of({"term": "cross_entropy"}, {"term": "proximal", "weight": 0.7})
    plain = task_of({"term": "cross_entropy"})
    w, options = task.layout.flatten(task.module), {"lr": 0.05, "local_epochs": 2, "batch_size": 8}
    ours = train_cohort(OneByOne(task), update_of("fedavg", **options), w, range(4), [{}] * 4, 1)
    theirs = train_cohort(OneByOne(plain), update_of("fedprox", mu=0.7, **options), w, range(4), [{}] * 4, 1)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a.uploads.get("w"), b.uploads.get("w"), rtol=1e-5, atol=1e-6)  # type: ignore[union-attr]


def test_the_files_teacher_is_the_one_that_is_learnt_from(teacher: Path) -> None:
    teacher_options = {"file": str(teacher), "model": {"name": "mlp", "hidden": [9, 8]}}
    task = task_of({"term": "distillation", "teacher": teacher_options, "temperature": 2})
    assert task.layout.size == MODEL  # it is no part of the vector
    net = build_model(read_model(teacher_options["model"]), (1, 8, 8), CLASSES, 0)  # type: ignore[arg-type]
    net.load_state_dict(load_file(teacher))
    x, y = batch_of()
    local = ClientObjective(task.module, task.layout, task.objective, task.frozen)
    value, _ = local(Batch(x, y, None), {}, lambda: task.layout.flat(task.module.parameters()))
    torch.testing.assert_close(value, kl(net(x), task.module(x), 2.0))


def test_a_peer_of_weight_zero_is_no_part_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "peers.py").write_text(
        "from torch import nn\n"
        "def normed():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.Linear(6, 10))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for weight in (0, 1):
        term = {"term": "mutual", "peer": {"name": "peers:normed"}, "weight": weight}
        task = task_of({"term": "cross_entropy"}, term)
        w = task.layout.flatten(task.module)
        (outcome,) = train_cohort(
            OneByOne(task), update_of("fedavg", lr=0.1, batch_size=8, local_steps=2), w, [0], [{}], 1
        )
        assert isinstance(outcome, Trained)
        assert torch.tensor(outcome.losses).isfinite().all()
        if weight == 0:
            assert len(w) == MODEL
            assert PRIVATE not in outcome.memory
        else:
            assert not torch.equal(outcome.memory[PRIVATE], w[task.sharing.private])  # type: ignore[union-attr]


# --- statistics -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("average", ["samples", "clients"])
@pytest.mark.parametrize("layer", ["features", "logits"])
def test_prototypes_over_clients_are_numpys_over_all_samples(layer: str, average: str) -> None:
    task = task_of({"term": "prototype", "layer": layer, "average": average})
    engine, data = OneByOne(task), federation()
    w = noisy(task.layout.flatten(task.module), 3)
    (statistic,) = task.objective.statistics
    totals = [engine.statistics(w, client)[0] for client in range(4)]
    prototypes = statistic.merge(None, torch.stack(totals).sum(0))

    x = torch.from_numpy(data.x).float() * torch.as_tensor(data.scale) + torch.as_tensor(data.shift)
    outputs = dict(zip(("features", "logits"), (out.numpy() for out in mlp(w, x))))[layer].astype(np.float64)
    d = outputs.shape[1]
    seen, means = prototypes[:CLASSES].numpy(), prototypes[CLASSES:].view(CLASSES, d).numpy()
    for c in range(CLASSES):
        each = [index[data.y[index] == c] for index in (data.train[i] for i in range(4))]
        parts = [outputs[index] for index in each if len(index)]
        assert seen[c] == bool(parts)
        if parts:
            joined = np.concatenate(parts) if average == "samples" else np.stack([part.mean(0) for part in parts])
            np.testing.assert_allclose(means[c], joined.mean(0), rtol=1e-4, atol=1e-6)


def test_a_class_that_nobody_had_keeps_its_prototype() -> None:
    statistic = ClassMeans("it")

    def sums(labels: list[int], features: list[list[float]]) -> Tensor:
        layers = {"logits": torch.zeros(len(labels), 3), "features": torch.tensor(features).reshape(-1, 2)}
        return statistic.collect([(layers, torch.tensor(labels, dtype=torch.long))])

    first = statistic.merge(None, sums([0, 0, 1], [[1, 2], [3, 4], [5, 6]]) + sums([1], [[7, 8]]))
    assert first.tolist() == [1, 1, 0, 2, 3, 6, 7, 0, 0]
    second = statistic.merge(first.float(), sums([2, 0], [[1, 1], [9, 9]]) + sums([], []))
    assert second.tolist() == [1, 1, 1, 9, 9, 6, 7, 1, 1]
    assert not sums([], []).any()  # the server passes over a round in which nobody had samples


# --- runs -------------------------------------------------------------------------------------------------


def test_fedproto_sends_prototypes_alone(tmp_path: Path) -> None:
    config = tables({"term": "cross_entropy"}, {"term": "prototype"}, rounds=4)
    config["data"] = {"name": "digits", "clients": 10, "partition": {"name": "pathological", "classes_per_client": 2}}
    config["strategy"] = {"name": "local", "lr": 0.05, "local_epochs": 2, "batch_size": 10, "clients_per_round": 6}
    run = fedtl.run(config, out=tmp_path / "run")
    k, d = CLASSES, HIDDEN
    assert [r["bytes_up"] for r in run.rounds] == [6 * 4 * (2 + k + k * d)] * 4
    assert [r["bytes_down"] for r in run.rounds] == [0] + [6 * 4 * (k + k * d)] * 3
    assert ["prototype" in r["train"] for r in run.rounds] == [False, True, True, True]
    assert all(not r["failures"] for r in run.rounds)
    assert run.last()["personal/clients"].value > 0.9


def test_federated_distillation_by_class_runs(tmp_path: Path) -> None:
    config = tables({"term": "cross_entropy"}, {"term": "class_logits", "weight": 0.2})
    config["strategy"] = {"name": "local", "lr": 0.05, "local_epochs": 1, "batch_size": 10}
    run = fedtl.run(config, out=tmp_path / "run")
    assert [r["bytes_up"] for r in run.rounds] == [4 * 4 * (2 + CLASSES + CLASSES**2)] * 3
    assert "class_logits" in run.rounds[1]["train"]


def test_moon_of_weight_zero_is_fedavg_to_the_bit(tmp_path: Path) -> None:
    plain = fedtl.run(tables({"term": "cross_entropy"}), out=tmp_path / "plain")
    moon = fedtl.run(tables({"term": "cross_entropy"}, {"term": "moon", "weight": 0}), out=tmp_path / "moon")
    a, b = plain.state_dict(), moon.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert [r.get("scores") for r in plain.rounds] == [r.get("scores") for r in moon.rounds]
    assert moon.rounds[0]["train"]["moon"] == pytest.approx(np.log(2), abs=1e-4)
    assert moon.rounds[-1]["train"]["moon"] != pytest.approx(np.log(2), abs=1e-4)


def test_the_peer_stays_and_is_scored_as_the_clients_own(tmp_path: Path) -> None:
    config = tables({"term": "cross_entropy"}, {**PEER, "peer": {"name": "logistic"}}, rounds=4)
    config["strategy"] |= {"clients_per_round": 2, "local_epochs": 3}
    run = fedtl.run(config, out=tmp_path / "run")
    assert {r["bytes_up"] for r in run.rounds} == {2 * 4 * MODEL} == {r["bytes_down"] for r in run.rounds}
    scores = run.rounds[2]["scores"]
    assert {"global/clients", "global/server-test", "personal/clients"} <= scores.keys()
    assert scores["personal/clients"]["model"] == "partial"

    # The scores are those of the peers in the clients' memories, the received model where a client has none yet.
    lines = [json.loads(line) for line in (tmp_path / "run" / "clients.jsonl").read_text().splitlines()]
    accuracies = lines[-1]["scores"]["personal/clients"]["accuracy"]
    data = federate(build(config).data, 1)
    store, without = MemoryStore(tmp_path / "run" / "memories"), 0
    for client in lines[-1]["clients"]:
        index = data.test[client]
        x = torch.from_numpy(data.x[index]).float() * torch.as_tensor(data.scale) + torch.as_tensor(data.shift)
        memory = store.load(client, 99)
        without += not memory
        flat_x = x.flatten(1)
        logits = linear(memory[PRIVATE], 0, 64, CLASSES, flat_x) if memory else fedtl.load_model(run)(x)
        right = (logits.argmax(1).numpy() == data.y[index]).mean()
        assert accuracies[lines[-1]["clients"].index(client)] == pytest.approx(right)
    assert run.rounds[-1]["scores"]["personal/clients"]["clients_without"] == without


class Killed(BaseException):
    """As sudden as a signal."""


def left(folder: Path) -> dict[str, Any]:
    times = {"seconds", "seconds_scoring", "elapsed"}
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    store, checkpoint = MemoryStore(folder / "memories"), read_checkpoint(folder)
    assert checkpoint is not None
    return {
        "rounds": [{key: value for key, value in line.items() if key not in times} for line in lines],
        "w": checkpoint.w.tobytes(),
        "state": {key: value.tobytes() for key, value in checkpoint.state.items()},
        "memories": {
            client: {name: vector.numpy().tobytes() for name, vector in store.load(client, 99).items()}
            for client in store.clients()
        },
    }


@pytest.mark.parametrize("method", ["fedavg", "local"])
def test_a_resumed_run_with_statistics_and_last_models_leaves_the_same_bits(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = [{"term": "cross_entropy"}, {"term": "prototype"}]
    config = tables(*terms, {"term": "distillation", "teacher": "previous"}, rounds=6)
    if method == "fedavg":
        config["objective"] += [{"term": "moon"}, {"term": "l2_sp"}, PEER]
    config["strategy"] |= {"name": method, "clients_per_round": 2}
    fedtl.run(config, out=tmp_path / "whole")
    original, calls = Recorder.checkpoint, 0

    def stops(self: Recorder, checkpoint: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise Killed
        original(self, checkpoint)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Recorder, "checkpoint", stops)
        fedtl.run(config, out=tmp_path / "cut")
    fedtl.run(config, out=tmp_path / "cut", resume=True)
    whole = left(tmp_path / "whole")
    assert "statistic:prototype" in whole["state"]
    assert whole["memories"]
    assert left(tmp_path / "cut") == whole


@pytest.mark.parametrize("restart", [False, True])
def test_born_again_over_phases(restart: bool, tmp_path: Path) -> None:
    """With one step a client, the recorded loss is that of the model that the phase begins with."""
    config = tables()
    del config["rounds"], config["objective"]
    config["strategy"] = {"name": "fedavg", "lr": 0.5, "local_steps": 1, "batch_size": 0}
    rows = [{"term": "cross_entropy"}, {"term": "distillation", "teacher": "phase"}]
    config["phases"] = [{"rounds": 5}, {"rounds": 2, "objective": rows, "restart": restart}]
    first, second = fedtl.run(config, out=tmp_path / "run").rounds[5:]
    assert (first["train"]["distillation"] > 0.1) == restart
    assert second["train"]["distillation"] > 1e-4


# --- pretrained weights -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's folder."""
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    fedtl.run(tables({"term": "cross_entropy"}), out=folder)
    return folder


def built(classes: int = CLASSES, **more: Any) -> nn.Module:
    return build_model(read_model({"name": "mlp", "hidden": [HIDDEN], **more}), (1, 8, 8), classes, 3)


@pytest.mark.parametrize("file", ["", "model.safetensors"])
def test_weights_come_from_a_run_or_a_file(source: Path, file: str) -> None:
    theirs = load_file(source / "model.safetensors")
    ours = built(pretrained=str(source / file)).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_head_for_other_classes_stays_new(source: Path) -> None:
    theirs, new = load_file(source / "model.safetensors"), built(4).state_dict()
    ours = built(4, pretrained=str(source)).state_dict()
    for name in ours:
        assert torch.equal(ours[name], new[name] if name.startswith("head") else theirs[name])


def refused(read: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as caught:
        read()
    text = str(caught.value)
    assert "\n" not in text
    assert not text.endswith(".")
    return text


def test_what_cannot_be_begun_with_is_said_in_a_sentence(source: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(b"half")
    here, more = str(source), tmp_path / "more.safetensors"
    save_file({**load_file(source / "model.safetensors"), "head.scale": torch.ones(1)}, more)
    for table, expected in (
        ({"pretrained": "nowhere"}, "model.pretrained = 'nowhere': there is no such file; give the folder"),
        ({"pretrained": str(tmp_path)}, "this folder holds no model.safetensors; give the folder of a finished run"),
        ({"pretrained": str(torn)}, "it cannot be read as safetensors: "),
        ({"pretrained": ""}, "model.pretrained = '': "),
        ({"pretrained": here, "hidden": [5]}, "its tensor 'features.1.weight' has shape [12, 64], the model MLP needs"),
        ({"pretrained": here, "hidden": [12, 5]}, "it has no tensor 'features.3.weight', so it is no MLP"),
        ({"pretrained": here, "name": "logistic"}, "its tensor 'head.weight' has shape [10, 12], the model"),
        ({"pretrained": str(more)}, "the model MLP has no place for its tensor 'head.scale': did you mean 'head.bias'"),
        ({"pretrained": "V1", "name": "resnet18"}, "it is no run's folder, no .safetensors file, and none of DEFAULT"),
    ):
        options = {} if "name" in table else {"hidden": [HIDDEN]}
        choice = {"name": "mlp", **options, **table}
        shape = (3, 32, 32) if choice["name"] == "resnet18" else (1, 8, 8)

        def read(choice: dict[str, Any] = choice, shape: tuple[int, ...] = shape) -> object:
            return build_model(read_model(choice), shape, CLASSES, 0)

        assert expected in refused(read)


def test_torchvisions_weights_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    api = import_torchvision().models._api
    with torch.random.fork_rng():
        network = import_torchvision().models.resnet18()

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    table = {"name": "resnet18", "pretrained": "IMAGENET1K_V1"}
    monkeypatch.setattr(api, "load_state_dict_from_url", unreachable)
    text = refused(lambda: build_model(read_model(table), (3, 32, 32), 5, 0))
    assert text.startswith("model.pretrained = 'IMAGENET1K_V1': torchvision's weights of 'resnet18' are not in")
    assert text.endswith("OSError: no route to host")
    monkeypatch.setattr(api, "load_state_dict_from_url", lambda *_, **__: network.state_dict())
    random = torch.get_rng_state()
    ours = build_model(read_model(table), (3, 32, 32), 5, 0).state_dict()
    assert torch.equal(torch.get_rng_state(), random)
    new = build_model(read_model({"name": "resnet18"}), (3, 32, 32), 5, 0).state_dict()
    for name, tensor in network.state_dict().items():
        assert torch.equal(ours[name], new[name] if name.startswith("fc.") else tensor)


def test_an_own_models_weights(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_pretrained.py").write_text(
        "from fedtl.models.mlp import MLP\ndef net(classes, hidden):\n    return MLP(64, hidden, classes)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    choice = read_model({"name": "own_pretrained:net", "hidden": [HIDDEN], "pretrained": str(source)})
    assert read_model(choice.model_dump(mode="json")) == choice
    theirs, ours = load_file(source / "model.safetensors"), build_model(choice, (1, 8, 8), CLASSES, 0).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("teacher", "expected"),
    [
        ({"run": "nowhere"}, "the term 'distillation': teacher.run = 'nowhere': there is no run's folder of that name"),
        ({"file": "no.safetensors", "model": {"name": "mlp"}}, "teacher.file = 'no.safetensors': there is no such fil"),
        ("globl", "objective[0].teacher = 'globl': should be 'global', 'previous', 'phase' or 'initial', or {"),
        ({"file": "x", "model": {"name": "mpl"}}, "model.name = 'mpl' is unknown: did you mean 'mlp'?"),
    ],
)
def test_a_teacher_that_is_not_there(teacher: Any, expected: str) -> None:
    assert expected in refused(lambda: task_of({"term": "distillation", "teacher": teacher}))


def test_a_runs_model_teaches_if_it_tells_the_same_classes(source: Path, tmp_path: Path) -> None:
    task = task_of({"term": "distillation", "teacher": {"run": str(source)}})
    theirs = load_file(source / "model.safetensors")
    (own,) = task.frozen.values()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in own.state_dict().items())
    assert not any(parameter.requires_grad for parameter in own.parameters())
    few = tmp_path / "few.safetensors"
    save_file(built(4).state_dict(), few)
    teacher_options = {"file": str(few), "model": {"name": "mlp", "hidden": [HIDDEN]}}
    text = refused(lambda: task_of({"term": "distillation", "teacher": teacher_options}))
    assert text.endswith("it tells 4 classes apart, but these data have 10")
    config = build(tables({"term": "distillation", "teacher": teacher_options}))
    assert build(config.tables()) == config


HEAD = HIDDEN * CLASSES + CLASSES


def test_a_linear_probe_trains_and_sends_the_head_alone(source: Path, tmp_path: Path) -> None:
    config = tables({"term": "cross_entropy"})
    config["model"]["pretrained"], config["strategy"]["frozen"] = str(source), ["features"]
    run = fedtl.run(config, out=tmp_path / "run")
    assert {(r["bytes_down"], r["bytes_up"]) for r in run.rounds} == {(4 * 4 * HEAD, 4 * 4 * HEAD)}
    before, after = load_file(source / "model.safetensors"), run.state_dict()
    for name in before:
        assert torch.equal(before[name], after[name]) == name.startswith("features"), name


def test_a_private_head_stays_at_the_client_and_is_scored(source: Path, tmp_path: Path) -> None:
    config = tables({"term": "cross_entropy"})
    config["model"]["pretrained"], config["strategy"]["private"] = str(source), ["head"]
    run = fedtl.run(config, out=tmp_path / "run")
    body = MODEL - HEAD
    assert {(r["bytes_down"], r["bytes_up"]) for r in run.rounds} == {(4 * 4 * body, 4 * 4 * body)}
    store = MemoryStore(tmp_path / "run" / "memories")
    heads = [store.load(client, 99)[PRIVATE] for client in range(4)]
    assert {len(head) for head in heads} == {HEAD}
    assert not torch.equal(heads[0], heads[1])
    scores = run.rounds[-1]["scores"]
    assert scores["personal/clients"]["model"] == "partial"
    assert not {"global/clients", "global/server-test"} & scores.keys()


def test_layers_freeze_by_name(tmp_path: Path) -> None:
    config = tables({"term": "cross_entropy"}, rounds=2)
    config["model"] = {"name": "cnn", "channels": [4, 6], "kernel": 3, "hidden": [8]}
    config["strategy"]["frozen"] = ["features.0"]
    run = fedtl.run(config, out=tmp_path / "run")
    fresh = build_model(build(config).model, (1, 8, 8), CLASSES, 1).state_dict()
    after, first = run.state_dict(), 4 * 9 + 4
    for name in fresh:
        assert torch.equal(fresh[name], after[name]) == name.startswith("features.0."), name
    size = sum(tensor.numel() for tensor in fresh.values())
    assert run.rounds[0]["bytes_down"] == run.rounds[0]["bytes_up"] == 4 * 4 * (size - first)
