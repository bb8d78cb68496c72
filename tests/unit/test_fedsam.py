"""FedSAM: its step by hand, averages over the rounds, and FedAvg where nothing is perturbed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import fedtl
from fedtl.config.read import build, read_config
from fedtl.data.federate import federate
from fedtl.data.samples import Samples
from fedtl.engine import Trained
from fedtl.runs.checkpoint import read_checkpoint
from tests.parts import EACH_ENGINE, EngineKind, engine_of, federation_of, quadratic, train_cohort, update_of

A = np.random.default_rng(6).normal(size=(3, 5)).astype(np.float32)
W = torch.linspace(-1, 2, 5)


@EACH_ENGINE
@pytest.mark.parametrize("adaptive", [False, True])
def test_steps_by_hand(kind: EngineKind, adaptive: bool) -> None:
    lr, rho, eta = 0.1, 0.3, 0.05
    update = update_of("fedsam", lr=lr, rho=rho, adaptive=adaptive, eta=eta, local_steps=3)
    for a, outcome in zip(A, train_cohort(quadratic(A, kind), update, W, range(3), [{}] * 3, 1)):
        assert isinstance(outcome, Trained)
        w = W.double().numpy()
        for _ in range(3):
            g, t = w - a, np.abs(w) + eta if adaptive else np.ones(5)
            w = w - lr * (w + rho * t**2 * g / np.linalg.norm(t * g) - a)
        np.testing.assert_allclose(outcome.uploads["w"], w, atol=1e-6)


@EACH_ENGINE
def test_nothing_is_perturbed_where_the_gradient_is_zero(kind: EngineKind) -> None:
    for adaptive in (False, True):
        update = update_of("fedsam", lr=0.1, rho=0.3, adaptive=adaptive, local_steps=2)
        for client, row in enumerate(A):
            w = torch.from_numpy(row)
            (outcome,) = train_cohort(quadratic(A, kind), update, w, [client], [{}], 1)
            assert isinstance(outcome, Trained)
            assert torch.equal(outcome.uploads["w"], w)


def test_biases_can_be_left_out_of_the_proportions() -> None:
    """As in the code of ASAM's authors: T is 1 for what is called no weight."""
    engine = engine_of(federation_of([6]), nn.Linear(6, 3))
    layout = engine.task.layout
    update: Any = update_of("fedsam", layout, lr=0.1, rho=0.5, adaptive=True, eta=0.02, adaptive_biases=False)
    w, g = torch.randn(2, layout.parameters, generator=torch.Generator().manual_seed(0))
    t = {name: view.abs() + 0.02 if name == "weight" else 1 for name, view in layout.views(w).items()}
    norm = torch.cat([(t[name] * view).reshape(-1) for name, view in layout.views(g).items()]).norm()
    for name, view in layout.views(update.epsilon(w, g)).items():
        torch.testing.assert_close(view, 0.5 * t[name] ** 2 * layout.views(g)[name] / norm)


def tables(**strategy: Any) -> dict[str, Any]:
    return {
        "name": "fedsam",
        "rounds": 5,
        "device": "cpu",
        "data": {"name": "digits", "clients": 4, "samples": 200},
        "model": {"name": "logistic"},
        "strategy": {"name": "fedsam", "lr": 0.2, "batch_size": 16, "clients_per_round": 3, **strategy},
        "simulation": {"grid": "in-process"},
    }


def model(folder: Path, **strategy: Any) -> dict[str, torch.Tensor]:
    return load_file(fedtl.run(tables(**strategy), out=folder).path / "model.safetensors")


def test_without_rho_it_is_fedavg_bit_for_bit(tmp_path: Path) -> None:
    momentum = {"momentum": 0.9, "weight_decay": 0.01}
    fedavg = model(tmp_path / "fedavg", name="fedavg", **momentum)
    for name, own in {"sam": {}, "asam": {"adaptive": True}, "swa": {"swa_from": 6}}.items():
        ours = model(tmp_path / name, rho=0.0, **own, **momentum)
        assert all(torch.equal(ours[key], fedavg[key]) for key in fedavg), name


def test_the_server_averages_over_rounds_and_trains_on(tmp_path: Path) -> None:
    """Rounds 2 and 4 of 5; what is scored and saved is their mean."""
    fedavg = {}
    for rounds in (2, 4, 5):
        config = {**tables(name="fedavg"), "rounds": rounds}
        fedavg[rounds] = load_file(fedtl.run(config, out=tmp_path / f"fedavg-{rounds}").path / "model.safetensors")
    run = fedtl.run(tables(rho=0.0, swa_from=2, swa_every=2), out=tmp_path / "swa")
    averaged = load_file(run.path / "model.safetensors")
    for name in averaged:
        torch.testing.assert_close(averaged[name], (fedavg[2][name] + fedavg[4][name]) / 2)
    checkpoint = read_checkpoint(run.path)
    assert checkpoint is not None
    assert checkpoint.state["averaged"].tolist() == [2.0]
    alone = fedtl.load_model(fedtl.Run(tmp_path / "fedavg-5")).state_dict()
    trained = torch.cat([tensor.reshape(-1) for tensor in alone.values()])
    assert torch.equal(torch.as_tensor(checkpoint.state["trained"]).sort().values, trained.sort().values)
    federation, last = federate(build(dict(run.config)).data, 0), fedtl.load_model(run)
    for client, accuracy in enumerate(run.clients[-1]["scores"]["global/clients"]["accuracy"]):
        x, y = Samples(federation, torch.device("cpu")).batch(federation.test[client])
        with torch.no_grad():
            assert accuracy == pytest.approx(float((last(x).argmax(1) == y).double().mean()))


def test_averages_resume_to_the_same_bits(tmp_path: Path) -> None:
    own = {"rho": 0.1, "swa_from": 2}
    whole = model(tmp_path / "a", **own)
    fedtl.run({**tables(**own), "rounds": 3}, out=tmp_path / "b")
    fedtl.run(tables(**own), out=tmp_path / "b", resume=True)
    resumed = load_file(tmp_path / "b/model.safetensors")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_averages_that_never_begin_are_told() -> None:
    assert read_config(tables(swa_from=5))[1] == []
    assert read_config(tables(swa_from=6))[1] == [
        "strategy.swa_from has no effect: it acts from round 6 on, and there are 5 rounds"
    ]


def test_options_without_effect_are_told() -> None:
    _, notes = read_config(tables(eta=0.1, swa_every=2))
    assert {note.partition(" has no effect")[0] for note in notes} == {"strategy.eta", "strategy.swa_every"}
