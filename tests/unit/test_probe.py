from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from fedtl.data.federation import Shards
from fedtl.export.features import features_of
from fedtl.export.probe import (
    Result,
    _results,
    _RunFolder,
    fit_knn,
    fit_linear,
    knn,
    labelled,
    linear_probe,
)
from tests.parts import federation_of, small_module


def blobs(n: int, seed: int = 0, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Features of classes far apart, on scales that differ by 10^6, and a constant one."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    corners = np.array([[1.0, 0], [-1, 1], [-1, -1]])[y]
    x = np.column_stack([(corners + 0.1 * rng.normal(size=(n, 2))) * (1e3, 1e-3), np.full(n, 7.0)])
    return x.astype(np.float32), y


def test_separable_features() -> None:
    (x, y), (u, v) = blobs(60), blobs(30, 1)
    assert linear_probe(x, y, u, v, 3) == 1.0
    directions = np.array([[1.0, 0], [-1, 1], [-1, -1]], np.float32)
    assert knn(directions[y], y, 5 * directions[v], v, 3) == 1.0  # the length of a feature vector is nothing
    assert knn(directions[y], y, 5 * directions[v], v, 3, tau=None) == 1.0


def test_the_linear_probe_is_logistic_regression() -> None:
    rng = np.random.default_rng(0)
    x = np.sign(rng.normal(size=(40, 1))).astype(np.float32)
    x -= x.mean()
    x /= x.std()
    y = ((x[:, 0] > 0) ^ (rng.random(40) < 0.2)).astype(np.int64)
    fitted = fit_linear(3 * x + 5, y)
    assert fitted.converged
    assert not fitted.constant
    assert fitted.accuracy(3 * x + 5, y) == max(np.mean((x[:, 0] > 0) == y), np.mean((x[:, 0] <= 0) == y))
    rough = rng.normal(size=(200, 20)).astype(np.float32)
    assert not fit_linear(rough, rng.integers(5, size=200), max_iter=1).converged


def test_knn_by_hand() -> None:
    """Four samples at 0°, 60°, 60°, 180° of labels 0, 1, 1, 2; one asks from 20°."""
    angles = np.radians([0, 60, 60, 180])
    x = np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    y = np.array([0, 1, 1, 2])
    ask = 4 * np.array([[math.cos(math.radians(20)), math.sin(math.radians(20))]], np.float32)

    def predict(k: int, tau: float | None) -> int:
        return int(fit_knn(x, y, 3, k, tau).predict(ask)[0])

    # cos 20° = 0.940, cos 40° = 0.766: exp(0.940 / τ) > 2 exp(0.766 / τ) where τ < 0.174 / ln 2 = 0.2507.
    assert predict(1, None) == 0
    assert predict(3, None) == predict(20, None) == 1
    assert predict(3, 0.245) == predict(4, 0.245) == 0
    assert predict(3, 0.256) == predict(4, 0.256) == 1
    assert predict(3, 1e-6) == 0  # exp(1 / tau) is no float32
    assert int(fit_knn(x[[3, 0]], y[[3, 0]], 3, 2, None).predict(ask)[0]) == 0  # one vote each: the smallest label


@pytest.mark.parametrize(("share", "takes"), [(0.1, [40, 4, 1]), (1.0, [400, 40, 3]), (0.001, [1, 1, 1])])
def test_a_share_of_the_labels(share: float, takes: list[int]) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 2, 4], [400, 40, 3]))

    def draw(seed: int) -> np.ndarray:
        return labelled(labels, share, np.random.default_rng(seed))

    chosen = draw(1)
    assert np.bincount(labels[chosen], minlength=5).tolist() == [takes[0], 0, takes[1], 0, takes[2]]
    assert (np.diff(chosen) > 0).all()
    assert np.array_equal(chosen, draw(1))
    assert share == 1 or not np.array_equal(chosen, draw(2))


@pytest.mark.parametrize("fit", ["linear", "knn"])
def test_one_class_alone(fit: str) -> None:
    x, y = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32), np.full(5, 2)
    fitted = fit_linear(x, y) if fit == "linear" else fit_knn(x, y, 4)
    assert fitted.constant
    assert fitted.predict(x).tolist() == [2] * 5


@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_clients(kind: str) -> None:
    """Three classes at three clients: two of all, of one alone, and one that is only tested."""
    directions = np.array([[1.0, 0], [-1, 1], [-1, -1]], np.float32)
    y, v = np.array([0, 1, 2, 0, 1, 2, 1, 1]), np.array([0, 1, 2, 1, 0, 2, 2])
    train, test = (
        Shards.from_sizes(np.arange(8), np.array([6, 2, 0])),
        Shards.from_sizes(np.arange(7), np.array([3, 2, 2])),
    )
    run_folder = _RunFolder((directions[y], y, train), (directions[v], v, test), (directions[v[:1]], v[:1]), 3)
    results = _results(run_folder, 1.0, kind, 0)  # type: ignore[arg-type]
    server, pooled, own = results
    assert [(each.train, each.test) for each in results] == [
        ("pooled", "server-test"),
        ("pooled", "clients"),
        ("own", "clients"),
    ]
    assert (server.accuracy, server.train_samples, server.test_samples, server.clients) == (1.0, 8, 1, 0)
    assert (pooled.accuracy, pooled.test_samples, pooled.clients, pooled.constant) == (1.0, 7, 3, 0)
    # The second client has seen label 1 alone and is asked for 1 and 0; the third has no probe of its own.
    if kind == "linear":
        assert (own.accuracy, own.over_clients["mean"], own.over_clients["worst_decile"]) == (0.8, 0.75, 0.5)
    assert (own.train_samples, own.test_samples, own.clients, own.constant) == (8, 5, 2, 1)
    assert own.remark == "1 of 2 clients train on one class alone: the constant prediction"
    assert server.remark == pooled.remark == ""
    few = _results(run_folder, 0.01, kind, 0)  # type: ignore[arg-type]
    assert [each.train_samples for each in few] == [3, 3, 4]
    assert few == _results(run_folder, 0.01, kind, 0)  # type: ignore[arg-type]


def test_names() -> None:
    one = Result("linear", 0.01, "pooled", "server-test", 0, 5, 5, 0.9)
    assert one.name == "linear probe on global-model features, 1 % of labels: pooled -> server test"
    own = Result("knn", 1.0, "own", "clients", 0, 5, 5, 0.9, clients=3, unconverged=2)
    assert own.name == "kNN on global-model features, 100 % of labels: each client's own -> its own test samples"
    assert own.remark == "2 fits not converged"


@pytest.mark.parametrize("n", [0, 7, 1003])
def test_features_are_what_the_head_receives(n: int) -> None:
    federation, module = federation_of([700, 500]), small_module().eval()
    rows = np.random.default_rng(0).integers(len(federation.x), size=n)
    features = features_of(module, federation, rows)
    with torch.no_grad():
        wanted = module[:-1](torch.from_numpy(federation.x[rows]))  # type: ignore[index]
    assert len(features) == n
    if n:
        np.testing.assert_allclose(features, wanted.numpy(), rtol=1e-5, atol=1e-6)


def test_features_of_a_head_alone_are_the_inputs() -> None:
    federation = federation_of([1200])
    rows = federation.train.order
    features = features_of(nn.Sequential(nn.Flatten(), nn.Linear(6, 3)), federation, rows)
    assert np.array_equal(features, federation.x[rows])
