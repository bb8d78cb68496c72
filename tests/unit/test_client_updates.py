"""Client updates against closed forms and hand-computed steps on f_i(θ) = ½‖θ - a_i‖²."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fedtl.clients.contract import ClientUpdate, Count, Gradient, Memory, Probe, State, Vectors
from fedtl.clients.sgd import SGDSettings
from fedtl.engine import Engine, Trained
from fedtl.losses.batch import Batch
from tests.parts import (
    EACH_ENGINE,
    ENGINES,
    METHODS,
    EngineKind,
    engine_of,
    federation_of,
    quadratic,
    small_module,
    train_cohort,
    update_of,
)

D = 7
RNG = np.random.default_rng(3)
A = RNG.normal(size=(4, D)).astype(np.float32)
W = torch.tensor(RNG.normal(size=D), dtype=torch.float32)


def train(
    engine: Engine, name: str, w: torch.Tensor = W, memories: list[Memory] | None = None, **options: Any
) -> list[Trained]:
    outcomes = train_cohort(engine, update_of(name, **options), w, range(len(A)), memories or [{}] * len(A), 1)
    for outcome in outcomes:
        assert isinstance(outcome, Trained), outcome
    return outcomes  # type: ignore[return-value]


@EACH_ENGINE
def test_pfedme_theta_is_the_prox_for_many_inner_steps(kind: EngineKind) -> None:
    lam = 2.0
    outcomes = train(quadratic(A, kind), "pfedme", lr=0.1, lam=lam, inner_steps=400, inner_lr=0.1, local_steps=1)
    for a, client in zip(A, outcomes):
        prox = (a + lam * W.numpy()) / (1 + lam)
        np.testing.assert_allclose(client.memory["theta"], prox, atol=1e-6)
        # The Moreau envelope's gradient is λ(w - prox), which for this f is λ/(1 + λ) (w - a).
        np.testing.assert_allclose(
            client.uploads.get("w"), W - 0.1 * lam / (1 + lam) * (W - torch.tensor(a)), atol=1e-6
        )


@EACH_ENGINE
@pytest.mark.parametrize("start", ["previous", "w"])
def test_pfedme_follows_algorithm_1_step_by_step(kind: EngineKind, start: str) -> None:
    lam, eta, inner_lr, K, R = 3.0, 0.07, 0.05, 2, 3
    outcomes = train(
        quadratic(A, kind),
        "pfedme",
        lr=eta,
        lam=lam,
        inner_steps=K,
        inner_lr=inner_lr,
        local_steps=R,
        inner_start=start,
    )
    for a, client in zip(A.astype(np.float64), outcomes):
        w = W.numpy().astype(np.float64)
        theta = w.copy()
        for _ in range(R):
            if start == "w":
                theta = w.copy()
            for _ in range(K):
                theta = theta - inner_lr * ((theta - a) + lam * (theta - w))
            w = w - eta * lam * (w - theta)
        np.testing.assert_allclose(client.memory["theta"], theta, atol=1e-6)
        np.testing.assert_allclose(client.uploads.get("w"), w, atol=1e-6)


@EACH_ENGINE
def test_pfedme_options_of_the_authors_code(kind: EngineKind) -> None:
    options = {"lr": 0.1, "lam": 2.0, "inner_steps": 1, "inner_lr": 0.1, "local_steps": 1}
    outcomes = train(quadratic(A, kind), "pfedme", **options, weight_decay=0.5, personal_model="local")
    for a, client in zip(A, outcomes):
        theta = W - 0.1 * ((W - torch.tensor(a)) + 0.5 * W)
        w = W - 0.1 * 2.0 * (W - theta)
        np.testing.assert_allclose(client.uploads.get("w"), w, atol=1e-6)
        np.testing.assert_allclose(client.memory["theta"], w, atol=1e-6)


@EACH_ENGINE
def test_sgd_with_one_full_batch_step_is_gradient_descent(kind: EngineKind) -> None:
    for a, client in zip(A, train(quadratic(A, kind), "fedavg", lr=0.3, local_steps=1, batch_size=0)):
        np.testing.assert_allclose(client.uploads.get("w"), W - 0.3 * (W - torch.tensor(a)), atol=1e-6)


@EACH_ENGINE
def test_sgd_is_torch_optim_sgd(kind: EngineKind) -> None:
    options = {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.05}
    for a, client in zip(A, train(quadratic(A, kind), "fedavg", local_steps=4, **options)):
        w = torch.nn.Parameter(W.clone())
        optimiser = torch.optim.SGD([w], **options)
        for _ in range(4):
            optimiser.zero_grad()
            (0.5 * (w - torch.tensor(a)).square().sum()).backward()
            optimiser.step()
        np.testing.assert_allclose(client.uploads.get("w"), w.detach(), atol=1e-6)


@EACH_ENGINE
def test_fedprox_step_by_step(kind: EngineKind) -> None:
    mu, lr = 0.7, 0.2
    for a, client in zip(A, train(quadratic(A, kind), "fedprox", lr=lr, mu=mu, local_steps=3)):
        w = W.numpy().astype(np.float64)
        for _ in range(3):
            w = w - lr * ((w - a) + mu * (w - W.numpy()))
        np.testing.assert_allclose(client.uploads.get("w"), w, atol=1e-6)


@EACH_ENGINE
def test_fedprox_converges_to_the_prox(kind: EngineKind) -> None:
    for a, client in zip(A, train(quadratic(A, kind), "fedprox", lr=0.2, mu=1.5, local_steps=200)):
        np.testing.assert_allclose(client.uploads.get("w"), (a + 1.5 * W.numpy()) / 2.5, atol=1e-6)


@EACH_ENGINE
def test_fedprox_without_mu_is_fedavg_bit_for_bit(kind: EngineKind) -> None:
    federation = federation_of([23, 40, 9])
    uploads = {}
    for name, options in {"fedavg": {}, "fedprox": {"mu": 0.0}}.items():
        engine = engine_of(federation, small_module(), kind)
        w = engine.task.layout.flatten(engine.task.module)
        update = update_of(name, lr=0.1, local_epochs=2, batch_size=10, **options)
        uploads[name] = [o.uploads.get("w") for o in train_cohort(engine, update, w, [0, 1, 2], [{}] * 3, 1)]  # type: ignore[union-attr]
    for a, b in zip(uploads["fedavg"], uploads["fedprox"]):
        assert torch.equal(a, b)


@EACH_ENGINE
def test_local_goes_on_from_its_own_model(kind: EngineKind) -> None:
    engine = quadratic(A, kind)
    first = train(engine, "local", lr=0.5, local_steps=1)
    assert all(client.uploads == {} for client in first)
    second = train(engine, "local", w=torch.full((D,), 99.0), memories=[c.memory for c in first], lr=0.5, local_steps=1)
    for a, client in zip(A, second):
        np.testing.assert_allclose(client.memory["w"], 0.25 * W + 0.75 * torch.tensor(a), atol=1e-6)


@EACH_ENGINE
def test_finetune_trains_like_fedavg_and_scores_after_k_steps(kind: EngineKind) -> None:
    engine = quadratic(A, kind)
    options = {"lr": 0.5, "local_steps": 1}
    assert torch.equal(
        train(engine, "fedavg-finetune", **options)[0].uploads.get("w"),  # type: ignore[arg-type]
        train(engine, "fedavg", **options)[0].uploads.get("w"),  # type: ignore[arg-type]
    )
    update = update_of("fedavg-finetune", **options, finetune_steps=3, finetune_lr=0.25)
    scoring = update.for_scoring()
    outcomes = train_cohort(engine, scoring, W, range(len(A)), [{}] * len(A), 1)
    for a, client in zip(A, outcomes):
        assert isinstance(client, Trained)
        assert client.steps == 3
        expected = torch.tensor(a) + 0.75**3 * (W - torch.tensor(a))
        np.testing.assert_allclose(scoring.personal({"w": W}, client.memory), expected, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_a_download_is_not_changed(name: str) -> None:
    for kind in ENGINES.values():
        engine = engine_of(federation_of([5] * 4), small_module(), kind)
        first = engine.task.layout.flatten(engine.task.module)
        w, update = first.clone(), update_of(name, engine.task.layout, **METHODS[name])
        train_cohort(engine, update, w, range(4), [{}] * 4, 1)
        assert torch.equal(w, first)


class OwnNames(ClientUpdate[SGDSettings]):
    """SGD whose state calls the model y."""

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        return {"y": received["w"]}

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        state["y"].sub_(grad(state["y"], batch), alpha=self.settings.lr)
        return state

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        return {"w": state["y"]}, {}


@EACH_ENGINE
def test_a_method_may_call_its_vectors_as_it_likes(kind: EngineKind) -> None:
    engine = engine_of(federation_of([12, 9]), small_module(), kind)
    layout, plain = engine.task.layout, update_of("fedavg", lr=0.1, batch_size=5)
    updates = (plain, OwnNames(plain.settings, layout))
    w = layout.flatten(engine.task.module)
    ours, theirs = (train_cohort(engine, update, w, [0, 1], [{}, {}], 1) for update in updates)
    for one, other in zip(ours, theirs, strict=True):
        assert isinstance(one, Trained)
        assert isinstance(other, Trained)
        torch.testing.assert_close(one.uploads["w"], other.uploads["w"], rtol=1e-5, atol=1e-6)
