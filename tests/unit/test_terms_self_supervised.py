from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fedtl
from fedtl import losses
from fedtl.assemble.parts import make_tasks
from fedtl.choice import ConfigError
from fedtl.config.read import build
from fedtl.data.federate import federate
from fedtl.data.federation import Federation
from fedtl.engine import Trained
from fedtl.export.probe import probe
from fedtl.losses.batch import Batch, Sizes
from fedtl.losses.context import TermContext
from fedtl.losses.objective import read_objective
from fedtl.losses.terms.self_supervised import TwoViews
from fedtl.models import build_model
from tests.parts import ENGINES, EngineKind, train_cohort, update_of

TERMS = ("barlow_twins", "invariant_spreading", "simclr", "vicreg")
# Widths and learning rates with which training is far from running away, so that rounding stays small.
SMALL = {
    "barlow_twins": ({"projector": [16, 16], "weight": 0.02}, 0.1),
    "invariant_spreading": ({"projector": [16], "variant": "authors"}, 0.1),
    "simclr": ({"projector": [16, 8]}, 0.1),
    "vicreg": ({"projector": [16, 16], "weight": 0.02}, 0.05),
}


def tables(term: str, **more: Any) -> dict[str, Any]:
    return {
        "name": "without-labels",
        "rounds": 2,
        "data": {"name": "digits", "clients": 4, "samples": 120, "labelled_fraction": 0.0, "partition": "iid"},
        "model": {"name": "mlp", "hidden": [12]},
        "strategy": {"name": "fedavg", "lr": SMALL[term][1], "local_epochs": 2, "batch_size": 8},
        "objective": [{"term": term, **SMALL[term][0]}],
        "views": {},
        "simulation": {"grid": "in-process"},
        **more,
    }


def term_of(name: str, **options: Any) -> TwoViews:
    (term,) = read_objective([{"term": name, **options}])
    assert isinstance(term, TwoViews)
    return term


class Known:
    """A model whose features are its inputs; its projector is given."""

    def __init__(self, projector: nn.Module | None = None) -> None:
        self.projector = projector

    def run(self, x: Tensor) -> dict[str, Tensor]:
        return {"features": x, "logits": x}

    def module(self, name: str) -> nn.Module:
        assert self.projector is not None
        return self.projector


def value(term: TwoViews, a: Tensor, b: Tensor, projector: nn.Module | None = None) -> Tensor:
    batch = Batch(a, torch.zeros(len(a), dtype=torch.long), None, {"view_a": a, "view_b": b}, labelled=False)
    return term.value(TermContext(Known(projector), batch, {}))  # type: ignore[arg-type]


Z_A = torch.tensor([[3.0, 4.0, 0.0], [0.0, 2.0, 1.0], [1.0, -1.0, 2.0], [-2.0, 0.5, 1.0]])
Z_B = Z_A + torch.tensor([[0.1, 0.0, -0.2], [0.0, 0.3, 0.0], [0.2, 0.2, 0.0], [0.0, -0.1, 0.1]])


def test_values_are_the_functions() -> None:
    none = {"projector": []}
    loss = value(term_of("barlow_twins", lam=0.1, **none), Z_A, Z_B)
    assert loss == losses.barlow_twins(Z_A, Z_B, lam=0.1)
    assert value(term_of("simclr", tau=0.3, **none), Z_A, Z_B) == losses.nt_xent(Z_A, Z_B, tau=0.3)
    options = {"lam": 2.0, "mu": 3.0, "nu": 4.0, "variant": "authors"}
    assert value(term_of("vicreg", **options, **none), Z_A, Z_B) == losses.vicreg(Z_A, Z_B, **options)  # type: ignore[arg-type]
    for variant in ("paper", "authors"):
        loss = value(term_of("invariant_spreading", tau=0.2, variant=variant, **none), Z_A, Z_B)
        on_sphere = F.normalize(Z_A), F.normalize(Z_B)  # rows of length 1, such as [0.6, 0.8, 0]
        wanted = losses.invariant_spreading(*on_sphere, tau=0.2, variant=variant)  # type: ignore[arg-type]
        torch.testing.assert_close(loss, wanted)


