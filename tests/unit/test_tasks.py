"""Tasks: their losses and metrics beside torch's and scikit-learn's, what is read, and what is refused."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from pydantic import Field
from sklearn import metrics as sk
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.nn import functional as F

import fedtl
from fedtl.choice import ConfigError
from fedtl.config.read import build, read_config
from fedtl.config.schema import Config
from fedtl.data import read_data
from fedtl.data.federate import federate
from fedtl.data.samples import FewSamples, Samples
from fedtl.data.schema import DataSchema
from fedtl.losses.context import Stream
from fedtl.losses.objective import TERMS
from fedtl.losses.term import Term, TermContext
from fedtl.metrics import read_metrics
from fedtl.metrics.registry import BY_TASK, SMALLER_IS_BETTER
from fedtl.models import build_model
from fedtl.runs.baselines import baselines
from fedtl.tasks import TASKS, LearningTask, Outcomes, read_task
from fedtl.tasks.numbers import Regression, cox, sorted_cox, standardised, sums_of
from fedtl.tasks.tokens import NextToken
from tests.parts import OF_CLASSES

ALONE = {"clients": 1, "server_test_share": 0.0}


def log_loss(truth: Any, predictions: Any) -> float:
    """A metric with the name of another task's."""
    return 0.0


COUNTED = list[int]()


def counted(truth: Any, predictions: Any) -> float:
    """A metric that remembers of how many samples it was asked."""
    COUNTED.append(len(truth))
    return 0.0


OTHERS = [task for task in TASKS if task != "classification"]


def tables(task: Any, **more: Any) -> dict[str, Any]:
    """An experiment on samples made for a task, of clients of one size."""
    data = {"clients": 4, "task": task, **more.pop("data", {})}
    if "name" not in data:
        data |= {"name": "made", "sizes": data.get("sizes", 20), "dimension": 5}
    strategy = {"name": "fedavg", "lr": 0.1, "batch_size": 0, **more.pop("strategy", {})}
    model = {"name": "logistic"}
    if (task if isinstance(task, str) else task["name"]) in ("next_token", "tests.unit.test_tasks:Answers"):
        model, data["normalise"] = {"name": "tests.trial_models:Tokens", "tokens": 10}, "none"
    simulation = {"grid": "in-process", "stacked": False, "traced": False}
    return {
        "name": "t",
        "rounds": 1,
        "data": data,
        "model": model,
        "strategy": strategy,
        "simulation": simulation,
        **more,
    }


def config_of(task: Any, **more: Any) -> Config:
    return read_config(tables(task, **more))[0]


def refused(task: Any, **more: Any) -> str:
    with pytest.raises(ConfigError) as error:
        config = config_of(task, **more)
        federate(config.data, config.seed)
    assert "\n" not in str(error.value)
    return str(error.value)


def first_model(asked: dict[str, Any]) -> nn.Module:
    """The network that a run begins with."""
    config, _ = read_config(asked)
    federation = federate(config.data, config.seed)
    few = FewSamples.of(federation)
    return build_model(config.model, federation.shape, federation.outputs, config.seed, few, federation.task)


# One step of gradient descent, by torch's own losses.


