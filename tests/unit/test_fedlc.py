"""FedLC: the calibrated cross-entropy by hand, classes that a client lacks, and FedAvg at τ = 0."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedtl.choice import ConfigError
from fedtl.config.read import build
from fedtl.engine import Trained
from tests import linear
from tests.parts import (
    EACH_ENGINE,
    EngineKind,
    engine_of,
    federation_of,
    small_module,
    train_cohort,
    update_of,
)
from tests.unit.test_ditto import three_rounds


@EACH_ENGINE
def test_a_step_by_hand(kind: EngineKind) -> None:
    """A full-batch step of a linear model of five classes, of which clients lack some."""
    federation, tau, lr = federation_of([9, 14, 4], classes=5), 0.7, 0.3
    engine = engine_of(federation, nn.Linear(6, 5), kind)
    layout = engine.task.layout
    start = layout.flatten(engine.task.module)
    update = update_of("fedlc", lr=lr, tau=tau, batch_size=0, local_steps=1)
    lacking = 0
    for client, outcome in enumerate(train_cohort(engine, update, start, range(3), [{}] * 3, 1)):
        assert isinstance(outcome, Trained)
        rows = federation.train[client]
        x, y = torch.from_numpy(federation.x[rows]), torch.from_numpy(federation.y[rows])
        module = nn.Linear(6, 5)
        layout.load(module, start)
        counts = torch.bincount(y, minlength=5)
        present = counts > 0
        lacking += int((~present).sum())
        logits = (module(x) - tau * counts ** (-0.25))[:, present]
        loss = F.cross_entropy(logits, present.cumsum(0)[y] - 1)
        loss.backward()
        assert outcome.losses[0] == pytest.approx(loss.item(), rel=1e-5)
        moved = nn.Linear(6, 5)
        layout.load(moved, outcome.uploads["w"])
        for own, parameter in zip(moved.parameters(), module.parameters()):
            assert parameter.grad is not None
            torch.testing.assert_close(own.data, parameter.data - lr * parameter.grad, rtol=1e-5, atol=1e-6)
            assert torch.equal(own[~present], parameter[~present]), "what it lacks stays as it is"
    assert lacking


@EACH_ENGINE
def test_without_tau_it_is_fedavg_bit_for_bit(kind: EngineKind) -> None:
    options: dict[str, Any] = {"lr": 0.1, "batch_size": 10, "local_epochs": 2, "momentum": 0.5}
    ours = three_rounds(kind, update_of("fedlc", tau=0.0, **options))
    for (upload, _), (fedavg, _) in zip(ours, three_rounds(kind, update_of("fedavg", **options))):
        assert upload is not None
        assert fedavg is not None
        assert torch.equal(upload, fedavg)


@EACH_ENGINE
def test_equal_counts_calibrate_nothing(kind: EngineKind) -> None:
    """All logits then move by the same."""
    federation = federation_of([12, 12])
    federation.y[:] = np.arange(len(federation.y)) % 3
    for client in range(2):
        federation.y[federation.train[client]] = np.arange(12) % 3
    ends = []
    for method in ("fedlc", "fedavg"):
        engine = engine_of(federation, small_module(), kind)
        w, update = engine.task.layout.flatten(engine.task.module), update_of(method, lr=0.1, batch_size=6)
        ends.append([o.uploads["w"] for o in train_cohort(engine, update, w, range(2), [{}] * 2, 1)])  # type: ignore[union-attr]
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-6)


def tables(**strategy: Any) -> dict[str, Any]:
    return linear.tables("fedlc", 0.3, **{"lr": 0.3, "batch_size": 0, "local_steps": 2, **strategy})


@EACH_ENGINE
@pytest.mark.parametrize("tau", [0.0, 0.7])
def test_the_papers_sum_over_the_other_classes_by_hand(tau: float, kind: EngineKind) -> None:
    """-log(exp(f_y - τ n_y^(-1/4)) / Σ_{c ≠ y} exp(f_c - τ n_c^(-1/4))), where n_c = 0 leaves the sum."""
    lacking = []

    def loss(logits: Tensor, _: Tensor, y: Tensor) -> Tensor:
        counts = torch.bincount(y, minlength=10).double()
        lacking.append(int((counts == 0).sum()))
        terms = (logits - (tau * counts**-0.25 if tau else 0)).exp()
        own = terms.gather(1, y[:, None])[:, 0]
        return -(own / (terms.sum(1) - own)).log().mean()

    linear.assert_steps(tables(tau=tau, sum_over="others"), kind, loss)
    assert any(lacking)


def test_smoothed_labels_have_no_sum_over_the_others() -> None:
    smoothed = {"objective": [{"term": "cross_entropy", "label_smoothing": 0.1}]}
    with pytest.raises(ConfigError, match=r"sum_over = 'others': the term 'cross_entropy' has label_smoothing = 0\.1"):
        build({**tables(sum_over="others"), **smoothed})
    assert build({**tables(), **smoothed}).stages()[0].objective[0].term == "cross_entropy"
