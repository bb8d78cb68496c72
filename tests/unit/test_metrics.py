"""Metrics beside scikit-learn's, on random and on degenerate predictions, and in a run's records."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sklearn

import fedtl
from fedtl import plot
from fedtl.choice import ConfigError
from fedtl.config.read import build
from fedtl.data.federate import federate
from fedtl.metrics import METRICS, SMALLER_IS_BETTER, Labels, Metrics, Probabilities, read_metrics
from fedtl.metrics.contract import Metric, OfSamples
from fedtl.metrics.probabilities import ONE
from fedtl.metrics.ranking import BINS
from fedtl.metrics.registry import headline
from fedtl.server.scores import ClientScores

Tables = Mapping[str, NDArray[np.int64]]
Theirs = Callable[[Labels, Probabilities], float]


def of_labels(function: Callable[..., float], **options: object) -> Theirs:
    return lambda y, p: function(y, p.argmax(1), **options)


def rest(function: Callable[..., float], defined: Callable[[Labels, int], bool]) -> Theirs:
    """Each class against the rest; of two classes the second."""

    def mean(y: Labels, p: Probabilities) -> float:
        k = p.shape[1]
        classes = [c for c in ([1] if k == 2 else range(k)) if defined(y, c)]
        return float(np.mean([function(y == c, p[:, c]) for c in classes])) if classes else math.nan

    return mean


def brier(y: Labels, p: Probabilities) -> float:
    k = p.shape[1]
    score = sum(sklearn.mean_squared_error(y == c, p[:, c]) for c in range(k))
    return float(score / 2 if k == 2 else score)


def calibration_error(y: Labels, p: Probabilities) -> float:
    """Guo et al. 2017, equation 3, bin by bin."""
    confidence, total = p.max(1), 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            total += inside.mean() * abs((p.argmax(1) == y)[inside].mean() - confidence[inside].mean())
    return total


SKLEARN: dict[str, Theirs] = {
    "auc": rest(sklearn.roc_auc_score, lambda y, c: 0 < (y == c).sum() < len(y)),
    "average_precision": rest(sklearn.average_precision_score, lambda y, c: bool((y == c).any())),
    "balanced_accuracy": of_labels(sklearn.balanced_accuracy_score),
    "brier": brier,
    "ece": calibration_error,
    "log_loss": lambda y, p: float(sklearn.log_loss(y, p, labels=range(p.shape[1]))),
    "macro_f1": of_labels(sklearn.f1_score, average="macro", zero_division=0),
    "macro_precision": of_labels(sklearn.precision_score, average="macro", zero_division=0),
    "weighted_f1": of_labels(sklearn.f1_score, average="weighted", zero_division=0),
}
BY_CLASS = {"precision_by_class": sklearn.precision_score, "recall_by_class": sklearn.recall_score}


def predictions(seed: int, kind: str) -> tuple[Labels, Probabilities]:
    rng = np.random.default_rng(seed)
    k = int(rng.integers(2, 6))
    n = 1 if kind == "one sample" else int(rng.integers(2, 80))
    p = rng.dirichlet(np.ones(k), n)
    if kind == "ties":  # in halves of powers of two, so that they stay ties
        p = rng.multinomial(4, np.ones(k) / k, n) / 4
    y = rng.integers(0, k, n)
    if kind == "one class":
        y[:] = y[0]
    elif kind == "a class absent":
        y[y == k - 1] = 0
    return y, p


KINDS = ("random", "ties", "one sample", "one class", "a class absent")


@pytest.mark.parametrize("kind", KINDS)
def test_as_scikit_learn_has_them(kind: str) -> None:
    assert METRICS.keys() == SKLEARN.keys() | BY_CLASS.keys()
    metrics = read_metrics(list(METRICS))
    for seed in range(12):
        y, p = predictions(seed, kind)
        expected = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected |= {name: theirs(y, p) for name, theirs in SKLEARN.items()}
            for name, function in BY_CLASS.items():
                each = function(y, p.argmax(1), average=None, labels=range(p.shape[1]), zero_division=np.nan)
                expected |= {f"{name}/{c}": value for c, value in enumerate(each)}
        assert metrics.of(y, p) == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_what_is_not_defined() -> None:
    y, p = np.zeros(3, np.int64), np.full((3, 2), 0.5)
    values = read_metrics(["auc", "average_precision", "recall_by_class", "precision_by_class", "macro_f1"]).of(y, p)
    undefined = {name for name, value in values.items() if math.isnan(value)}
    assert undefined == {"auc", "average_precision", "recall_by_class/1", "precision_by_class/1"}


@pytest.mark.parametrize("kind", KINDS)
def test_tables_add_up_to_the_metric_of_all(kind: str) -> None:
    metrics = read_metrics(list(METRICS))
    parts = [(y, p) for y, p in (predictions(seed, kind) for seed in range(40)) if p.shape[1] == 3]
    y, p = (np.concatenate(each) for each in zip(*parts))
    tables = [metrics.tabulate(*part) for part in parts]
    total = {name: sum(table[name] for table in tables) for name in metrics.tables}
    for name, table in metrics.tabulate(y, p).items():
        np.testing.assert_array_equal(total[name], table)
        assert table.max() <= len(y) * metrics.tables[name].most
    exact, whole = pooled(metrics, total, (y, p)), metrics.of(y, p)
    np.testing.assert_equal(exact, {name: whole[name] for name in exact})
    means = {name for name, metric in metrics.by_name.items() if isinstance(metric, OfSamples)}
    assert whole.keys() - exact.keys() == means  # which are clients' weighted means
    binned = pooled(metrics, total, None)
    assert binned.keys() == exact.keys()
    for name in exact.keys() - {"auc", "average_precision"}:
        assert binned[name] == pytest.approx(exact[name], abs=2 / ONE * len(y), nan_ok=True)
    of_bins = {name for name, each in metrics.pooled(total, None).items() if each.get("bins") == BINS}
    assert of_bins == {"auc", "average_precision"}
    assert not any("bins" in each for each in metrics.pooled(total, (y, p)).values())


def pooled(metrics: Metrics, tables: Tables, predictions: tuple[Labels, Probabilities] | None) -> dict[str, float]:
    return {name: each["pooled"] for name, each in metrics.pooled(tables, predictions).items()}


def test_all_are_pooled_over_the_same_samples() -> None:
    metrics = read_metrics(list(METRICS))
    y, p = predictions(0, "random")
    broken = p.copy()
    broken[1] = np.nan
    others = np.delete(np.arange(len(y)), 1)
    expected = pooled(metrics, metrics.tabulate(y[others], p[others]), (y[others], p[others]))
    np.testing.assert_equal(pooled(metrics, metrics.tabulate(y, broken), (y, broken)), expected)


def test_of_no_samples_nothing_is_defined() -> None:
    metrics = read_metrics(list(METRICS))
    none = metrics.tabulate(np.zeros(0, np.int64), np.zeros((0, 3)))
    empty = np.zeros(0, np.int64), np.zeros((0, 3))
    for known in (None, empty):
        assert all(math.isnan(value) for value in pooled(metrics, none, known).values())


def test_the_histogram_is_exact_where_bins_tell_samples_apart() -> None:
    metrics = read_metrics(["auc", "average_precision"])
    y = np.array([0, 1, 1, 0, 2, 2])
    p = np.array([[6, 1, 1], [1, 6, 1], [2, 2, 4], [4, 4, 0], [0, 0, 8], [3, 3, 2]]) / 8
    assert pooled(metrics, metrics.tabulate(y, p), None) == pytest.approx(metrics.of(y, p))


def test_predictions_that_are_no_numbers() -> None:
    metrics = read_metrics(list(METRICS))
    y, p = predictions(0, "random")
    broken = p.copy()
    broken[1] = np.nan
    assert all(math.isnan(value) for value in metrics.of(y, broken).values())
    rest_of_them = np.delete(np.arange(len(y)), 1)
    for name, table in metrics.tabulate(y, broken).items():
        np.testing.assert_array_equal(table, metrics.tabulate(y[rest_of_them], p[rest_of_them])[name])


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_metrics.py").write_text(
        "def hits(labels, probabilities):\n    return (probabilities.argmax(1) == labels).sum()\n"
        "def auc(labels, probabilities):\n    return 0\nnumber = 3\n"
        "def wrong(labels, probabilities):\n    return probabilities\n"
        "def word(labels, probabilities):\n    return 'no'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    metrics = read_metrics(["accuracy", "my_metrics:hits", "loss", "macro_f1"])
    assert list(metrics.by_name) == ["hits", "macro_f1"]
    assert metrics.of(np.array([1, 0]), np.array([[0.2, 0.8], [0.3, 0.7]]))["hits"] == 1
    assert metrics.names(4) == ["hits", "macro_f1"]
    for names, message in (
        (["macro_f"], r"evaluate\.metrics = 'macro_f' is unknown: did you mean 'macro_f1'\?"),
        (["acuracy"], r"evaluate\.metrics = 'acuracy' is unknown: did you mean 'accuracy'\?"),
        (["my_metrics:auc"], "there is another metric 'auc'; give this one another name"),
        (["auc", "auc"], "there is another metric 'auc'"),
        (["my_metrics:number"], "it is neither a function nor a subclass of fedtl.metrics.Metric"),
        (["my_metrics:nothing"], "the module 'my_metrics' has no 'nothing'"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_metrics(names)
    for name, message in (
        ("wrong", r"it gives an array of shape \[2, 2\], and should give one number"),
        ("word", "ValueError: could not convert string to float: 'no'"),
    ):
        with pytest.raises(ConfigError, match=rf"evaluate\.metrics = 'my_metrics:{name}': {message}"):
            read_metrics([f"my_metrics:{name}"]).of(np.zeros(2, np.int64), np.ones((2, 2)))


class OfEachClass(Metric):
    """The mean probability of each class, which no table tells."""

    by_class = True
    exact = False

    def of(self, labels: Any, probabilities: Any) -> Any:
        return probabilities.mean(0)


def test_why_each_class_of_a_metric_is_not_pooled() -> None:
    metrics = read_metrics(["tests.unit.test_metrics:OfEachClass"])
    values = {name: [0.5] for name in metrics.names(2)}
    scores = ClientScores([0], [3], values={"global": values}, pooled={"global": metrics.pooled({}, None)})
    rows = scores.summary()["global/clients"]
    for number in (0, 1):
        assert rows[f"OfEachClass/{number}"]["not_pooled"] == "clients keep their predictions"  # type: ignore[index]


def test_what_a_run_is_shown_by() -> None:
    assert headline([], {"accuracy"}) == "accuracy"
    assert headline(["recall_by_class", "mine:auc"], {"accuracy", "recall_by_class/0", "auc"}) == "auc"
    assert not Metrics()


def test_which_way_is_better() -> None:
    y = np.array([0, 1, 2, 0, 1, 2])
    right, wrong = np.eye(3)[y] * 0.7 + 0.1, np.eye(3)[(y + 1) % 3] * 0.7 + 0.1
    metrics = read_metrics(list(METRICS))
    good, bad = metrics.of(y, right), metrics.of(y, wrong)
    for name in good:
        assert good[name] != bad[name]
        assert (good[name] < bad[name]) == (name in SMALLER_IS_BETTER), name


def test_a_metric_that_raises_costs_its_client_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "few_labels.py").write_text(
        "def metric(labels, probabilities):\n"
        "    if len(set(labels)) < 6:\n        raise ValueError('too few labels')\n"
        "    return 1.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    overrides = [*OVERRIDES, "data.validation_share=0", "data.server_test_share=0", "rounds=1"]
    run = fedtl.run("quickstart", [*overrides, 'evaluate.metrics=["few_labels:metric"]'], out=tmp_path / "run")
    federation = federate(build(dict(run.config)).data, run.seed)
    few = [i for i in range(4) if len(set(federation.y[federation.test[i]])) < 6]
    assert 0 < len(few) < 4
    assert run.missing() == {"global/clients": few, "personal/clients": few}
    assert run.last("metric", "mean")["global/clients"].value == 1
    assert all("too few labels" in failure["message"] for failure in run.rounds[-1]["failures"])


OVERRIDES = [
    "rounds=2",
    "data.clients=4",
    "data.validation_share=0.2",
    "strategy.clients_per_round=3",
    "simulation.grid=in-process",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> fedtl.Run:
    asked = ["macro_f1", "recall_by_class", "auc", "brier", "ece"]
    return fedtl.run(
        "quickstart", [*OVERRIDES, f"evaluate.metrics={json.dumps(asked)}"], out=tmp_path_factory.mktemp("run")
    )


def test_a_run_records_every_client_and_all_together(run: fedtl.Run) -> None:
    scores = run.rounds[-1]["scores"]
    assert run.metric == "macro_f1"
    for name in ("global/clients", "personal/clients", "personal/validation-clients"):
        each = scores[name]
        assert {"macro_f1", "auc", "brier", "ece", "recall_by_class/0", "recall_by_class/9"} <= each.keys()
        values = np.array([value for value in run.client_scores("auc")[name] if not np.isnan(value)])
        assert each["auc"]["mean"] == pytest.approx(values.mean())
        assert each["auc"]["undefined"] == 4 - len(values)
        assert "pooled" not in each["brier"]  # the weighted mean is the same
        assert "bins" not in each["auc"]
    assert scores["global/server-test"]["macro_f1"] > 0
    undefined = [value for value in run.client_scores("recall_by_class/0")["global/clients"] if np.isnan(value)]
    assert scores["global/clients"]["recall_by_class/0"]["undefined"] == len(undefined)


def test_they_change_nothing_else(run: fedtl.Run, tmp_path: Path) -> None:
    plain = fedtl.run("quickstart", OVERRIDES, out=tmp_path / "plain")
    assert (plain.path / "model.safetensors").read_bytes() == (run.path / "model.safetensors").read_bytes()
    for with_metrics, without in zip(run.rounds, plain.rounds):
        for name, score in without.get("scores", {}).items():
            assert {key: with_metrics["scores"][name][key] for key in score} == score


def test_readers_take_them_by_name(run: fedtl.Run, tmp_path: Path) -> None:
    assert run.best("ece")["global/clients"].value == min(run.scores("ece")["global/clients"].values)
    assert (
        run.last("auc", "pooled")["personal/clients"].value
        == run.rounds[-1]["scores"]["personal/clients"]["auc"]["pooled"]
    )
    comparison = fedtl.compare([run], metric="ece")
    assert comparison.smaller_is_better
    assert fedtl.compare([run]).metric == "macro_f1"
    figure = plot.per_client([run], "recall_by_class/0")  # which is not defined at every client
    assert figure.axes[0].get_xlabel() == "recall_by_class/0 of each client"
    assert "macro_f1" in repr(run)
