"""The command on cases that are not the file's: other clients, sizes, settings and orders, by equations in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.parts import ENGINES
from tests.reference.cases import Case, Hyperparameters, read_cases
from tests.reference.trajectories import AGREES, NOT_APPLICABLE, Verdict, judge

Vector = NDArray[np.float64]

DIM, CLASSES, HIDDEN, SIZES = 4, 3, 5, (5, 11, 8)
SAMPLED = [[2, 0], [1, 2]]  # not in order, and client 1 enters late


def drawn() -> dict[str, Any]:
    """Three clients with mini-batches of 4, of which the last is smaller."""
    rng = np.random.default_rng(7)

    def client(n: int) -> dict[str, Any]:
        x, y = rng.normal(size=(n + 2, DIM)), np.arange(n + 2) % CLASSES
        own, test = {"x": x[:n].ravel().tolist(), "y": y[:n].tolist()}, {"x": x[n:], "y": y[n:]}
        return {"n": n, **own, "x_test": test["x"].ravel().tolist(), "y_test": test["y"].tolist()}

    return {
        "dim": DIM,
        "classes": CLASSES,
        "hidden": HIDDEN,
        "clients": [client(n) for n in SIZES],
        "init": {
            "logistic": rng.normal(size=CLASSES * (DIM + 1)).tolist(),
            "mlp": rng.normal(size=HIDDEN * (DIM + 1) + CLASSES * (HIDDEN + 1)).tolist(),
        },
        "batches": {"mini": [[[*range(i, min(i + 4, n))] for i in range(0, n, 4)] for n in SIZES]},
        "sampled": {"full": [[0, 1, 2]] * 2, "partial": SAMPLED},
    }


INPUTS = drawn()
START = np.array(INPUTS["init"]["logistic"])


def loss_and_gradient(w: Vector, client: int, batch: Sequence[int]) -> tuple[float, Vector]:
    """Of softmax regression: the mean of -log p_y, and of (p - onehot(y)) (x, 1)'."""
    own = INPUTS["clients"][client]
    x, y = np.reshape(own["x"], (-1, DIM))[batch], np.array(own["y"])[batch]
    logits = x @ w[: CLASSES * DIM].reshape(CLASSES, DIM).T + w[CLASSES * DIM :]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    off = (p - np.eye(CLASSES)[y]) / len(y)
    return float(-np.log(p[np.arange(len(y)), y]).mean()), np.concatenate([(off.T @ x).ravel(), off.sum(0)])


def epoch(client: int) -> list[list[int]]:
    return INPUTS["batches"]["mini"][client]  # type: ignore[no-any-return]


def steps(client: int, count: int) -> list[list[int]]:
    return [*islice(cycle(epoch(client)), count)]


def descend(w: Vector, client: int, batches: Any, lr: float, slope: float = 0.0, shift: Any = 0.0) -> Vector:
    """Plain steps along the gradient of the loss, to which slope · w + shift is added."""
    for batch in batches:
        w = w - lr * (loss_and_gradient(w, client, batch)[1] + slope * w + shift)
    return w


def record(w: Vector, clients: dict[int, Any], **server: Any) -> dict[str, Any]:
    return {"global": w, "clients": {str(client): own for client, own in clients.items()}, "server": server}


def qffl(o: dict[str, Any]) -> list[dict[str, Any]]:
    w, rounds = START, list[Any]()
    for sampled in SAMPLED:
        deltas, h = np.zeros_like(w), list[float]()
        for i in sampled:
            loss = loss_and_gradient(w, i, range(SIZES[i]))[0] + 1e-10
            moved = (w - descend(w, i, epoch(i), o["lr"])) / o["lr"]
            deltas += loss ** o["q"] * moved
            h.append(o["q"] * loss ** (o["q"] - 1) * moved @ moved + loss ** o["q"] / o["lr"])
        w = w - deltas / sum(h)
        rounds.append(record(w, {}, h=h))
    return rounds


def ditto(o: dict[str, Any]) -> list[dict[str, Any]]:
    w, v, rounds = START, [START] * 3, list[Any]()
    for sampled in SAMPLED:
        trained = []
        for i in sampled:
            batches = steps(i, o["local_iters"])
            v[i] = descend(v[i], i, batches, o["personal_lr"], o["lam"], -o["lam"] * w)
            trained.append(descend(w, i, batches, o["lr"]))
        w = np.mean(trained, 0)
        rounds.append(record(w, {i: {"v": v[i]} for i in range(3)}))
    return rounds


