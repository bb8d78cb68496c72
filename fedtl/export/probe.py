"""What a trained network's features are worth: a simple classifier on them, frozen, with some labels or all.

The network trained in a federation, perhaps without a single label; the probe is where labels come in. The features
are what its head receives, in evaluation mode.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedtl.choice import ConfigError, nearest
from fedtl.data.federation import Shards
from fedtl.data.partitions.contract import by_label
from fedtl.export.features import Features, opened
from fedtl.random import Purpose, stream
from fedtl.runs.history import Run
from fedtl.server.scores import Coverage, Summary, summarise

Kind = Literal["linear", "knn"]
Labels = NDArray[np.int64]

KINDS = ("linear", "knn")

BLOCK = 500
"""Samples that are compared with all training samples at a time."""


@dataclass(frozen=True)
class Fitted:
    """A classifier on features.

    Attributes:
        predict: features ``[n, f]`` to labels ``[n]``.
        constant: whether it has seen one class alone, and says that.
        converged: whether its fit has come to its end.
    """

    predict: Callable[[Features], Labels]
    constant: bool = False
    converged: bool = True

    def accuracy(self, features: Features, labels: Labels) -> float:
        """The share of the samples whose label it says."""
        return float((self.predict(features) == labels).mean())


def fit_linear(features: Features, labels: Labels, C: float = 1.0, max_iter: int = 1000) -> Fitted:
    """Multinomial logistic regression on standardised features, by scikit-learn (L-BFGS).

    Args:
        features: of the training samples, one at least.
        labels: theirs.
        C: one over the weight of ½‖W‖² beside the samples' summed cross-entropy.
        max_iter: of L-BFGS.
    """
    if len(np.unique(labels)) < 2:
        return _constant(labels)
    from sklearn.exceptions import ConvergenceWarning  # takes a second
    from sklearn.linear_model import LogisticRegression

    mean, std = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    std[std <= 1e-9 * np.abs(mean)] = 1.0  # a feature that is constant, but for the mean's rounding

    def standard(x: Features) -> NDArray[np.float64]:
        return np.asarray((x - mean) / std)

    model = LogisticRegression(C=C, max_iter=max_iter)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(standard(features), labels)
    converged = not any(issubclass(each.category, ConvergenceWarning) for each in caught)

    def predict(x: Features) -> Labels:
        return np.asarray(model.predict(standard(x)), np.int64)

    return Fitted(predict, converged=converged)


def fit_knn(features: Features, labels: Labels, classes: int, k: int = 20, tau: float | None = 0.1) -> Fitted:
    """The k nearest training samples by cosine similarity s vote, each with the weight exp(s / tau).

    As in Wu et al. 2018 (arXiv:1805.01978, section 3.4) and Ye et al. 2019 (arXiv:1904.03436), who take k = 200.

    Args:
        features: of the training samples, one at least; fewer than k all vote.
        labels: theirs.
        classes: number of labels.
        k: how many vote.
        tau: the weights' temperature; None: each has one vote. Of equals the smallest label wins.
    """
    known, answers = _on_sphere(features), torch.from_numpy(labels)
    k = min(k, len(known))

    def predict(x: Features) -> Labels:
        blocks = [torch.empty(0, dtype=torch.int64)]
        for block in torch.split(_on_sphere(x), BLOCK):
            near, which = (block @ known.T).topk(k, 1)
            # Relative to the nearest: only ratios count, and exp(1 / tau) may be more than a float holds.
            weight = torch.ones_like(near) if tau is None else ((near - near[:, :1]) / tau).exp()
            votes = torch.zeros(len(block), classes).scatter_add_(1, answers[which], weight)
            blocks.append(votes.argmax(1))
        return torch.cat(blocks).numpy()

    return Fitted(predict, constant=len(np.unique(labels)) < 2)


def _on_sphere(x: Features) -> torch.Tensor:
    return nn.functional.normalize(torch.from_numpy(np.ascontiguousarray(x, np.float32)), dim=1)


def _constant(labels: Labels) -> Fitted:
    return Fitted(lambda x: np.full(len(x), labels[0], np.int64), constant=True)


def linear_probe(
    train_features: Features,
    train_labels: Labels,
    test_features: Features,
    test_labels: Labels,
    classes: int,
    C: float = 1.0,
    max_iter: int = 1000,
) -> float:
    """Accuracy of :func:`fit_linear` on test samples; of ``classes``, one without training samples is never said."""
    assert train_labels.max() < classes
    return fit_linear(train_features, train_labels, C, max_iter).accuracy(test_features, test_labels)


def knn(
    train_features: Features,
    train_labels: Labels,
    test_features: Features,
    test_labels: Labels,
    classes: int,
    k: int = 20,
    tau: float | None = 0.1,
) -> float:
    """Accuracy of :func:`fit_knn` on test samples."""
    return fit_knn(train_features, train_labels, classes, k, tau).accuracy(test_features, test_labels)


def labelled(labels: Labels, share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Random places of ``share`` of the labels, ascending: of each class its share up to one, and at least one."""
    per_class = np.bincount(labels)
    ends = np.cumsum(per_class)
    take = np.diff(np.rint(ends * share).astype(np.int64), prepend=0)
    take = np.maximum(take, np.minimum(per_class, 1))
    place = np.arange(len(labels)) - np.repeat(ends - per_class, per_class)
    return np.sort(by_label(labels, rng)[place < np.repeat(take, per_class)])