def expected_loss(task: str, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The task's loss of a batch, written anew."""
    if task == "binary":
        return F.binary_cross_entropy_with_logits(outputs[:, 0], y.float())
    if task == "multilabel":
        return F.binary_cross_entropy_with_logits(outputs, y)
    if task == "regression":
        return F.mse_loss(outputs, y)
    if task == "next_token":
        return F.cross_entropy(outputs.flatten(0, 1), y.flatten(), ignore_index=-100)
    total = outputs.new_zeros(())
    for i in range(len(y)):
        if y[i, 1]:
            at_risk = torch.stack([outputs[j, 0].exp() for j in range(len(y)) if y[j, 0] >= y[i, 0]]).sum()
            total = total - (outputs[i, 0] - at_risk.log())
    return total / len(y)


@pytest.mark.parametrize("task", OTHERS)
def test_one_step(task: str, tmp_path: Path) -> None:
    asked = tables(task, strategy={"local_steps": 1, "lr": 0.5}, data={"test_share": 0.25})
    if task == "next_token":
        asked["data"]["task"] = {"name": task, "padding": 3}
    run = fedtl.run(asked, out=tmp_path / "run")
    federation = federate(read_config(asked)[0].data, 0)
    samples = Samples(federation, torch.device("cpu"))
    before, after = first_model(asked), fedtl.load_model(run)
    steps, losses = [], []
    for client in range(federation.clients):
        model = first_model(asked)
        x, y = samples.batch(federation.train[client])
        loss = expected_loss(task, model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        steps.append([parameter - 0.5 * parameter.grad for parameter in model.parameters()])  # type: ignore[operator]
        losses.append(loss.item())
    sizes = torch.tensor(federation.train.sizes, dtype=torch.float32)
    for each, parameter in zip(zip(*steps), after.parameters()):
        mean = torch.einsum("i,i...->...", sizes / sizes.sum(), torch.stack(each))
        torch.testing.assert_close(mean, parameter, rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters()))
    (name,) = run.terms()
    assert run.terms()[name].values[0] == pytest.approx(np.average(losses, weights=sizes), rel=1e-5)
    # The score is the same loss on test samples, weighted by samples or tokens.
    truth = [samples.batch(federation.test[client])[1] for client in range(federation.clients)]
    with torch.no_grad():
        inputs = [samples.batch(federation.test[client])[0].clone() for client in range(federation.clients)]
        own = [float(expected_loss(task, after(x), y)) for x, y in zip(inputs, truth)]
    weights = [int((y != -100).sum()) if task == "next_token" else len(y) for y in truth]
    assert run.last("loss")["global/clients"].value == pytest.approx(np.average(own, weights=weights), rel=1e-5)
    if task == "next_token":
        perplexity = run.rounds[-1]["scores"]["global/clients"]["perplexity"]["pooled"]
        assert perplexity == pytest.approx(math.exp(np.average(own, weights=weights)), rel=1e-5)


@pytest.mark.parametrize(
    ("term", "theirs"),
    [
        ({"term": "absolute_error"}, F.l1_loss),
        ({"term": "huber", "delta": 0.5}, lambda f, y: F.huber_loss(f, y, delta=0.5)),
    ],
)
def test_other_losses_of_numbers(term: dict[str, Any], theirs: Any, tmp_path: Path) -> None:
    asked = tables("regression", objective=[term], strategy={"local_steps": 1}, data=ALONE)
    run = fedtl.run(asked, out=tmp_path / "run")
    federation = federate(read_config(asked)[0].data, 0)
    x, y = Samples(federation, torch.device("cpu")).batch(federation.train[0])
    with torch.no_grad():
        assert run.terms()[term["term"]].values[0] == pytest.approx(float(theirs(first_model(asked)(x), y)), rel=1e-5)


class OfOneOutput(Term):
    """A loss of one's own, of models with one output: as people write it, of [B] numbers and [B] answers."""

    needs: ClassVar[frozenset[str]] = frozenset({"source"})

    def value(self, context: TermContext) -> torch.Tensor:
        f, y = context.source.logits[:, 0], context.source.y
        assert y.shape == f.shape
        return F.mse_loss(f, y) if y.is_floating_point() else F.binary_cross_entropy_with_logits(f, y.to(f.dtype))


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize(("task", "own"), [("regression", "squared_error"), ("binary", "binary_cross_entropy")])
def test_a_term_of_one_s_own_reads_what_one_output_is_to_predict(
    task: str, own: str, stacked: bool, tmp_path: Path
) -> None:
    losses = list[float]()
    for term in (own, f"{__name__}:{OfOneOutput.__name__}"):
        asked = tables(task, objective=[{"term": term, "name": "loss"}], strategy={"local_steps": 2})
        asked["simulation"] |= {"stacked": stacked, "traced": stacked}
        losses.append(fedtl.run(asked, out=tmp_path / term).terms()["loss"].values[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_unlabelled_samples_have_no_answers() -> None:
    stream = Stream(torch.zeros(2, 3), None, lambda x: {}, cast(TermContext, None))
    with pytest.raises(RuntimeError, match="a term reads y of samples without labels"):
        stream.y  # noqa: B018


@pytest.mark.parametrize("weights", ["balanced", [0.5, 2.0, 1.0]])
def test_class_weights(weights: Any, tmp_path: Path) -> None:
    data = {"clients": 1, "outputs": 3, "sizes": 60}
    objective = [{"term": "cross_entropy", "class_weights": weights}]
    asked = tables("classification", data=data, objective=objective, strategy={"local_steps": 1})
    run = fedtl.run(asked, out=tmp_path / "run")
    federation = federate(read_config(asked)[0].data, 0)
    x, y = Samples(federation, torch.device("cpu")).batch(federation.train[0])
    each = compute_class_weight("balanced", classes=np.arange(3), y=y.numpy()) if weights == "balanced" else weights
    with torch.no_grad():
        loss = F.cross_entropy(first_model(asked)(x), y, reduction="none") * torch.tensor(each)[y]
    assert run.terms()["cross_entropy"].values[0] == pytest.approx(float(loss.mean()), rel=1e-5)


@pytest.mark.parametrize("task", ["binary", "multilabel"])
@pytest.mark.parametrize("weight", ["balanced", 3.0])
def test_the_weight_of_a_yes(task: str, weight: Any, tmp_path: Path) -> None:
    objective = [{"term": "binary_cross_entropy", "pos_weight": weight}]
    asked = tables(task, objective=objective, strategy={"local_steps": 1}, data=ALONE)
    run = fedtl.run(asked, out=tmp_path / "run")
    federation = federate(read_config(asked)[0].data, 0)
    x, y = Samples(federation, torch.device("cpu")).batch(federation.train[0])
    yes = y.float().reshape(len(y), -1)
    ratio = (1 - yes).sum(0) / yes.sum(0) if weight == "balanced" else torch.full((yes.shape[1],), 3.0)
    with torch.no_grad():
        loss = F.binary_cross_entropy_with_logits(first_model(asked)(x), yes, pos_weight=ratio)
    assert run.terms()["binary_cross_entropy"].values[0] == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize("engine", ["one by one", "stacked, traced"])
@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_one_step_from_logits_of_0(task: str, engine: str, tmp_path: Path) -> None:
    """Where |f| has a corner, and a model that begins with zeros has all its logits, the gradient is ½ - y."""
    asked = tables(task, strategy={"local_steps": 1, "lr": 0.5}, data={"clients": 2})
    asked["model"] = {"name": "tests.trial_models:Zeros"}
    asked["simulation"] |= {"stacked": "stacked" in engine, "traced": "traced" in engine}
    after = fedtl.load_model(fedtl.run(asked, out=tmp_path / "run"))
    federation = federate(read_config(asked)[0].data, 0)
    steps = []
    for client in range(federation.clients):
        x, y = Samples(federation, torch.device("cpu")).batch(federation.train[client])
        y = y.float().reshape(len(y), -1)
        steps.append(-0.5 * (0.5 - y).T @ x / y.numel())
    sizes = torch.tensor(federation.train.sizes, dtype=torch.float32)
    mean = torch.einsum("i,ijk->jk", sizes / sizes.sum(), torch.stack(steps))
    torch.testing.assert_close(after.head.weight.detach(), mean, rtol=1e-5, atol=1e-6)  # type: ignore[union-attr]


def test_coxs_partial_likelihood_by_hand() -> None:
    """Three patients: the second is not seen to the end; r = (1, 0, -1)."""
    y = torch.tensor([[2.0, 1.0], [3.0, 0.0], [4.0, 1.0]])
    risk = torch.tensor([1.0, 0.0, -1.0])
    first = 1 - math.log(math.exp(1) + 1 + math.exp(-1))
    assert float(cox(risk, y)) == pytest.approx(-(first + 0) / 3)  # of the last one nobody else is at risk
    padded = torch.cat([y, torch.tensor([[9.0, 1.0]])]), torch.cat([risk, torch.tensor([5.0])])
    assert float(cox(padded[1], padded[0], torch.tensor([1.0, 1, 1, 0]))) == pytest.approx(float(cox(risk, y)))


def test_a_loss_that_training_asks_for_is_scored_by_no_metric(tmp_path: Path) -> None:
    """Under q-FedAvg each client tells its loss on its training samples in every round."""
    COUNTED.clear()
    asked = tables(
        "regression",
        rounds=2,
        strategy={"name": "qfedavg", "q": 1.0, "local_steps": 1},
        data={"test_share": 0.25},
        evaluate={"metrics": ["tests.unit.test_tasks:counted"]},
    )
    fedtl.run(asked, out=tmp_path / "run")
    train = set(federate(read_config(asked)[0].data, 0).train.sizes.tolist())
    assert COUNTED
    assert not train & set(COUNTED)


def test_a_linear_regression_comes_to_least_squares(tmp_path: Path) -> None:
    asked = tables(
        "regression",
        rounds=60,
        strategy={"local_steps": 5, "lr": 0.1},
        data={"clients": 1, "sizes": 80, "test_share": 0.25, "normalise": "none"},
    )
    run = fedtl.run(asked, out=tmp_path / "run")
    federation = federate(read_config(asked)[0].data, 0)
    outcomes = federation.outcomes
    assert outcomes is not None
    train, test = federation.train[0], federation.test[0]
    with_one = np.column_stack([federation.x, np.ones(len(federation.x))]).astype(np.float64)
    beta, *_ = np.linalg.lstsq(with_one[train], outcomes.values[train, 0], rcond=None)
    expected = with_one[test] @ beta
    y = outcomes.values[test, 0]
    last = {metric: run.last(metric)["global/clients"].value for metric in ("rmse", "mae", "r2")}
    assert last["rmse"] == pytest.approx(sk.root_mean_squared_error(y, expected), rel=1e-3)
    assert last["mae"] == pytest.approx(sk.mean_absolute_error(y, expected), rel=1e-3)
    assert last["r2"] == pytest.approx(sk.r2_score(y, expected), rel=1e-3)
    assert run.metric == "rmse"  # what it is shown by


# Metrics.


def predictions(task: str, seed: int = 0, n: int = 40) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    if task == "regression":
        y = rng.normal(size=(n, 2)) * 30 + 100
        return y, y + rng.normal(size=(n, 2)) * 10
    if task == "survival":
        times = np.round(rng.exponential(size=n), 1) + 0.1  # with ties
        return np.stack([times, rng.random(n) < 0.6], 1), np.round(rng.normal(size=(n, 1)), 1)
    y = (rng.random((n, 4)) < [0.5, 0.3, 0.2, 0.6]).astype(np.float32)
    return y, np.clip(np.round(0.3 * y + 0.7 * rng.random((n, 4)), 2), 0, 1)


SKLEARN: dict[str, dict[str, Any]] = {
    "regression": {
        "mae": sk.mean_absolute_error,
        "mse": sk.mean_squared_error,
        "r2": sk.r2_score,
        "rmse": lambda y, f: math.sqrt(sk.mean_squared_error(y, f)),
    },
    "multilabel": {
        "hamming_loss": lambda y, p: sk.hamming_loss(y, p > 0.5),
        "macro_auc": lambda y, p: sk.roc_auc_score(y, p, average="macro"),
        "macro_average_precision": lambda y, p: sk.average_precision_score(y, p, average="macro"),
        "macro_f1": lambda y, p: sk.f1_score(y, p > 0.5, average="macro", zero_division=0),
        "micro_f1": lambda y, p: sk.f1_score(y, p > 0.5, average="micro", zero_division=0),
        "subset_accuracy": lambda y, p: sk.accuracy_score(y, p > 0.5),
    },
}


@pytest.mark.parametrize("task", SKLEARN)
def test_metrics_are_scikit_learns(task: str) -> None:
    assert BY_TASK[task].keys() == SKLEARN[task].keys()
    metrics = read_metrics(list(BY_TASK[task]), task)
    for seed in range(10):
        y, f = predictions(task, seed)
        values = metrics.of(y, f)
        assert values == pytest.approx({name: theirs(y, f) for name, theirs in SKLEARN[task].items()})
        halves = [metrics.tabulate(y[rows], f[rows]) for rows in (slice(0, 13), slice(13, None))]
        tables = {name: kind().joined([half[name] for half in halves]) for name, kind in metrics.tables.items()}
        pooled, apart = metrics.pooled(tables, (y, f)), metrics.pooled(tables, None)
        assert all(each["pooled"] == pytest.approx(values[name]) for name, each in pooled.items())
        assert all(each["pooled"] == pytest.approx(values[name]) for name, each in apart.items() if "bins" not in each)


def test_errors_of_many_clients_are_those_of_all_their_samples() -> None:
    """Of unequal clients, one without samples and one whose outcomes do not vary, far from 0."""
    rng, metrics = np.random.default_rng(0), read_metrics(["rmse", "r2"], "regression")
    y = np.float32(1e5) + rng.normal(size=(60, 2)).astype(np.float32)
    y[:7] = y[0]
    f = y.astype(np.float64) + rng.normal(size=y.shape)
    each = [(y[rows].astype(np.float64), f[rows]) for rows in np.split(np.arange(60), [7, 7, 8, 40])]

    def apart(parts: list[Any]) -> dict[str, float]:
        tables = [metrics.tabulate(*part)["Errors"] for part in parts]
        pooled = metrics.pooled({"Errors": metrics.tables["Errors"]().joined(tables)}, None)
        return {name: each["pooled"] for name, each in pooled.items()}

    # Differences of numbers near 1e5 in float64 are off by 1e-11.
    assert apart(each) == pytest.approx(metrics.of(y.astype(np.float64), f), rel=1e-8)
    same = [(np.full((n, 1), 0.1), np.zeros((n, 1))) for n in (3, 5, 1)]
    assert apart(same) == {"rmse": pytest.approx(0.1), "r2": pytest.approx(math.nan, nan_ok=True)}
    assert apart([*same, (np.full((1, 1), 0.2), np.zeros((1, 1)))])["r2"] < 0
    assert all(math.isnan(value) for value in apart([(y[:0], f[:0])]).values())


def test_what_needs_pairs_across_clients_is_not_pooled_without_their_predictions() -> None:
    y, risk = predictions("survival")
    metrics = read_metrics(["c_index"], "survival")
    assert metrics.pooled({}, (y, risk))["c_index"]["pooled"] == metrics.of(y, risk)["c_index"]
    assert metrics.pooled({}, None) == {
        "c_index": {"pooled": None, "not_pooled": "clients keep their predictions"},
    }


class Nothing(LearningTask):
    """A task that derives from none."""


class Answers(NextToken):
    """Of each sequence only the tokens from a place on are to be predicted."""

    start: int = Field(0, ge=0)

    def outcomes(self, where: str, y: Any, n: int) -> Outcomes:
        """-100 before that place."""
        read = super().outcomes(where, y, n)
        return replace(read, values=np.where(np.arange(read.values.shape[1]) < self.start, -100, read.values))


class Twice(Regression):
    """Numbers that grow whenever they are read."""

    def outcomes(self, where: str, y: Any, n: int) -> Outcomes:
        """2 y."""
        read = super().outcomes(where, y, n)
        return replace(read, values=2 * read.values)


@pytest.mark.parametrize("name", ["made", "diabetes"])  # which has numbers alone, and takes a task that derives from it
def test_a_task_of_ones_own_reads_what_it_has_read_as_the_same(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"test_tasks:Twice': its outcomes change when they are read again, as clients'"
    ):
        federate(read_data({"name": name, "clients": 4, "task": "tests.unit.test_tasks:Twice"}), 0)


def test_a_task_of_ones_own(tmp_path: Path) -> None:
    """From the first place on it is the one that it derives from; from another one it is that on other samples."""
    mine, metrics = "tests.unit.test_tasks:Answers", ["perplexity", "tests.unit.test_tasks:token_loss"]
    config = config_of({"name": mine, "start": 2})
    assert build(config.tables()) == config
    assert config.evaluate.metrics == ("perplexity",)
    assert "did you mean 'start'" in refused({"name": mine, "strat": 2})
    assert "it is a metric of classification, binary" in refused(mine, evaluate={"metrics": ["auc"]})
    assert "and data.task is 'tests.unit.test_tasks:Answers'" in refused(mine, strategy={"name": "fedlc"})
    runs = [
        fedtl.run(tables(task, rounds=1, evaluate={"metrics": metrics}), out=tmp_path / str(place))
        for place, task in enumerate(["next_token", mine, {"name": mine, "start": 2}])
    ]
    scores = [run.rounds[-1]["scores"] for run in runs]
    assert scores[0] == scores[1]
    whole = federate(config.data, 0)
    assert whole.outcomes is not None
    assert (whole.outcomes.values[:, :2] == -100).all()
    assert (whole.outcomes.values[:, 2:] >= 0).all()
    assert scores[2] != scores[0]
    at_server = scores[2]["global/server-test"]
    assert at_server["token_loss"] == pytest.approx(-at_server["loss"], rel=1e-5)


def token_loss(tokens: Any, probabilities: Any) -> float:
    """The mean cross-entropy of a token, with the opposite sign: more is better."""
    return float(np.log(probabilities[np.arange(len(tokens)), tokens]).mean())


@pytest.mark.parametrize("padding", [None, 0])
def test_a_metric_of_ones_own_sees_the_tokens_to_be_predicted(padding: int | None, tmp_path: Path) -> None:
    """The loss again, for each client and of all their tokens, which padding is none of."""
    task = {"name": "next_token", **({} if padding is None else {"padding": padding})}
    metrics = ["perplexity", "tests.unit.test_tasks:token_loss"]
    run = fedtl.run(tables(task, rounds=1, evaluate={"metrics": metrics}), out=tmp_path / "run")
    for score in run.rounds[-1]["scores"].values():
        loss, mine = score["loss"], score["token_loss"]
        if isinstance(loss, float):
            assert mine == pytest.approx(-loss, rel=1e-5)
            continue
        for mean in ("weighted_mean", "mean", "worst_decile"):
            assert mine[mean] == pytest.approx(-loss[mean], rel=1e-5)
        assert mine["pooled"] == pytest.approx(-loss["weighted_mean"], rel=1e-5)
        assert math.exp(-mine["pooled"]) == pytest.approx(score["perplexity"]["pooled"], rel=1e-5)


def test_the_concordance_index_counts_pairs() -> None:
    metrics = read_metrics(["c_index"], "survival")
    for seed in range(10):
        y, risk = predictions("survival", seed, 15)
        known, right = 0, 0.0
        for (t, event), (r,) in zip(y, risk):
            for (u, other), (s,) in zip(y, risk):
                if event and (u > t or (u == t and not other)):
                    known, right = known + 1, right + (1.0 if r > s else 0.5 if r == s else 0.0)
        assert metrics.of(y, risk)["c_index"] == pytest.approx(right / known)
    nobody = np.array([[1.0, 0.0], [2.0, 0.0]]), np.array([[0.0], [1.0]])
    assert math.isnan(metrics.of(*nobody)["c_index"])


@pytest.mark.parametrize("task", ["regression", "survival", "multilabel"])
def test_which_way_is_better(task: str) -> None:
    y, _ = predictions(task)
    right = 1 / y[:, :1] if task == "survival" else y * 0.9 + 0.05 if task == "multilabel" else y
    wrong = -right if task == "survival" else 1 - right if task == "multilabel" else -y
    metrics = read_metrics(list(BY_TASK[task]), task)
    good, bad = metrics.of(y, np.asarray(right, np.float64)), metrics.of(y, np.asarray(wrong, np.float64))
    for name in BY_TASK[task]:
        assert (good[name] < bad[name]) == (name in SMALLER_IS_BETTER), name


def test_r2_is_not_defined_where_nothing_varies() -> None:
    tenths = np.full((3, 1), 0.1), np.full((3, 1), 5.1)  # whose mean is not quite 0.1
    assert math.isnan(read_metrics(["r2"], "regression").of(*tenths)["r2"])
    assert math.isnan(read_metrics(["r2"], "regression").of(np.ones((3, 1)), np.zeros((3, 1)))["r2"])


# What is read.


def test_standardised_by_the_clients_own_sums() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(50, 7, (30, 2)).astype(np.float32)
    outcomes = standardised(Outcomes(values, 2), [sums_of(values[rows]) for rows in np.split(np.arange(30), [4, 11])])
    assert outcomes.mean is not None
    assert outcomes.std is not None
    np.testing.assert_allclose(outcomes.mean, values.mean(0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(outcomes.std, values.std(0, dtype=np.float64), rtol=1e-6)
    constant = standardised(Outcomes(np.full((5, 1), 0.1, np.float32), 1), [sums_of(np.full((5, 1), np.float32(0.1)))])
    assert constant.std is not None
    assert constant.std[0] == 1


def test_groups_by_which_partitions_divide() -> None:
    config = config_of("regression", data={"partition": {"name": "dirichlet", "alpha": 0.1}, "sizes": 100})
    federation = federate(config.data, 0)
    assert federation.outcomes is not None
    assert federation.classes == 10
    assert federation.label_names[0].startswith("to ")
    firsts = [federation.outcomes.values[federation.y == group, 0] for group in range(10)]
    assert all(a.max() <= b.min() for a, b in itertools.pairwise(firsts))
    task = read_task("multilabel")
    y = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 1], [1, 0, 0]])
    groups = task.strata(task.outcomes("y", y, 5))
    assert groups.y.tolist() == [1, 0, 3, 2, 0]
    assert groups.names == ("0", "1", "2", "none")


@pytest.mark.parametrize("task", TASKS)
def test_a_schema_is_read_as_it_was_written(task: str) -> None:
    federation = federate(config_of(task).data, 0)
    schema = DataSchema.of(federation)
    text = schema.to_json()
    again = DataSchema.from_json(text)
    assert again.to_json() == text
    assert again.task == federation.task
    assert again.without_samples(3).outputs == federation.outputs
    assert ("task" in text) == (task != "classification")


@pytest.mark.parametrize(
    ("task", "y", "message"),
    [
        ("regression", np.array(["a", "b"]), "data.task = 'regression' needs [2] numbers"),
        ("regression", np.array([1.0, np.nan]), "1 samples, the first at 1, have outcomes that are no finite numbers"),
        ("multilabel", np.array([0, 1]), "needs [2, k] of zeros and ones"),
        ("multilabel", np.array([[0, 2], [1, 1]]), "needs [2, k] of zeros and ones"),
        ("survival", np.array([[0.0, 1], [1, 1]]), "sample 0 has the time 0 and the event 1; times are above 0"),
        ("survival", np.array([1.0, 2.0]), "needs [2, 2]"),
        ("next_token", np.array([[0.5], [1.0]]), "needs [2, T] whole numbers"),
        ("next_token", np.array([[-1], [1]]), "has the token -1; tokens begin at 0, and -100 is none"),
        (
            {"name": "next_token", "vocabulary": 3},
            np.array([[3], [1]]),
            "data.task.vocabulary = 3: f: y has the token 3",
        ),
    ],
)
def test_outcomes_that_are_none(task: Any, y: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_task(task).outcomes("f: y", y, 2)
    assert message in str(error.value)


def test_own_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for client in range(2):
        x, y = rng.normal(size=(12, 3)), rng.normal(size=12) * 5 + 20
        np.savez(tmp_path / f"{client}.npz", x=x[:8], y=y[:8], x_test=x[8:], y_test=y[8:])
    federation = federate(config_of("regression", data=npz(tmp_path)).data, 0)
    assert federation.outcomes is not None
    assert federation.outputs == 1
    assert federation.outcomes.values[federation.test[1], 0] == pytest.approx(y[8:].astype(np.float32))


def test_which_label_is_a_yes(tmp_path: Path) -> None:
    file = tmp_path / "patients.csv"
    file.write_text("age;outcome\n" + "".join(f"{30 + i};{'well' if i % 3 else 'ill'}\n" for i in range(20)))
    data = {"name": "files", "path": str(file), "label": "outcome", "partition": "iid"}
    federation = federate(config_of("binary", data=data).data, 0)
    assert federation.label_names == ("ill", "well")
    assert "a yes is 'well'; data.positive says it otherwise" in "; ".join(federation.notes)
    federation = federate(config_of("binary", data={**data, "positive": ["ill"]}).data, 0)
    assert federation.label_names == ("well", "ill")
    assert not any("a yes is" in note for note in federation.notes)
    text = refused("binary", data={**data, "label": "ill"})
    assert text == f"data.label = 'ill': {file} has no column 'ill': known: age, outcome"


def npz(path: Path) -> dict[str, Any]:
    return {"name": "npz", "path": str(path), "clients": None}


# What is refused, each in one sentence.


def test_refused() -> None:
    assert "did you mean 'regression'?" in refused("regresion")
    digits = {"name": "digits"}
    for task in ("regression", "multilabel", "survival", "next_token"):
        assert f"data.task = '{task}'" in refused(task, data=digits)
    assert "data.task = 'binary': the data have 10 classes, and there must be two" in refused("binary", data=digits)
    assert "which is learnt by 'squared_error'" in refused("regression", objective=[{"term": "cross_entropy"}])
    assert "is defined for regression, and data.task is 'binary'" in refused("binary", objective=[{"term": "huber"}])
    for term in ({"term": "barlow_twins", "layer": "probabilities"}, {"term": "joint_mmd"}):
        text = refused("regression", objective=[{"term": "squared_error"}, term])
        assert f"objective[1]: the term '{term['term']}' is defined for classification, and data.task" in text
    assert "'fedlc': it is defined for classification" in refused("regression", strategy={"name": "fedlc"})
    assert "it is a metric of classification, binary" in refused("regression", evaluate={"metrics": ["auc"]})
    assert "models are not scored by it" in refused(
        "regression", evaluate={"keep_best": True}, data={"validation_share": 0.2}
    )
    noise = {"partition": {"name": "label-noise", "share": 0.5, "base": "natural"}}
    assert "it changes labels, and with data.task = 'regression' there are none" in refused("regression", data=noise)
    weights = [{"term": "cross_entropy", "class_weights": [1.0, 2.0]}]
    with pytest.raises(ConfigError, match=r"class_weights has 2 numbers; give 10, one for each"):
        fedtl.run(tables("classification", objective=weights))


def test_every_term_says_for_which_tasks_it_is_defined() -> None:
    own = {read_task(task).term for task in TASKS}
    assert TERMS.keys() - OF_CLASSES == own - {"cross_entropy"} | {"absolute_error", "huber"}
    for task in TASKS:
        assert config_of(task).objective[0].term == read_task(task).term


def test_predictions_of_a_model_of_one_logit_are_those_of_two_classes(tmp_path: Path) -> None:
    run = fedtl.run(tables("binary", evaluate={"metrics": ["auc", "balanced_accuracy", "brier"]}), out=tmp_path / "run")
    federation = federate(read_config(tables("binary"))[0].data, 0)
    x, y = Samples(federation, torch.device("cpu")).batch(np.sort(federation.test.order))
    with torch.no_grad():
        p = torch.sigmoid(fedtl.load_model(run)(x).double())[:, 0].numpy()
    score = run.rounds[-1]["scores"]["global/clients"]
    assert score["auc"]["pooled"] == pytest.approx(sk.roc_auc_score(y, p))
    assert score["balanced_accuracy"]["pooled"] == pytest.approx(sk.balanced_accuracy_score(y, p > 0.5))
    assert score["brier"]["weighted_mean"] == pytest.approx(sk.brier_score_loss(y, p))
    assert score["accuracy"]["weighted_mean"] == pytest.approx(sk.accuracy_score(y, p > 0.5))


@pytest.mark.parametrize("task", ["regression", "survival", "multilabel", "binary"])
def test_own_tables(task: str, tmp_path: Path) -> None:
    rows = {
        "regression": ("label", ["-1.5", "-1", "20", "1e3", "3", "4"]),
        "binary": ("label", ["no", "yes", "yes", "no", "yes", "no"]),
        "survival": ("time;seen", ["1;yes", "2;no", "3;yes", "4;yes", "5;no", "6;no"]),
        "multilabel": ("a;b", ["1;0", "0;0", "1;1", "0;1", "1;0", "1;1"]),
    }
    header, cells = rows[task]
    for client in range(2):
        lines = [f"age;{header}", *(f"{30 + i + client};{cell}" for i, cell in enumerate(cells))]
        (tmp_path / f"{client}.csv").write_text("\n".join(lines))
    data = {"name": "files", "path": str(tmp_path), "clients": None, "label": header.split(";")}
    federation = federate(config_of(task, data={**data, "test_share": 0.34}).data, 0)
    assert federation.train.sizes.tolist() == [4, 4]
    if task == "binary":
        assert federation.outputs == 1
        assert federation.label_names == ("no", "yes")
        return
    outcomes = federation.outcomes
    assert outcomes is not None
    assert outcomes.names == (() if task == "survival" else tuple(header.split(";")))
    assert federation.shape == (1,)
    first = outcomes.values[federation.x[:, 0].argmin()]
    assert first.tolist() == {"regression": [-1.5], "survival": [1, 1], "multilabel": [1, 0]}[task]


def test_the_documentation_lists_all() -> None:
    text = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")]
    tasks = {row[0].strip("`"): row for row in rows[1:] if len(row) == 5}
    assert tasks.keys() == TASKS.keys()
    for name, row in tasks.items():
        task = read_task(name)
        assert row[3] == f"`{task.term}`"
        assert ("accuracy" in row[4]) == task.has_accuracy
        assert [word.strip(" `") for word in row[4].split(",") if "`" in word] == list(task.metrics)
    listed = {name.strip(" `"): row[1] for row in rows if len(row) == 2 for name in row[0].split(",")}
    assert listed.keys() == BY_TASK.keys()
    for name, metrics in listed.items():
        assert [word.strip(" `") for word in metrics.split(",")] == sorted(BY_TASK[name])


def test_sorted_partial_likelihood() -> None:
    for seed in range(5):
        y, risk = predictions("survival", seed)  # with ties
        times, risks = torch.from_numpy(y), torch.from_numpy(risk[:, 0])
        assert float(sorted_cox(risks, times)) == pytest.approx(float(cox(risks, times)))


def test_metrics_and_options_that_a_task_has_not() -> None:
    assert "neither right nor wrong; there is mae, mse, r2, rmse" in refused(
        "regression", evaluate={"metrics": ["accuracy"]}
    )
    assert "a mini-batch's samples are compared; set it to 2 or more" in refused("survival", strategy={"batch_size": 1})
    assert "data.task.name = 'my_tasks:Mine': no such module" in refused("my_tasks:Mine")
    assert "a task of your own derives from one of binary, classification, " in refused("tests.unit.test_tasks:Nothing")
    assert "it is no subclass of fedtl.tasks.contract.LearningTask" in refused("tests.unit.test_tasks:Outcomes")
    other = refused("regression", evaluate={"metrics": ["tests.unit.test_tasks:log_loss"]})
    assert "there is another metric 'log_loss'" in other  # of which less is better


def test_no_event_at_all(tmp_path: Path) -> None:
    x, y = np.ones((8, 2)) * np.arange(8)[:, None], np.column_stack([np.arange(1.0, 9), np.zeros(8)])
    np.savez(tmp_path / "0.npz", x=x, y=y)
    assert "there is no event among all training samples" in refused("survival", data=npz(tmp_path))


def test_tokens_and_what_follows_them_are_as_many(tmp_path: Path) -> None:
    np.savez(tmp_path / "0.npz", x=np.ones((8, 5), np.int64), y=np.ones((8, 4), np.int64))
    assert "a sample is [5], and what is predicted of it [4]" in refused("next_token", data=npz(tmp_path))


def test_words_among_numbers_are_no_numbers(tmp_path: Path) -> None:
    (tmp_path / "0.csv").write_text("a;cost\n1;0\n2;t\n3;4\n")
    text = refused("regression", data={"name": "files", "path": str(tmp_path), "clients": None, "label": "cost"})
    assert "line 3, column 'cost': 't' is no number" in text


def test_baselines_keep_the_weights_of_classes() -> None:
    config = config_of("binary", objective=[{"term": "binary_cross_entropy", "pos_weight": 5.0}])
    (alone,) = baselines(config).values()
    assert alone.objective == config.objective


def test_names_of_groups_differ() -> None:
    task = read_task("regression")
    groups = task.strata(task.outcomes("y", np.arange(20001, 20050), 49))
    assert len(set(groups.names)) == len(groups.names) == 10


def test_the_vocabulary_is_the_datas() -> None:
    data = {"sizes": 3, "clients": 2, "outputs": 40}
    assert federate(config_of("next_token", data=data).data, 0).outputs == 40


@pytest.mark.parametrize("task", ["classification", "binary", "next_token"])
def test_an_output_that_is_no_number_predicts_nothing(task: str) -> None:
    """Though the largest of several NaNs is the first, and NaN is not above 0."""
    shape = {"classification": (2, 3), "binary": (2, 1), "next_token": (1, 2, 3)}[task]
    outputs, y = torch.zeros(shape), torch.zeros(shape[:-1], dtype=torch.int64)
    assert read_task({"name": task}).tally(outputs, y).correct == 2
    outputs.view(2, -1)[1] = torch.nan
    assert read_task({"name": task}).tally(outputs, y).correct == 1