def feddc(o: dict[str, Any]) -> list[dict[str, Any]]:
    w, g, h, g_i, rounds = START, 0 * START, [0 * START] * 3, [0 * START] * 3, list[Any]()
    for sampled in SAMPLED:
        theta, change, clients = list[Vector](), 0 * w, dict[int, Any]()
        for i in sampled:
            shift = g - g_i[i] - o["alpha"] * (w - h[i])
            theta.append(descend(w, i, steps(i, o["K"]), o["lr"], o["alpha"], shift))
            h[i] = h[i] + theta[-1] - w
            own = g_i[i] - g + (w - theta[-1]) / (o["K"] * o["lr"])
            change, g_i[i] = change + own - g_i[i], own
            clients[i] = {"drift": h[i], "gradient_state": own, "theta": theta[-1]}
        mean, g = np.mean(theta, 0), g + change / 3
        w = mean + np.mean(h, 0)
        rounds.append(record(w, clients, gradient_state=g, mean_of_sampled=mean))
    return rounds


def scaffold(o: dict[str, Any]) -> list[dict[str, Any]]:
    """Weighted as FedDyn's authors have it."""
    x, c, c_i, rounds = START, 0 * START, [0 * START] * 3, list[Any]()
    share = np.array(SIZES) / np.mean(SIZES)
    for sampled in SAMPLED:
        y, change = dict[int, Vector](), 0 * x
        for i in sampled:
            y[i] = descend(x, i, steps(i, o["K"]), o["lr"], shift=c / share[i] - c_i[i])
            own = c_i[i] - c + (x - y[i]) / (o["K"] * o["lr"])
            change, c_i[i] = change + share[i] * (own - c_i[i]), own
        x, c = x + o["server_lr"] * np.mean([each - x for each in y.values()], 0), c + change / 3
        states = {str(i): c_i[i] for i in range(3)}
        rounds.append(record(x, {i: {"y": each} for i, each in y.items()}, c=c, c_i=states))
    return rounds


def feddyn(o: dict[str, Any]) -> list[dict[str, Any]]:
    """With a weight decay."""
    w, L, rounds = START, [0 * START] * 3, list[Any]()
    for sampled in SAMPLED:
        theta = dict[int, Vector]()
        for i in sampled:
            slope, shift = o["alpha"] + o["weight_decay"], o["alpha"] * (L[i] - w)
            theta[i] = descend(w, i, epoch(i) * o["local_epochs"], o["lr"], slope, shift)
        for i in sampled:
            L[i] = L[i] + theta[i] - w
        w = np.mean([*theta.values()], 0) + np.mean(L, 0)
        rounds.append(record(w, {i: {"grad_memory": L[i]} for i in range(3)}))
    return rounds


def fedprox(o: dict[str, Any]) -> list[dict[str, Any]]:
    w, mu, rounds = START, o.get("mu", 0.0), list[Any]()
    for sampled in SAMPLED:
        ends = [descend(w, i, epoch(i) * o["local_epochs"], o["lr"], mu, -mu * w) for i in sampled]
        w = np.average(ends, 0, [SIZES[i] for i in sampled] if o["weighting"] == "samples" else None)
        rounds.append(record(w, {}))
    return rounds


EQUATIONS: dict[str, tuple[Callable[[dict[str, Any]], list[dict[str, Any]]], dict[str, Any]]] = {
    "qffl.half": (qffl, {"lr": 0.2, "L": "1/lr", "q": 0.5, "local_epochs": 1}),
    "ditto.authors": (ditto, {"lr": 0.2, "personal_lr": 0.1, "lam": 0.7, "local_iters": 4, "weighting": "uniform"}),
    "feddc.equal_alpha": (feddc, {"lr": 0.1, "alpha": 0.2, "K": 4}),
    "scaffold.option2.weighted_c": (
        scaffold,
        {"lr": 0.1, "K": 4, "server_lr": 0.6, "weighting": "models uniform; c weighted"},
    ),
    "feddyn.decay": (feddyn, {"lr": 0.1, "alpha": 0.4, "weight_decay": 0.1, "local_epochs": 2}),
    "fedavg.uniform": (fedprox, {"lr": 0.1, "local_epochs": 2, "weighting": "uniform"}),
    "fedprox.samples": (fedprox, {"lr": 0.1, "mu": 0.5, "local_epochs": 2, "weighting": "samples"}),
}