def test_values_by_hand() -> None:
    """Two samples at right angles whose views are alike."""
    e = torch.eye(2)
    # Three others per context, the partner at cosine 1: -log(e^(1/τ) / (e^(1/τ) + 2)), τ = 0.5.
    assert float(value(term_of("simclr", projector=[]), e, e)) == pytest.approx(np.log(1 + 2 * np.exp(-2)), rel=1e-5)
    # P = 1 / (1 + e^-10): -2 log P - 2 log(1 - (1 - P)) = -4 log P.
    loss = float(value(term_of("invariant_spreading", projector=[]), 3 * e, 5 * e))
    assert loss == pytest.approx(4 * np.log1p(np.exp(-10)), rel=1e-2)
    # Both features are one, up to the sign: correlations ±1, so λ · 2.
    assert float(value(term_of("barlow_twins", projector=[], lam=0.25), e, e)) == pytest.approx(0.5)
    # std² = 0.5 and the covariance -0.5 in each view: 2µ (1 - √0.5) + 2ν · 2 · 0.25 / 2, views alike.
    loss = float(value(term_of("vicreg", projector=[], eps=1e-12), e, e))
    assert loss == pytest.approx(25 * 2 * (1 - 0.5**0.5) + 0.5, rel=1e-5)


@pytest.mark.parametrize("name", TERMS)
def test_the_projector_sees_each_view(name: str) -> None:
    term = term_of(name)
    projector = term.modules(Sizes((3,), 2, {"features": 3}))["projector"]
    loss = value(term, Z_A, Z_B, projector)
    assert loss.isfinite()
    torch.testing.assert_close(loss, term.between(projector(Z_A), projector(Z_B)))
    assert not list(projector.buffers())  # nothing but parameters travels


def test_projectors_as_in_the_papers() -> None:
    def kinds(name: str, **options: Any) -> list[str]:
        layers = term_of(name, **options).modules(Sizes((64,), 10, {"features": 20}))["projector"]
        return [type(layer).__name__ for layer in layers]  # type: ignore[union-attr]

    three = ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert kinds("barlow_twins") == kinds("vicreg") == three
    assert kinds("simclr") == ["Linear", "ReLU", "Linear"]
    assert kinds("invariant_spreading") == ["Linear"]
    assert term_of("simclr", projector=[]).modules(Sizes((64,), 10, {"features": 20})) == {}
    assert term_of("simclr", projector=[], shared=False).private() == frozenset()
    assert term_of("simclr", shared=False).private() == {"projector"}


@pytest.mark.parametrize(("samples", "options"), [(1, {}), (3, {"least": 4})])
@pytest.mark.parametrize("name", TERMS)
def test_a_mini_batch_of_too_few_samples_trains_nothing(name: str, samples: int, options: dict[str, int]) -> None:
    a = Z_A[:samples].clone().requires_grad_()
    loss = value(term_of(name, **options), a, Z_B[:samples])
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0
    assert a.grad is not None
    assert not a.grad.any()
    projector = nn.Linear(3, 2)
    assert value(term_of(name, **options), Z_A[: samples + 1], Z_B[: samples + 1], projector) != 0


def trained(make: EngineKind, config: dict[str, Any], federation: Federation) -> list[Trained]:
    """Two rounds: the mean of the uploads is the next download."""
    (task,) = make_tasks(build(config), federation)
    strategy = {key: option for key, option in config["strategy"].items() if key != "name"}
    engine, update = make(task), update_of("fedavg", **strategy)
    w, memories, outcomes = task.layout.flatten(task.module), [{}] * 4, []
    for round in (1, 2):
        outcomes = train_cohort(engine, update, w, range(4), memories, round)  # type: ignore[arg-type]
        for outcome in outcomes:
            assert isinstance(outcome, Trained), outcome
        w = torch.stack([outcome.uploads.get("w") for outcome in outcomes]).mean(0)  # type: ignore[union-attr, misc]
        memories = [outcome.memory for outcome in outcomes]  # type: ignore[union-attr, misc]
    assert engine.tracer is None or engine.tracer.replays_all, "a step ran eagerly"
    return outcomes  # type: ignore[return-value]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", TERMS)
