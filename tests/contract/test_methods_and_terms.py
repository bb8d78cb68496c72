"""Every method with every term: it trains, or a sentence says why the two do not go together."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from fedtl.choice import ConfigError
from fedtl.config.read import build
from fedtl.data.federate import federate
from fedtl.data.federation import Federation
from fedtl.engine.first_memory import check_travels
from fedtl.losses.objective import Objective, read_objective
from fedtl.models import build_model, read_model
from fedtl.models.sharing import freeze
from fedtl.strategies import STRATEGIES, read_strategy, strategy_type
from tests.parted import Parted
from tests.parts import CLIENT_METHODS, METHODS, OF_CLASSES

CLIENTS = 2
DATA: dict[str, Any] = {
    "clients": CLIENTS,
    "samples": 60,
    "target": {"name": "digits", "samples": 40, "transform": {"invert": True}},
    "public": {"name": "digits", "samples": 12},
}
MODEL = {"name": "cnn-bn", "channels": [2], "hidden": [4]}  # for terms and methods that are about batch-norm
LOGISTIC = {"name": "logistic"}  # its features are its inputs
MORE = {"views": {}, "replay": {"classes": "all", "per_class": 4, "steps": 2, "after": 1}}
ADDED = sorted(set(OF_CLASSES) - {"cross_entropy"})

OPTIONS: Mapping[str, dict[str, Any]] = {"barlow_twins": {"projector": [8, 8]}, "vicreg": {"projector": [8, 8]}}
"""Smaller modules than by default."""

WEIGHTS: Mapping[str, float] = {"vicreg": 1e-3}
"""Of a term whose own weights are large, so that a step of it would run away; 0.1 of the others."""

STEPS: Mapping[str, int] = {"proximal": 2}
"""A round's local steps, where the first changes nothing: it begins at the model from which a term is to keep near."""


ROUNDS: Mapping[str, int] = {"feddbe": 3}
"""Of a method whose first round leaves nothing that a term could look at in the second one."""


class About(NamedTuple):
    """What of a method decides which terms go with it."""

    sends: bool  # a model to its clients
    private: bool  # parts of the model stay at them
    private_features: bool  # all but the head does
    pooled: bool  # all samples are in one place
    whole: bool  # its uploads are of a whole model, or a client has a predictor of its own


@functools.cache
def about(method: str) -> About:
    kind, settings = strategy_type(method), read_strategy({"name": method, **METHODS[method]})
    private, update = settings.private, kind.client_update
    predictor = Objective(update.objective(settings, read_objective([{"term": "cross_entropy"}]))).predictor
    whole = bool(update.more_than_a_model()) or update.needs_whole_model or predictor is not None
    return About(kind.has_global_model(), bool(private), "features" in private, kind.pools, whole)


REFUSED: Mapping[str, Callable[[About], bool]] = {
    "adda": lambda of: not of.sends or of.private,
    "distillation": lambda of: not of.sends,
    "moon": lambda of: not of.sends or of.pooled or of.private_features,
    "mutual": lambda of: of.pooled or of.private or of.whole,
    "not_true_distillation": lambda of: not of.sends,
    "proximal": lambda of: not of.sends,
    "replay": lambda of: not of.sends or of.private,
}
"""Terms that do not go with every method, and with which they do not."""


def refused(method: str, term: str) -> bool:
    return term in REFUSED and REFUSED[term](about(method))


@functools.cache
def federation() -> Federation:
    tables = {"name": "x", "rounds": 1, "model": MODEL, "strategy": {"name": "local", "lr": 1}}
    return federate(build({**tables, "data": {"name": "digits", **DATA}}).data, 0)


def run(
    method: str, steps: int, *terms: dict[str, Any], model: Mapping[str, Any] = MODEL
) -> tuple[dict[str, Tensor], Mapping[str, float]]:
    """Two rounds, or more: all numbers of the models that they leave, and the last one's losses."""
    strategy = {"name": method, "batch_size": 8, "local_steps": steps, **METHODS[method]}
    sampled = [[0] if strategy_type(method).pools else [*range(CLIENTS)]] * ROUNDS.get(method, 2)
    objective = [{"term": "cross_entropy"}, *terms]
    of = Parted(strategy, federation(), sampled, model=model, objective=objective, data=DATA, more=MORE)
    check_travels(of.task, of.worker.update)  # as before a run's first round
    sent = of.rounds()
    left = {f"global {name}": tensor for name, tensor in of.global_model(sent[-1]).state_dict().items()}
    if of.server.personalises:
        for client in sampled[0]:
            left |= {f"{client}'s {name}": tensor for name, tensor in of.served(client).state_dict().items()}
    return left, of.losses[-1]


@functools.cache
def without(method: str, steps: int) -> dict[str, Tensor]:
    return run(method, steps)[0]


def table(term: str, weight: float) -> dict[str, Any]:
    return {"term": term, "name": f"{term}, added", "weight": weight, **OPTIONS.get(term, {})}


@pytest.mark.parametrize("term", ADDED)
@pytest.mark.parametrize("method", CLIENT_METHODS)
def test_a_term_trains_under_any_method_or_is_refused(method: str, term: str) -> None:
    steps, row = STEPS.get(term, 1), table(term, WEIGHTS.get(term, 0.1))
    if refused(method, term):
        with pytest.raises(ConfigError) as refusal:
            run(method, steps, row)
        assert "\n" not in str(refusal.value)
        return
    left, losses = run(method, steps, row)
    alone = without(method, steps)
    assert left.keys() >= alone.keys()  # with "mutual" clients have a model of their own under any method
    assert all(tensor.isfinite().all() for tensor in left.values())
    assert torch.tensor([losses["cross_entropy"], losses[row["name"]]]).isfinite().all()
    assert any(not torch.equal(left[name], alone[name]) for name in alone), "it trained nothing"


@functools.cache
def logistic_alone() -> dict[str, Tensor]:
    return run("fedavg", 2, model=LOGISTIC)[0]


@pytest.mark.parametrize("term", ADDED)
def test_a_term_that_does_nothing_to_a_model_without_trained_features_says_so(term: str) -> None:
    row = table(term, WEIGHTS.get(term, 0.1))
    left, alone = run("fedavg", 2, row, model=LOGISTIC)[0], logistic_alone()
    read = read_objective([{"term": "cross_entropy"}, row])[1]
    idle = read.idle(build_model(read_model(LOGISTIC), (1, 8, 8), 10, seed=0))
    assert all(torch.equal(left[name], alone[name]) for name in alone) == (idle is not None)
    whole = build_model(read_model(MODEL), (1, 8, 8), 10, seed=0)
    assert read.idle(whole) is None
    freeze(whole, ["features"])
    assert (read.idle(whole) is None) == (idle is None)


@pytest.mark.parametrize("method", CLIENT_METHODS)
def test_terms_of_weight_zero_change_no_bit_of_any_method(method: str) -> None:
    rows = [table(term, 0.0) for term in ADDED if not refused(method, term)]
    left, losses = run(method, 1, *rows)
    alone = without(method, 1)
    assert left.keys() == alone.keys()
    assert [name for name in left if not torch.equal(left[name], alone[name])] == []
    assert [name for name in (row["name"] for row in rows) if not torch.tensor(losses[name]).isfinite()] == []


def test_most_go_together() -> None:
    pairs = [(method, term) for method in STRATEGIES for term in ADDED]
    assert REFUSED.keys() <= set(ADDED)
    assert sum(refused(*pair) for pair in pairs) < len(pairs) / 10
