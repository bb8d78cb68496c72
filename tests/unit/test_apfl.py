"""APFL against a step by hand, and other methods in its degenerate settings."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fedtl
from fedtl.assemble.parts import assemble
from fedtl.choice import ConfigError
from fedtl.clients.contract import Count, Gradient, Memory, Probe, State, Vectors
from fedtl.clients.sgd import SGD, SGDSettings
from fedtl.config.read import build
from fedtl.data.federate import federate
from fedtl.data.samples import Samples
from fedtl.disk.memories import MemoryStore
from fedtl.engine import OneByOne, Trained
from fedtl.engine.assignment import Assignment, Received
from fedtl.engine.task import BUFFERS, RoundContext
from fedtl.export.of_run import model_of_run
from fedtl.losses.batch import Batch
from fedtl.models.vector import Layout, inner
from tests.parts import (
    EACH_ENGINE,
    ENGINES,
    NO_LAYOUT,
    EngineKind,
    engine_of,
    federation_of,
    quadratic,
    train_cohort,
    update_of,
)
from tests.unit.test_ditto import EACH_MODULE, three_rounds

A = np.random.default_rng(5).normal(size=(3, 5)).astype(np.float32)
W = torch.linspace(-1, 2, 5)
SIZES = [20, 12, 20, 7]


@EACH_ENGINE
@pytest.mark.parametrize("adaptive", ["", "all", "first"])
def test_a_round_by_hand(kind: EngineKind, adaptive: str) -> None:
    """All three move from where they were before the step; α stays within its bounds."""
    eta, alphas, v0 = 0.1, (0.3, 0.02, 0.9), 3.0
    own: dict[str, Any] = {"adaptive": True, "alpha_lr": 0.05, "alpha_steps": adaptive} if adaptive else {}
    update = update_of("apfl", lr=eta, local_steps=3, **own)
    memories = [{"v": torch.full((5,), v0), "alpha": torch.tensor([alpha])} for alpha in alphas]
    bounds = set()
    for a, alpha, outcome in zip(A, alphas, train_cohort(quadratic(A, kind), update, W, range(3), memories, 1)):
        assert isinstance(outcome, Trained)
        w, v = W.double().numpy(), np.full(5, v0)
        for step in range(3):
            at_mixture = alpha * v + (1 - alpha) * w - a
            moves = adaptive == "all" or (adaptive == "first" and not step)
            moved = float(np.clip(alpha - 0.05 * (v - w) @ at_mixture, 0, 1)) if moves else alpha
            w, v, alpha = w - eta * (w - a), v - eta * alpha * at_mixture, moved
        bounds |= {alpha} & {0.0, 1.0}
        np.testing.assert_allclose(outcome.uploads["w"], w, atol=1e-6)
        np.testing.assert_allclose(outcome.memory["v"], v, atol=1e-6)
        np.testing.assert_allclose(outcome.memory["alpha"], [alpha], atol=1e-6)
        mine = update.personal({"w": W}, outcome.memory)
        np.testing.assert_allclose(mine, alpha * v + (1 - alpha) * W.numpy(), atol=1e-6)
    assert bounds or not adaptive


@pytest.mark.parametrize("name", ENGINES)
@EACH_MODULE
@pytest.mark.parametrize("mixing", ["parameters", "outputs"])
def test_with_alpha_1_it_is_training_alone_bit_for_bit(mixing: str, name: str, module: Callable[[], nn.Module]) -> None:
    """To rounding where steps are traced: plain steps are then taken along each parameter's gradient, ours along α's
    product with all of them."""
    kind, close = ENGINES[name], {"rtol": 1e-5, "atol": 1e-6} if "traced" in name else {"rtol": 0.0, "atol": 0.0}
    options: dict[str, Any] = {"lr": 0.1, "batch_size": 10, "local_epochs": 2}
    update = update_of("apfl", alpha=1.0, mixing=mixing, **options)
    alone = three_rounds(kind, update_of("local", **options), module)
    for (_, memory), (_, own) in zip(three_rounds(kind, update, module), alone):
        torch.testing.assert_close(memory["v"], own["w"], **close)
        if BUFFERS in own:
            torch.testing.assert_close(memory[BUFFERS], own[BUFFERS], **close)
        assert torch.equal(update.personal({"w": torch.randn_like(own["w"])}, memory), memory["v"])


@EACH_ENGINE
@EACH_MODULE
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_what_travels_is_fedavgs_bit_for_bit(kind: EngineKind, alpha: float, module: Callable[[], nn.Module]) -> None:
    """Whatever α; with α = 0 the personalised model is the global one, and v stays where it began."""
    options: dict[str, Any] = {"lr": 0.1, "batch_size": 10, "local_epochs": 2}
    update = update_of("apfl", alpha=alpha, **options)
    ours, fedavg = (three_rounds(kind, each, module) for each in (update, update_of("fedavg", **options)))
    for (upload, memory), (theirs, _) in zip(ours, fedavg):
        assert upload is not None
        assert theirs is not None
        assert torch.equal(upload, theirs)
        if not alpha:
            engine = engine_of(federation_of(SIZES), module())
            P, initial = engine.task.layout.parameters, engine.task.layout.flatten(engine.task.module)
            assert torch.equal(update.personal({"w": upload[:P]}, memory), upload[:P])
            assert torch.equal(memory["v"], initial[:P])


@EACH_ENGINE
def test_alpha_follows_the_schedule(kind: EngineKind) -> None:
    moved = []
    for factor in (1.0, 0.5):
        schedule = {"name": "exponential", "gamma": 0.5}
        update = update_of("apfl", lr=0.01, adaptive=True, local_steps=1, schedule=schedule)
        memory: Memory = {"v": W + 1, "alpha": torch.tensor([0.5])}
        context = RoundContext(lr_factor=factor)
        engine = quadratic(A, kind)
        (outcome,) = engine.train(Assignment(update, Received({"w": W}), [0], [memory], 1, context))
        assert isinstance(outcome, Trained)
        moved.append(float(outcome.memory["alpha"]) - 0.5)
    assert moved[0]
    assert moved[1] == pytest.approx(0.5 * moved[0], rel=1e-3)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 64, 1001])
def test_an_inner_product_does_not_depend_on_the_stack(length: int) -> None:
    a, b = torch.randn(2, 5, length, generator=torch.Generator().manual_seed(0))
    expected = (a.double() * b.double()).sum(-1, keepdim=True)
    torch.testing.assert_close(inner(a, b).double(), expected, rtol=0, atol=1e-6 * length)
    for row in range(5):
        assert torch.equal(inner(a, b)[row], inner(a[row], b[row]))


def softmax_gradient(logits: np.ndarray[Any, Any], y: int) -> np.ndarray[Any, Any]:
    e = np.exp(logits - logits.max())
    return e / e.sum() - np.eye(len(logits))[y]


@EACH_ENGINE
@pytest.mark.parametrize("adaptive", [False, True])
def test_the_authors_step_by_hand(kind: EngineKind, adaptive: bool) -> None:
    """On one sample and a linear model, in float64: w first, v along the mixed outputs' loss, α in the first step."""
    federation, eta, alpha = federation_of([1, 1]), 0.2, 0.3
    engine = engine_of(federation, torch.nn.Linear(6, 3), kind)
    layout, start = engine.task.layout, engine.task.layout.flatten(engine.task.module)
    memories: list[Memory] = [{"v": 0.5 * start + 0.1, "alpha": torch.tensor([alpha])} for _ in range(2)]
    update = update_of("apfl", lr=eta, alpha=alpha, adaptive=adaptive, mixing="outputs", local_steps=2)

    def matrix(vector: torch.Tensor) -> np.ndarray[Any, Any]:
        """``[3, 7]``, the bias last."""
        module = torch.nn.Linear(6, 3)
        layout.load(module, vector)
        return torch.cat([module.weight, module.bias[:, None]], 1).detach().double().numpy()

    for client, outcome in enumerate(train_cohort(engine, update, start, range(2), memories, 1)):
        assert isinstance(outcome, Trained)
        (row,) = federation.train[client]
        x, y = np.append(federation.x[row].astype(np.float64), 1), int(federation.y[row])
        w, v, share = matrix(start), matrix(memories[client]["v"]), alpha
        for step in range(2):
            w = w - eta * np.outer(softmax_gradient(w @ x, y), x)
            at_mixture = np.outer(softmax_gradient(share * (v @ x) + (1 - share) * (w @ x), y), x)
            v = v - eta * share * at_mixture
            if adaptive and not step:
                along = (share**2 + (1 - share) ** 2) * at_mixture
                share = share - eta * (((v - w) * along).sum() + 0.02 * share)
        np.testing.assert_allclose(matrix(outcome.uploads["w"]), w, atol=1e-5)
        np.testing.assert_allclose(matrix(outcome.memory["v"]), v, atol=1e-5)
        np.testing.assert_allclose(outcome.memory["alpha"], [share], atol=1e-5)