@dataclass(frozen=True)
class Result:
    """One probe's accuracy.

    Attributes:
        kind: "linear" or "knn".
        share: of the training labels that was used.
        train: "pooled": all clients' training samples, one probe; "own": each client's own, a probe each.
        test: "server-test"; "clients": each client's own test samples.
        seed: of the draw of labels.
        train_samples: labelled samples that were used; with "own" those of all clients.
        test_samples: of all clients, or the server's.
        accuracy: over the test samples.
        clients: how many were scored; 0 for the server's test set.
        of: how many hold test samples; more than were scored where some have nothing to train a probe of their own.
        constant: how many probes saw one class alone, and say that.
        unconverged: how many fits ended at their last iteration.
        over_clients: the accuracies' summary, as a run's scores have it; empty for the server's test set.
    """

    kind: Kind
    share: float
    train: Literal["pooled", "own"]
    test: Literal["server-test", "clients"]
    seed: int
    train_samples: int
    test_samples: int
    accuracy: float
    clients: int = 0
    of: int = 0
    constant: int = 0
    unconverged: int = 0
    over_clients: Summary = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Which classifier on which features, trained on what, tested on what."""
        probe = "linear probe" if self.kind == "linear" else "kNN"
        train, test = {"server-test": ("pooled", "server test"), "clients": ("pooled", "clients' test samples")}[
            self.test
        ]
        if self.train == "own":
            train, test = "each client's own", "its own test samples"
        return f"{probe} on global-model features, {100 * self.share:g} % of labels: {train} -> {test}"

    @property
    def coverage(self) -> Coverage:
        """How many clients were scored, of how many."""
        return Coverage(self.clients, self.of)

    @property
    def remark(self) -> str:
        """What else one should know; empty if nothing."""
        remarks = []
        if self.constant:
            who = f"{self.constant} of {self.clients} clients train" if self.train == "own" else "the pool trains"
            remarks.append(f"{who} on one class alone: the constant prediction")
        if self.unconverged:
            remarks.append(f"{self.unconverged} fits not converged" if self.train == "own" else "fit not converged")
        return "; ".join(remarks)


def probe(run: Run, shares: Sequence[float] = (1.0,), kind: Kind = "linear", seed: int | None = None) -> list[Result]:
    """Probe the features of a run's final global model, on its own federation.

    Args:
        run: a finished run.
        shares: of the training labels to use, one after the other.
        kind: "linear": :func:`fit_linear`; "knn": :func:`fit_knn`.
        seed: of the draw of labels; the run's if None.

    Returns:
        For each share the pooled probe on the server's test set and on the clients' test samples, and the clients' own
        probes, as far as there are such samples.

    Raises:
        ConfigError: the run has no final model, an argument is wrong, or there is nothing to train or test with.
    """
    if kind not in KINDS:
        raise ConfigError(f"--kind = {kind!r}: {nearest(str(kind), KINDS)}")
    for share in shares:
        if not 0 < share <= 1:
            raise ConfigError(f"--labels = {share:g}: give a share of the training labels, above 0 and at most 1")
    if seed is not None and seed < 0:
        raise ConfigError(f"--seed = {seed}: give a whole number, 0 or more")
    config, federation, see = opened(run, "probe")
    if not config.data.task.labelled:
        raise ConfigError(
            f"{run.path}: data.task is {config.data.task.name!r}, and a probe says classes, which these samples lack"
        )
    # Without labels for training, or with few, a client's training samples are the target's, whose labels lie in y.
    whole = federation.target if config.data.labelled_fraction < 1 else None
    train = federation.train if whole is None else whole.train
    if not len(train.order):
        raise ConfigError(f"{run.path}: no client holds a training sample, so there is nothing to train a probe with")
    if not len(federation.test.order) and not len(federation.server_test):
        raise ConfigError(
            f"{run.path}: neither the server nor a client holds a test sample; run with data.test_share or "
            "data.server_test_share"
        )
    source = _RunFolder(
        (see(train.order), federation.y[train.order], train),
        (see(federation.test.order), federation.y[federation.test.order], federation.test),
        (see(federation.server_test), federation.y[federation.server_test]),
        federation.classes,
    )
    drawn = config.seed if seed is None else seed
    return [result for share in shares for result in _results(source, share, kind, drawn)]


@dataclass(frozen=True)
class _RunFolder:
    """Features and labels, in the order of the shards."""

    train: tuple[Features, Labels, Shards]
    test: tuple[Features, Labels, Shards]
    server_test: tuple[Features, Labels]
    classes: int


def _results(source: _RunFolder, share: float, kind: Kind, seed: int) -> list[Result]:
    x, y, train = source.train
    tests_x, tests_y, test = source.test
    fit: Callable[[Features, Labels], Fitted] = (
        fit_linear if kind == "linear" else partial(fit_knn, classes=source.classes)
    )
    used = labelled(y, share, stream(seed, Purpose.PROBE_DRAW, 0))
    pooled = fit(x[used], y[used])
    about: dict[str, Any] = {
        "kind": kind,
        "share": share,
        "train": "pooled",
        "seed": seed,
        "train_samples": len(used),
        "constant": int(pooled.constant),
        "unconverged": int(not pooled.converged),
    }
    results = []
    if len(source.server_test[1]):
        pooled_accuracy = pooled.accuracy(*source.server_test)
        results.append(
            Result(**about, test="server-test", accuracy=pooled_accuracy, test_samples=len(source.server_test[1]))
        )
    if not len(tests_y):
        return results

    def cut(shards: Shards, client: np.integer[Any]) -> slice:
        return slice(shards.offsets[client], shards.offsets[client + 1])

    hits = pooled.predict(tests_x) == tests_y
    scored = np.flatnonzero(test.sizes)
    results.append(
        Result(
            **about,
            **_over_clients([float(hits[cut(test, i)].mean()) for i in scored], test.sizes[scored]),
            test="clients",
        )
    )
    both = np.flatnonzero((test.sizes > 0) & (train.sizes > 0))
    accuracies, samples, fits = [], 0, []
    for i in both:
        mine = cut(train, i)
        used = labelled(y[mine], share, stream(seed, Purpose.PROBE_DRAW, 1, int(i)))
        own = fit(x[mine][used], y[mine][used])
        fits.append(own)
        samples += len(used)
        accuracies.append(own.accuracy(tests_x[cut(test, i)], tests_y[cut(test, i)]))
    if len(both):
        counts = {
            "train_samples": samples,
            "constant": sum(own.constant for own in fits),
            "unconverged": sum(not own.converged for own in fits),
            "of": len(scored),
        }
        over = _over_clients(accuracies, test.sizes[both]) | counts
        results.append(Result(**about | {"train": "own"} | over, test="clients"))
    return results


def _over_clients(accuracies: Sequence[float], sizes: NDArray[np.int64]) -> dict[str, Any]:
    summary = summarise(accuracies, sizes.tolist(), higher_is_better=True)
    return {
        "accuracy": summary["weighted_mean"],
        "test_samples": int(sizes.sum()),
        "clients": len(accuracies),
        "of": len(accuracies),
        "over_clients": summary,
    }
