"""Methods that train and share parts of the model, together with terms of the objective, on every engine."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from fedtl.choice import ConfigError
from fedtl.config.read import build
from fedtl.data.federate import federate
from fedtl.data.federation import Federation
from tests.parted import Parted
from tests.parts import CLIENT_METHODS, ENGINES, METHODS, EngineKind, federation_of

DATA: dict[str, Any] = {
    "samples": 80,
    "clients": 3,
    "target": {"name": "digits", "samples": 60, "transform": {"invert": True}},
}
CROSS_ENTROPY = {"term": "cross_entropy"}
TERMS: dict[str, dict[str, Any]] = {
    "distillation": {"term": "distillation", "weight": 0.5},
    "mmd": {"term": "mmd", "weight": 0.5},
    "dann": {"term": "dann", "weight": 0.5},  # has a module of its own, which trains and travels with the body
}
MODEL = {"name": "mlp", "hidden": [5]}


@functools.cache
def domains() -> Federation:
    tables = {
        "name": "x",
        "rounds": 1,
        "data": {"name": "digits", **DATA},
        "model": MODEL,
        "strategy": {"name": "local", "lr": 1},
    }
    return federate(build(tables).data, 0)


def run(method: str, terms: list[dict[str, Any]], kind: EngineKind) -> tuple[Parted, list[torch.Tensor]]:
    strategy = {"name": method, "batch_size": 10, "local_steps": 2, **METHODS[method]}
    of = Parted(strategy, domains(), [[0, 2], [0, 1]], kind, MODEL, [CROSS_ENTROPY, *terms], DATA)
    return of, of.rounds()


@pytest.mark.parametrize(
    ("method", "term"),
    [
        ("fedrep", "distillation"),
        ("fedrep", "mmd"),
        ("fedrep", "dann"),
        ("fedper", "mmd"),
        ("lg-fedavg", "mmd"),
        ("feddbe", "mmd"),
        ("fedpac", "mmd"),
        ("fedrod", "mmd"),
        ("fedrod-hyper", "dann"),
        ("fedbabu", "distillation"),
    ],
)
def test_a_term_trains_and_every_engine_agrees(method: str, term: str) -> None:
    plain, _ = run(method, [], ENGINES["one by one"])
    without = [parameters_to_vector(plain.served(client).parameters()).detach() for client in range(3)]
    first: tuple[list[float], list[torch.Tensor]] | None = None
    for kind in ENGINES.values():
        of, sent = run(method, [TERMS[term]], kind)
        assert of.engine.tracer is None or of.engine.tracer.replays_all, "a step ran eagerly"
        own = [parameters_to_vector(of.served(client).parameters()).detach() for client in range(3)]
        losses = [line[term] for line in of.losses]
        assert min(losses) > 0
        first = first or (losses, [*own, *sent])
        np.testing.assert_allclose(losses, first[0], rtol=1e-3)
        for ours, theirs in zip([*own, *sent], first[1], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
        for with_term, none in zip(own, without):
            assert not torch.allclose(with_term, none, rtol=1e-4, atol=1e-6)


def test_a_terms_own_module_trains_and_travels_with_the_body() -> None:
    """Everything that is not private is what fedrep's second loop trains: DANN's discriminator too."""
    of, sent = run("fedrep", [TERMS["dann"]], ENGINES["one by one"])
    before, after = of.initial, of.task.whole(sent[-1], of.initial)
    own = [slot for slot in of.task.layout.slots if slot.name.startswith("extras.")]
    assert own
    for slot in own:
        assert not torch.equal(before[slot.start : slot.stop], after[slot.start : slot.stop]), slot.name


def check_refused_or_run(strategy: dict[str, Any], option: str) -> None:
    """Either the config is refused for an option's sake, or clients train and are served."""
    try:
        of = Parted(strategy, federation_of([5, 7]), [[0], [0]], model={"norm": True})
    except ConfigError as error:
        assert option in str(error)  # noqa: PT017
        return
    of.rounds()
    of.score_of(0)


@pytest.mark.parametrize("frozen", ["head", "features"])
@pytest.mark.parametrize("method", CLIENT_METHODS)
def test_what_a_method_cannot_do_without_a_part_is_known_before_the_first_round(method: str, frozen: str) -> None:
    check_refused_or_run({"name": method, **METHODS[method], "frozen": [frozen]}, "frozen")


@pytest.mark.parametrize("which", ["weights", "matrices"])
@pytest.mark.parametrize("method", CLIENT_METHODS)
def test_weight_decay_spares_parts_of_all_that_a_client_trains(method: str, which: str) -> None:
    """Also of vectors that are no model's, as a personal head or a bias."""
    decay = {"optimizer": {"name": "sgd", "weight_decay": 0.5, "decayed": which}}
    check_refused_or_run({"name": method, **METHODS[method], **decay}, "optimizer")


@pytest.mark.parametrize("which", ["weights", "matrices"])
def test_the_bias_of_a_personal_head_does_not_decay(which: str) -> None:
    """φ ← φ - η (∇ + λ φ), which begins at the generic head, once."""
    heads = {}
    for pulled in ("all", which):
        decay = {"optimizer": {"name": "sgd", "weight_decay": 0.5, "decayed": pulled}}
        table = {"name": "fedrod", "personal_start": "generic", **decay}
        of = Parted(table, federation_of([5, 7]), [[0]])
        of.rounds()
        heads[pulled] = of.memory(0)["phi"]
    weight, bias = of.begun().head.weight, of.begun().head.bias
    more = heads[which] - heads["all"]
    assert torch.equal(more[: weight.numel()], torch.zeros(weight.numel()))
    torch.testing.assert_close(more[weight.numel() :], 0.2 * 0.5 * bias.detach(), rtol=1e-4, atol=1e-6)
