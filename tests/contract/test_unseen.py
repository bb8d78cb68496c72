"""Clients that never train: they change nothing of what the others come to, and each method has a way to serve them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import fedtl
from fedtl.config.read import build
from fedtl.data.batches import Budget
from fedtl.data.federate import federate, federate_with_divisions
from fedtl.data.split import write_split
from fedtl.export.of_run import model_of_run
from fedtl.random import Purpose, stream
from fedtl.strategies import STRATEGIES, strategy_type
from tests.interrupted import bits, contents
from tests.parts import METHODS, MODELS_OF

UNSEEN = (4, 5)
"""The last ones, so that the others have the same ids without them."""

DATA: dict[str, Any] = {
    "name": "digits",
    "clients": 6,
    "samples": 240,
    "normalise": "pixel",
    "validation_share": 0.2,
    "held_out_clients": [*UNSEEN],
}


def tables(method: str, data: Mapping[str, Any] = DATA, **other: Any) -> dict[str, Any]:
    """Two rounds of three of the four clients that train."""
    return {
        "name": "unseen",
        "seed": 2,
        "rounds": 2,
        "device": "cpu",
        "data": dict(data),
        "model": MODELS_OF.get(method, {"name": "mlp", "hidden": [8]}),
        "strategy": {**METHODS[method], "name": method, "clients_per_round": 3, "local_steps": 3, "batch_size": 8},
        "simulation": {"grid": "in-process", "stacked": False, "traced": False},
        **other,
    }


@pytest.fixture(scope="module")
def without_them(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same federation in a file that leaves the unseen clients out."""
    data = build(tables("fedavg")).data
    whole = federate_with_divisions(data, 2)[1].source.split()
    stays = ~np.isin(whole.client, UNSEEN)
    assert whole.test is not None
    split = replace(
        whole, sample=whole.sample[stays], client=whole.client[stays], test=whole.test[stays], validation=None
    )
    path = tmp_path_factory.mktemp("split") / "split.npz"
    write_split(split, path)
    rest = {key: value for key, value in DATA.items() if key not in ("clients", "samples", "held_out_clients")}
    return {**rest, "partition": {"name": "file", "path": str(path)}}


OWN = {
    "fedper": "head",
    "fedrep": "head",
    "lg-fedavg": "features",
    "fedbn": "batch-norm",
    "fedrod": "head",
    "feddbe": "head.bias",
    "fedpac": "head",
}
"""The part that is a client's own: it alone is trained for one that joins after training."""


def check_what_others_have_trained_stands_still(method: str, run: fedtl.Run) -> None:
    """What is exported of a joining client is the global model but for its own part, and is what was scored."""
    everybodys = load_file(run.path / "model.safetensors")
    own = model_of_run(run.path, UNSEEN[0]).module
    head = list(everybodys)[-1].rpartition(".")[0]
    modules = own.named_modules()
    norms = {name for name, module in modules if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)}
    of_head = {name for name in everybodys if name.startswith(f"{head}.")}
    expected = {
        "head": of_head,
        "features": everybodys.keys() - of_head,
        "batch-norm": {name for name in everybodys if name.rpartition(".")[0] in norms},
        "head.bias": {f"{head}.bias"},
    }[OWN[method]]
    assert {name for name, tensor in own.state_dict().items() if not torch.equal(tensor, everybodys[name])} == expected
    assert scored_loss(own, run) == pytest.approx(losses(run)[0], rel=1e-5)


@pytest.mark.parametrize("method", STRATEGIES)
def test_they_change_nothing_and_are_scored_apart(method: str, without_them: dict[str, Any], tmp_path: Path) -> None:
    run = fedtl.run(tables(method), out=tmp_path / "with")
    rest = fedtl.run(tables(method, without_them), out=tmp_path / "without")
    assert bits(load_file(run.path / "model.safetensors")) == bits(load_file(rest.path / "model.safetensors"))
    apart = {f"{model}/unseen-clients" for model in ("global", "personal")}
    for ours, theirs in zip(run.rounds, rest.rounds, strict=True):
        assert (ours["clients"], ours["train"], ours["failures"]) == (theirs["clients"], theirs["train"], [])
        assert {name: score for name, score in ours["scores"].items() if name not in apart} == theirs["scores"]
    scores = run.rounds[-1]["scores"]
    seen = {name.partition("/")[0] for name in scores if name.endswith("/clients")}
    assert {name.partition("/")[0] for name in scores if name in apart} == seen
    for record in run.clients:
        assert record["unseen"]["clients"] == [*UNSEEN]
        assert record["clients"] == [0, 1, 2, 3]
    if "personal" in seen:
        assert scores["personal/unseen-clients"]["clients_without"] == 0
    if apart <= scores.keys():
        assert all(own != everybodys for own, everybodys in zip(*(losses(run, name) for name in sorted(apart))))
    if method in OWN:
        check_what_others_have_trained_stands_still(method, run)