class WithNorm(torch.nn.Sequential):
    def __init__(self) -> None:
        super().__init__(torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 3))


class Looking(SGD):
    """SGD that looks at logits in each step, which it adds up."""

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        return {**super().start(received, memory, probe), "seen": torch.zeros_like(received["w"][..., :1])}

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        logits = grad.logits(state["w"], batch)
        seen = state["seen"] + logits.square().sum((-2, -1)).unsqueeze(-1)
        return {**super().step(state, batch, grad), "seen": seen}

    def first_memory(self, received: Vectors) -> Memory:
        return {"seen": torch.zeros_like(received["w"][..., :1])}

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        return {"w": state["w"]}, {"seen": state["seen"]}


def test_logits_are_seen_alike_and_change_nothing() -> None:
    """Not even batch-norm's running statistics."""
    ends = {}
    for method, name in itertools.product((SGD, Looking), ENGINES):
        torch.manual_seed(0)
        engine = engine_of(federation_of([12, 12, 12]), WithNorm(), ENGINES[name])
        update = method(SGDSettings(name="sgd", lr=0.1, batch_size=6, local_epochs=2), NO_LAYOUT)
        w = engine.task.layout.flatten(engine.task.module)
        ends[method, name] = train_cohort(engine, update, w, range(3), [{}] * 3, 1)
        assert engine.tracer is None or engine.tracer.replays_all
    for name in ENGINES:
        for plain, looked, first in zip(ends[SGD, name], ends[Looking, name], ends[Looking, "one by one"]):
            assert isinstance(plain, Trained)
            assert isinstance(looked, Trained)
            assert isinstance(first, Trained)
            torch.testing.assert_close(plain.uploads["w"], looked.uploads["w"], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(looked.memory["seen"], first.memory["seen"], rtol=1e-4, atol=1e-5)
            assert looked.memory["seen"] > 0


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("name", ["mlp", "cnn-bn"])
def test_mixed_outputs_are_what_is_scored(name: str, stacked: bool, tmp_path: Path) -> None:
    own = {"name": "apfl", "lr": 0.2, "alpha": 0.4, "adaptive": True, "mixing": "outputs", "local_steps": 3}
    run = fedtl.run(
        {
            "name": "apfl",
            "rounds": 2,
            "device": "cpu",
            "data": {"name": "digits", "clients": 4, "samples": 200},
            "model": {"name": name, "hidden": [8]},
            "strategy": own,
            "evaluate": {"personal": "stored"},
            "simulation": {"grid": "in-process", "stacked": stacked},
        },
        out=tmp_path,
    )
    config = build(dict(run.config))
    federation, model = federate(config.data, config.seed), fedtl.load_model(run).eval()
    layout, store = Layout.of(model), MemoryStore(tmp_path / "memories")
    for client, accuracy in enumerate(run.clients[-1]["scores"]["personal/clients"]["accuracy"]):
        memory = store.load(client, 10)
        x, y = Samples(federation, torch.device("cpu")).batch(federation.test[client])
        local = copy.deepcopy(model)
        layout.load(local, torch.cat([memory["v"], memory.get(BUFFERS, memory["v"][:0])]))
        with torch.no_grad():
            logits = memory["alpha"] * local(x) + (1 - memory["alpha"]) * model(x)
        assert accuracy == pytest.approx(float((logits.argmax(1) == y).double().mean()))
    with pytest.raises(ConfigError, match="2 models whose outputs are mixed"):
        model_of_run(tmp_path, 1)


@pytest.mark.parametrize("mixing", ["parameters", "outputs"])
def test_a_private_part_of_w_is_the_clients_own_in_the_mixture(mixing: str) -> None:
    config = build(
        {
            "name": "apfl",
            "rounds": 1,
            "data": {"name": "digits", "clients": 4, "samples": 200},
            "model": {"name": "mlp", "hidden": [8]},
            "strategy": {"name": "apfl", "lr": 0.1, "mixing": mixing, "private": ["head"]},
        }
    )
    assembly = assemble(config, federate(config.data, config.seed))
    (task,), (update,) = assembly.tasks, assembly.updates
    assert task.sharing is not None
    generator, d = torch.Generator().manual_seed(0), task.layout.size
    received, v, own_head = (torch.randn(n, generator=generator) for n in (d, d, len(task.sharing.private)))
    memory: Memory = {"v": v, "alpha": torch.tensor([0.25]), "private parts": own_head}
    w = received.clone()
    w[task.sharing.private] = own_head
    own = OneByOne(task).own(update, memory, {"w": received}, 0)
    assert torch.equal(own.vector, 0.25 * v + 0.75 * w)
    assert (own.ensemble is not None) == (mixing == "outputs")
    if own.ensemble is not None:
        assert torch.equal(own.ensemble.models, torch.stack([v, w]))
        assert own.ensemble.weights.tolist() == [0.25, 0.75]
