"""Weights that nobody sends are the same at all clients and at the server, or a sentence says at whom they are not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import RecordDict
from safetensors.torch import save_file

import fedtl
from fedtl.assemble.parts import assemble, make_engines
from fedtl.choice import ConfigError
from fedtl.config.read import build
from fedtl.data.federate import federate
from fedtl.deploy.weights import check_same, sketches
from fedtl.models import build_model, read_model
from fedtl.wire import messages as m
from tests.contract.test_grids import records
from tests.unit.test_deploy_serverapp import SGD, Answer, Deployment, _quick, check_equal, deploy, made, tables  # noqa: F401

LORA = {"name": "mlp", "hidden": [12], "adapter": {"name": "lora", "rank": 2}}


def a_file(path: Path, seed: int) -> dict[str, torch.Tensor]:
    """Weights of that network, for other digits than the study's."""
    module = build_model(read_model({"name": "mlp", "hidden": [12]}), (1, 8, 8), 10, seed)
    save_file(dict(module.state_dict()), path)
    return dict(module.state_dict())


def with_another_file(file: Path, seed: int) -> Callable[[Answer], Answer]:
    """South's machine has another file of that name."""

    def wrapped(answer: Answer) -> Answer:
        def reply(kind: str, content: RecordDict) -> Any:
            if content[m.STUDY]["client"] != 1:
                return answer(kind, content)
            before = file.read_bytes()
            a_file(file, seed)
            try:
                return answer(kind, content)
            finally:
                file.write_bytes(before)

        return reply

    return wrapped


@pytest.mark.parametrize(
    ("model", "strategy"),
    [
        ({}, {"name": "fedavg", **SGD}),  # the whole network is frozen but for its adapter
        ({"adapter": None}, {"name": "fedavg", **SGD, "private": ["head"]}),  # and here a client begins with its head
    ],
)
def test_a_client_that_begins_with_another_file(
    model: dict[str, Any],
    strategy: dict[str, Any],
    deploy: Callable[..., Deployment],  # noqa: F811
    tmp_path: Path,
) -> None:
    file = tmp_path / "weights.safetensors"
    a_file(file, 1)
    config = tables(model={**LORA, "pretrained": str(file), **model}, strategy=strategy)
    deployed = deploy(config)
    deployed.begin_clients(with_another_file(file, 2), approved=build(config))
    with pytest.raises(ConfigError) as error:
        deployed.serve()
    assert str(error.value).startswith(
        f"model.pretrained = '{file}' has other weights at south than at the server, as in"
    )
    assert str(error.value).endswith("; give both the same file")
    assert not records(deployed.run)
    deployed.begin_clients(approved=build(config))
    deployed.serve(resume=True)
    fedtl.run(config, out=tmp_path / "simulated")
    check_equal(deployed, tmp_path / "simulated")


def test_a_client_that_comes_later_is_asked_too(
    deploy: Callable[..., Deployment],  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It takes no part, and the record says why."""
    file = tmp_path / "weights.safetensors"
    a_file(file, 1)
    config = tables(model={**LORA, "pretrained": str(file)}, deploy={"wait": 0.2, "min_clients": 1})
    deployed = deploy(config)
    deployed.begin_clients(with_another_file(file, 2), approved=build(config))
    away, nodes = deployed.grid.nodes[1], deployed.grid.nodes
    deployed.grid.nodes = [nodes[0], nodes[2]]
    north = nodes[0].answer

    def comes_back(kind: str, content: RecordDict) -> Any:
        if kind == "train" and away not in deployed.grid.nodes:
            deployed.grid.nodes.append(away)
        return north(kind, content)

    nodes[0].answer = comes_back
    deployed.serve()
    lines = records(deployed.run)
    sentence = f"model.pretrained = '{file}' has other weights at south than at the server"
    assert {each["client"] for line in lines for each in line["failures"]} == {1}
    assert lines[-1]["failures"][0]["message"].startswith(sentence)
    assert f"south: {sentence}" in capsys.readouterr().out


def test_what_is_compared() -> None:
    config = build(tables(model=LORA))
    federation = federate(config.data, config.seed)

    def of(**changed: Any) -> Mapping[str, tuple[float, float]]:
        own = config.model_copy(update=changed)
        assembly = assemble(own, federation)
        engines = make_engines(own, assembly.tasks, "cpu", assembly.choose_engines("cpu"))
        return sketches(own, engines, 0)

    mine = of()
    assert mine
    assert all(name.startswith("frozen/") for name in mine)
    assert not any("lora" in name or "head" in name for name in mine)
    # All of it travels, and the experiment says the weights of classes.
    weighted = [{"term": "cross_entropy", "class_weights": [1.0] * 9 + [2.0]}]
    assert of(model=build(tables()).model, objective=build(tables(objective=weighted)).objective) == {}
    check_same(mine, of(), "north", None)
    check_same(mine, {name: (norm * (1 + 1e-7), total) for name, (norm, total) in mine.items()}, "north", None)
    turned = {name: (norm, -total) for name, (norm, total) in mine.items()}
    not_there = {name: (norm, math.nan) for name, (norm, _) in mine.items()}
    for theirs in (of(seed=1), {}, turned, not_there):
        with pytest.raises(ConfigError, match=r"^the frozen part of the model has other weights at north than at the"):
            check_same(mine, theirs, "north", None)
    with pytest.raises(
        ConfigError, match=r"^'distill_teacher', which a term uses and nobody trains, has other weights"
    ):
        check_same({"distill_teacher/head.bias": (1.0, 1.0)}, {"distill_teacher/head.bias": (1.0, 0.9)}, "north", None)