def test_engines_agree(name: str, shared: bool) -> None:
    """Clients of 22 samples without a label in mini-batches of 8, so an epoch's last is smaller."""
    config = tables(name)
    config["objective"][0]["shared"] = shared
    federation = federate(build(config).data, 0)
    results = {kind: trained(make, config, federation) for kind, make in ENGINES.items()}
    for kind, outcomes in results.items():
        for a, b in zip(results["one by one"], outcomes):
            assert a.losses == pytest.approx(b.losses, rel=1e-4), kind
            assert a.losses[0] > 0
            torch.testing.assert_close(
                a.uploads.get("w"), b.uploads.get("w"), rtol=1e-4, atol=1e-5, msg=lambda m, k=kind: f"{k}: {m}"
            )
            assert a.memory.keys() == b.memory.keys()
            assert bool(a.memory) == (not shared)


@pytest.mark.parametrize("name", TERMS)
def test_labels_are_never_read(name: str) -> None:
    """Every label another: the same bits. And the head, which only labels could train, stays as it began."""
    config = tables(name)
    federation = federate(build(config).data, 0)
    others = replace(federation, y=(federation.y + 1 + np.arange(len(federation.y)) % 9) % 10)
    make = ENGINES["one by one, traced"]
    for a, b in zip(trained(make, config, federation), trained(make, config, others)):
        assert a.uploads.get("w") is not None
        assert b.uploads.get("w") is not None
        assert torch.equal(a.uploads.get("w"), b.uploads.get("w"))
        began = build_model(build(config).model, federation.shape, 10, 0)
        head = 64 * 12 + 12
        assert torch.equal(a.uploads.get("w")[head : head + 120], began.state_dict()["head.weight"].reshape(-1))
        assert not torch.equal(a.uploads.get("w")[:768], began.state_dict()["features.1.weight"].reshape(-1))


def test_a_run_without_labels(tmp_path: Path) -> None:
    run = fedtl.run(tables("simclr"), out=tmp_path / "run")
    assert [record["train"].keys() for record in run.rounds if "train" in record] == [{"simclr"}] * 2
    assert not any(record["failures"] for record in run.rounds)
    assert {result.test for result in probe(run)} == {"server-test", "clients"}


def probed(folder: Path, term: dict[str, Any], rounds: int = 8, **strategy: Any) -> float:
    """Of a linear probe with a tenth of the labels on the features of a short run without any."""
    config = tables(
        "simclr", objective=[term], seed=1, rounds=rounds, model={"name": "cnn"}, evaluate={"every": rounds}
    )
    config["data"] |= {"clients": 3, "samples": 600}
    config["strategy"] |= {"local_epochs": 1, "batch_size": 32, "momentum": 0.9, **strategy}
    (server, *_) = probe(fedtl.run(config, out=folder), [0.1])
    assert server.test == "server-test"
    return server.accuracy


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> float:
    """The same of the network's first random numbers."""
    return probed(tmp_path_factory.mktemp("untrained") / "run", {"term": "simclr"}, rounds=1, frozen=["features"])


@pytest.mark.parametrize(
    ("term", "lr"),
    [
        ({"term": "barlow_twins", "projector": [64, 64], "eps": 1e-5, "weight": 0.02}, 0.05),
        ({"term": "invariant_spreading", "variant": "authors"}, 0.05),
        ({"term": "simclr"}, 0.1),
        ({"term": "vicreg", "projector": [64, 64], "variant": "authors", "weight": 0.05}, 0.05),
    ],
    ids=lambda value: value["term"] if isinstance(value, dict) else "",
)
def test_features_become_better_without_labels(
    term: dict[str, Any], lr: float, untrained: float, tmp_path: Path
) -> None:
    """By 8 points of 100 or more over the untrained network's 60, of which 5 are asked for."""
    assert probed(tmp_path / "run", term, lr=lr) > untrained + 0.05


@pytest.mark.parametrize("name", TERMS)
def test_what_is_missing(name: str) -> None:
    config = tables(name)
    del config["views"]
    with pytest.raises(ConfigError) as caught:
        build(config)
    assert str(caught.value) == (
        f"objective[0]: the term '{name}' needs random views of images; there are none: add a table [views], which "
        "may be empty"
    )
    with pytest.raises(ConfigError, match=r"^objective\[0\].projector"):
        build(tables(name) | {"objective": [{"term": name, "projector": [0]}]})
    with pytest.raises(ConfigError, match=r"labelled_fraction above 0$"):
        build(tables(name, objective=[{"term": "cross_entropy"}]))