def judged(name: str, hyper: dict[str, Any], rounds: Sequence[Any], engine: str = "one by one", **own: Any) -> Verdict:
    case = {"model": "logistic", "participation": "partial", "batches": "mini", "rounds": rounds, **own}
    return judge(Case(name, case, Hyperparameters(hyper), INPUTS), [engine], ["float32"])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", EQUATIONS)
def test_mini_batches_and_clients_in_any_order(name: str, engine: str) -> None:
    equations, hyper = EQUATIONS[name]
    verdict = judged(name, hyper, equations(hyper), engine)
    assert verdict.word == AGREES, verdict.line()


def test_a_client_with_too_few_samples_for_a_meta_step_sends_what_it_was_sent() -> None:
    words = "disjoint pairs in stored order: step j takes D_j and D'_j"
    hyper = {"alpha": 0.1, "beta": 0.1, "local_epochs": 1, "batch_size": 4, "weighting": "samples"}
    unmoved = {"global": None, "clients": {"0": {"w": START}}}
    inputs = {**INPUTS, "sampled": {"partial": [[0, 2]]}}
    case = {"model": "logistic", "participation": "partial", "batches": words, "rounds": [unmoved]}
    for engine in ENGINES:
        verdict = judge(Case("perfedavg.fo.pfllib", case, Hyperparameters(hyper), inputs), [engine], ["float32"])
        assert verdict.word == AGREES, verdict.line()


@pytest.mark.parametrize("setting", [{"kappa": 0.0, "momentum": 0.6}, {"kappa": 0.5, "momentum": 0.0}])
def test_feddbe_that_holds_features_to_nothing_has_no_initial_round(setting: dict[str, float]) -> None:
    start = INPUTS["init"]["mlp"]
    aside = {"global": None, "clients": {"1": {"model": start, "client_mean": [0.0] * HIDDEN}}}
    hyper = {"lr": 0.1, "local_epochs": 1, "weighting": "samples", **setting}
    verdict = judged("feddbe", hyper, [aside], model="mlp", init={"global_mean": [0.0] * HIDDEN})
    assert verdict.word == AGREES, verdict.line()


def test_fednova_under_momentum_and_a_proximal_term_is_not_its_authors() -> None:
    hyper = {"lr": 0.1, "local_epochs": 1, "momentum": 0.5, "mu": 0.5, "weighting": "p_i = n_i/n"}
    verdict = judged("fednova.both", hyper, [record(START, {})], participation="full", source="JYWa/FedNova@0 x.py")
    assert verdict.word == NOT_APPLICABLE
    assert "adds one norm to the other" in verdict.reason


FEDPAC = read_cases(Path(__file__).with_name("personalised.json"))["fedpac.full"]


def test_fedpacs_rows_stand_in_the_order_in_which_clients_are_listed() -> None:
    order = [3, 1, 0, 2]
    before = FEDPAC.rounds[0]["server"]
    rows = {name: [before[name][i] for i in order] for name in ("V", "mu")}
    weights = np.array(before["head_weights"])[order][:, order]
    inputs = {**FEDPAC.inputs, "sampled": {"full": [order]}}
    record = {**FEDPAC.record, "rounds": [{"global": None, "server": {**rows, "head_weights": weights}}]}
    verdict = judge(FEDPAC._replace(record=record, inputs=inputs), ["one by one"], ["float32"])
    assert verdict.word == AGREES, verdict.line()


def test_fedpacs_small_weights_are_recorded_as_0_and_the_others_as_they_were() -> None:
    weights = np.array(FEDPAC.rounds[0]["server"]["head_weights"])
    eps = float(np.sort(weights[weights > 0])[:2].mean())  # one of them is smaller
    server = {"head_weights": np.where(weights > eps, weights, 0)}
    hyper = Hyperparameters({**FEDPAC.hyper, "eps": eps})
    case = FEDPAC._replace(record={**FEDPAC.record, "rounds": [{"global": None, "server": server}]}, hyper=hyper)
    verdict = judge(case, ["one by one"], ["float32"])
    assert verdict.word == AGREES, verdict.line()