def losses(run: fedtl.Run, score: str = "personal/unseen-clients") -> list[float]:
    """The unseen clients' own."""
    values: list[float] = run.clients[-1]["unseen"]["scores"][score]["loss"]
    return values


def inputs(config: Mapping[str, Any], index: np.ndarray[Any, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """What a model is given of some samples, and their labels."""
    federation = federate(build(dict(config)).data, int(config["seed"]))
    scale, shift = torch.from_numpy(federation.scale), torch.from_numpy(federation.shift)
    return torch.from_numpy(federation.x[index]) * scale + shift, torch.from_numpy(federation.y[index])


def scored_loss(module: torch.nn.Module, run: fedtl.Run) -> float:
    """Of a model on the first unseen client's test samples."""
    federation = federate(build(dict(run.config)).data, run.seed)
    x, y = inputs(run.config, federation.test[UNSEEN[0]])
    with torch.no_grad():
        return float(F.cross_entropy(module.eval()(x), y))


def test_fine_tuning_is_k_steps_of_sgd(tmp_path: Path) -> None:
    """By hand, on the client's own training samples in the order of the next round."""
    k, size = 5, 8
    config = tables("fedavg-finetune")
    config["strategy"] |= {"finetune_steps": k, "finetune_lr": 0.2}
    run = fedtl.run(config, out=tmp_path)
    federation = federate(build(config).data, config["seed"])
    module, client = fedtl.load_model(run), UNSEEN[0]
    own = federation.train[client]
    order, sizes = Budget(size, steps=k).order(len(own), stream(config["seed"], Purpose.SAMPLE_ORDER, 3, client))
    assert len(sizes) == k
    assert scored_loss(module, run) == pytest.approx(losses(run, "global/unseen-clients")[0], rel=1e-5)
    for batch in np.split(order, np.cumsum(sizes)[:-1]):
        x, y = inputs(config, own[batch])
        gradients = torch.autograd.grad(F.cross_entropy(module(x), y), [*module.parameters()])
        with torch.no_grad():
            for parameter, gradient in zip(module.parameters(), gradients):
                parameter -= 0.2 * gradient
    assert scored_loss(module, run) == pytest.approx(losses(run)[0], rel=1e-5)


def test_as_many_passes_as_the_config_says(tmp_path: Path) -> None:
    """Of whatever the method does: where that is fine-tuning, they are its own option by another name."""
    said = fedtl.run(tables("fedavg-finetune", evaluate={"unseen_epochs": 3}), out=tmp_path / "said")
    own = tables("fedavg-finetune")
    own["strategy"] = {key: value for key, value in own["strategy"].items() if key != "finetune_steps"}
    own["strategy"]["finetune_epochs"] = 3
    assert losses(said) == losses(fedtl.run(own, out=tmp_path / "own"))


@pytest.mark.parametrize("method", ["fedpac", "fedcp"])
def test_a_resumed_run_serves_them_alike(method: str, tmp_path: Path) -> None:
    """With unseen clients among the others, so that a server's rows are of other places than ids."""
    config = tables(method, {**DATA, "held_out_clients": [0, 3]})
    config["strategy"] |= {"global_parts": "last"} if method == "fedcp" else {}
    whole = fedtl.run(config, out=tmp_path / "whole")
    fedtl.run({**config, "rounds": 1}, out=tmp_path / "parted")
    again = fedtl.run(config, out=tmp_path / "parted", resume=True)
    assert contents(whole.path) == contents(again.path)
    assert all(not {0, 3} & {*line["clients"]} for line in whole.rounds)
    assert whole.clients[-1]["unseen"]["clients"] == [0, 3]


@pytest.mark.ray
def test_every_grid_serves_them_alike(tmp_path: Path, warm_actors: None) -> None:
    here = fedtl.run(tables("fedper"), out=tmp_path / "here")
    on_ray = {"grid": "ray", "actors": 2, "stacked": False, "traced": False}
    there = fedtl.run(tables("fedper", simulation=on_ray), out=tmp_path / "there")
    assert contents(here.path) == contents(there.path)


def test_the_documentation_says_of_every_method_how() -> None:
    section = Path("docs/methods.md").read_text().partition("## A client that joins after training")[2]
    rows = [line.split("|") for line in section.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    named = {name: cells[2] for cells in rows for name in re.findall(r"`([a-z-]+)`", cells[1])}
    assert sorted(named) == sorted(STRATEGIES)
    for name, how in named.items():
        update = strategy_type(name).client_update
        own = update.personalises or update.serves_untrained  # the latter by parts of the model alone
        assert ("the global model alone" in how) is not own
