"""A client that has never been sampled is served as its method's paper says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fedtl
from fedtl.assemble.parts import assemble, client_updates
from fedtl.choice import ConfigError
from fedtl.clients.serving import Serving, serving
from fedtl.config.read import build
from fedtl.data.federate import federate
from fedtl.export.of_run import model_of_run
from fedtl.strategies import STRATEGIES, strategy_type
from tests.parts import METHODS, MODELS_OF

GLOBAL, FIRST, MADE, NONE = (
    "the global model",
    "what it begins with",
    "a model made for it",
    "the global one, as it has none",
)

SERVED = {
    **dict.fromkeys(
        [
            *("afl", "central", "fedadagrad", "fedadam", "fedavg", "fedavgm", "feddc", "feddf", "feddyn", "fedlc"),
            *("fednova", "fedntd", "fedprox", "fedsam", "fedyogi", "moon", "qfedavg", "scaffold"),
        ],
        GLOBAL,
    ),
    **dict.fromkeys(["apfl", "ditto", "fedbn", "fedper", "fedrep", "lg-fedavg"], FIRST),
    **dict.fromkeys(
        [
            *("fedavg-finetune", "fedbabu", "fedcp", "feddbe", "fedpac", "fedrod", "fedrod-hyper", "gpfl"),
            "per-fedavg",
        ],
        MADE,
    ),
    **dict.fromkeys(["local", "pfedme"], NONE),
}
"""Under ``evaluate.personal = "stored"``; where that is refused, as ever."""


def tables(method: str, **strategy: Any) -> dict[str, Any]:
    return {
        "name": "never",
        "seed": 2,
        "rounds": 2,
        "device": "cpu",
        "data": {"name": "digits", "clients": 4, "samples": 200},
        "model": MODELS_OF.get(method, {"name": "mlp", "hidden": [8]}),
        "strategy": {**METHODS[method], "name": method, "clients_per_round": 1, "local_steps": 3, **strategy},
        "evaluate": {"personal": "stored"},
        "simulation": {"grid": "in-process", "stacked": False, "traced": False},
    }


@pytest.mark.parametrize("method", STRATEGIES)
def test_every_method_says_how(method: str) -> None:
    """Whoever adds one decides, here and in docs/methods.md."""
    update = strategy_type(method).client_update
    expected = SERVED[method]
    if update.makes_for_scoring():
        assert expected == MADE
        with pytest.raises(ConfigError, match=r"evaluate\.personal = 'stored'"):
            build(tables(method))
        return
    if method in ("central", "feddf"):  # with other data than these, or none of them
        assert expected == GLOBAL
        return
    config = build(tables(method))
    assembly = assemble(config, federate(config.data, config.seed))
    which = assembly.strategy.which_personal()
    assert which is serving(update, which is Serving.PARTIAL, "stored")
    begins = client_updates(config, assembly.tasks)[0].serves_untrained
    assert expected == (GLOBAL if which is Serving.NONE else FIRST if begins else NONE)


def first_model(config: dict[str, Any]) -> Tensor:
    """The run's initial model."""
    read = build(config)
    task = assemble(read, federate(read.data, read.seed)).tasks[0]
    return task.layout.flatten(task.module)


def mixed(share: float, first: Tensor, module: nn.Module) -> Tensor:
    return share * first + (1 - share) * nn.utils.parameters_to_vector(module.parameters()).detach()


@pytest.mark.parametrize(
    ("method", "options", "first", "without"),
    [
        ("ditto", {}, 1.0, 0),
        ("ditto", {"personal_start": "received"}, 0.0, 2),
        ("apfl", {"alpha": 0.25}, 0.25, 0),
        ("pfedme", {}, 0.0, 2),
        ("local", {}, 1.0, 2),
    ],
)
def test_what_it_is_scored_with(
    method: str, options: dict[str, Any], first: float, without: int, tmp_path: Path
) -> None:
    """A share of the initial model, the rest the global one."""
    config = tables(method, **options)
    run = fedtl.run(config, out=tmp_path)
    sampled = {client for line in run.rounds for client in line["clients"]}
    assert len(sampled) == 2, "a seed with which two clients are never sampled"
    never = min({0, 1, 2, 3} - sampled)
    assert run.rounds[-1]["scores"]["personal/clients"]["clients_without"] == without
    module = fedtl.load_model(run) if method != "local" else model_of_run(tmp_path, min(sampled), "stored").module
    expected = mixed(first, first_model(config), module)
    nn.utils.vector_to_parameters(expected, module.parameters())
    federation = federate(build(config).data, config["seed"])
    test = federation.test[never]
    x = torch.from_numpy(federation.x[test]) * torch.from_numpy(federation.scale) + torch.from_numpy(federation.shift)
    loss = nn.functional.cross_entropy(module(x.to(torch.float32)), torch.from_numpy(federation.y[test]).long())
    scores = run.clients[-1]["scores"]["personal/clients"]["loss"]
    assert scores[run.clients[-1]["clients"].index(never)] == pytest.approx(loss.item(), rel=1e-4)
    if without:
        with pytest.raises(ConfigError, match="it has no memory"):
            model_of_run(tmp_path, never, "stored")
    else:
        own = nn.utils.parameters_to_vector(model_of_run(tmp_path, never, "stored").module.parameters())
        np.testing.assert_allclose(own.detach(), expected, rtol=1e-6, atol=1e-7)


def test_mixed_outputs_are_those_of_the_first_and_the_global_model(tmp_path: Path) -> None:
    """α = 1 is the client's own model alone, and so the run's first one."""
    config = tables("apfl", alpha=1.0, mixing="outputs")
    run, alone = fedtl.run(config, out=tmp_path / "mixed"), fedtl.run(tables("ditto"), out=tmp_path / "ditto")
    sampled = {client for each in (run, alone) for line in each.rounds for client in line["clients"]}
    never = ({0, 1, 2, 3} - sampled).pop()
    ours, theirs = (each.clients[-1]["scores"]["personal/clients"]["loss"][never] for each in (run, alone))
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert run.rounds[-1]["scores"]["personal/clients"]["clients_without"] == 0
