"""FedBN (Li et al. 2021): batch-norm layers stay at each client, their statistics too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fedtl.choice import ConfigError
from fedtl.models import build_model, read_model
from tests.parted import Parted, assert_same, descend, mean
from tests.parts import EACH_ENGINE, EngineKind, federation_of

SIZES = [4, 6, 9]
NORM = {"norm": True}


def assert_same_norm(ours: nn.Module, theirs: nn.Module, exactly: bool = False) -> None:
    """Weights, biases and running statistics."""
    assert_same(ours, theirs, exactly)
    tolerance: dict[str, Any] = {"rtol": 0.0, "atol": 0.0} if exactly else {"rtol": 1e-5, "atol": 1e-6}
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), **tolerance)


@EACH_ENGINE
def test_two_rounds_worked_out_by_hand(kind: EngineKind) -> None:
    """All layers train; the plain mean of all but batch-norm is sent; each goes on with its own batch-norm."""
    run = Parted({"name": "fedbn"}, federation_of(SIZES), [[0, 2], [0, 1]], kind, NORM)
    sent = run.rounds()[-1]
    own = {client: run.begun().norm for client in range(3)}
    shared = run.begun()
    for clients in ([0, 2], [0, 1]):
        trained = []
        for client in clients:
            module = run.begun().train()
            for part in ("body", "head"):
                module.get_submodule(part).load_state_dict(shared.get_submodule(part).state_dict())
            module.norm.load_state_dict(own[client].state_dict())
            descend(module, [*module.parameters()], *run.samples(client), lr=0.2)
            own[client] = module.norm
            trained.append(module)
        with torch.no_grad():
            for part in ("body", "head"):
                means = mean([module.get_submodule(part) for module in trained], [1, 1])
                for parameter, value in zip(shared.get_submodule(part).parameters(), means, strict=True):
                    parameter.copy_(value)
    assert len(sent) == sum(p.numel() for part in (shared.body, shared.head) for p in part.parameters())
    for client in range(3):
        served = run.served(client)
        assert_same(served.body, shared.body)
        assert_same(served.head, shared.head)
        assert_same_norm(served.norm, own[client])


def test_who_has_never_trained_has_the_first_batch_norm() -> None:
    run = Parted({"name": "fedbn"}, federation_of(SIZES), [[0, 2]], model=NORM)
    run.rounds()
    assert_same_norm(run.served(1).norm, run.begun().norm, exactly=True)


def test_with_nothing_private_it_is_fedavg_of_plain_means() -> None:
    rounds = [
        Parted(table, federation_of(SIZES), [[0, 1], [1, 2]], model=NORM).rounds()
        for table in ({"name": "fedbn", "private": []}, {"name": "fedavg", "weighting": "uniform"})
    ]
    assert all(map(torch.equal, *rounds))


def test_a_model_without_batch_norm_is_refused() -> None:
    with pytest.raises(ConfigError, match="the model Net has no batch-norm layer"):
        Parted({"name": "fedbn"}, federation_of(SIZES), [[0]])


def test_cnn_bn_is_the_cnn_with_batch_norm_before_each_relu() -> None:
    plain, norm = (
        build_model(read_model({"name": name, "channels": [3, 5], "hidden": [7]}), (1, 28, 28), 4, seed=0)
        for name in ("cnn", "cnn-bn")
    )
    kinds = [type(layer) for layer in norm.features]  # type: ignore[union-attr, arg-type]
    assert [kind for kind in kinds if "BatchNorm" not in kind.__name__] == [type(layer) for layer in plain.features]  # type: ignore[union-attr, arg-type]
    before_relu = [kinds[place - 1].__name__ for place, kind in enumerate(kinds) if kind is nn.ReLU]
    assert before_relu == ["BatchNorm2d", "BatchNorm2d", "BatchNorm1d"]
    numbers = [sum(p.numel() for p in module.parameters()) for module in (plain, norm)]
    assert numbers[1] - numbers[0] == 2 * (3 + 5 + 7)
