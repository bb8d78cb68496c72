"""``strategy.clip_norm`` clips gradients as torch's scripts do: before any weight decay and momentum."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.parted import Parted
from tests.parts import EACH_ENGINE, EngineKind, federation_of

SIZES = [5, 7]
CLIP = 0.1
LR = 0.2


def flat(module: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(module.parameters()).detach()


def by_torch(run: Parted, steps: int, **sgd: float) -> Tensor:
    """Client 1's model after steps of torch's own SGD on gradients that torch has clipped."""
    module, (x, y) = run.begun(), run.samples(1)
    optimizer = torch.optim.SGD(module.parameters(), lr=LR, **sgd)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()
        nn.utils.clip_grad_norm_(module.parameters(), CLIP)
        optimizer.step()
    return flat(module)


@EACH_ENGINE
@pytest.mark.parametrize("options", [{"momentum": 0.9}, {"weight_decay": 0.5}, {"momentum": 0.9, "weight_decay": 0.5}])
def test_a_clients_steps_are_torchs(options: dict[str, float], kind: EngineKind) -> None:
    """Under the method's own momentum and weight decay as under the optimiser's."""
    for chosen in (options, {"optimizer": {"name": "sgd", **options}}):
        table = {"name": "fedavg", "local_steps": 4, "clip_norm": CLIP, **chosen}
        run = Parted(table, federation_of(SIZES), [[1]], kind)
        (sent,) = run.rounds()
        torch.testing.assert_close(flat(run.global_model(sent)), by_torch(run, 4, **options), rtol=1e-5, atol=1e-6)


@EACH_ENGINE
def test_of_a_part_it_is_the_norm_of_the_part_alone(kind: EngineKind) -> None:
    """The weight decay of what stands still is no part of it, either."""
    table = {"name": "fedrep", "head_steps": 1, "local_steps": 1, "clip_norm": CLIP, "weight_decay": 0.5}
    run = Parted(table, federation_of(SIZES), [[1]], kind)
    run.rounds()
    module, (x, y) = run.begun(1), run.samples(1)
    F.cross_entropy(module(x), y).backward()
    nn.utils.clip_grad_norm_(module.head.parameters(), CLIP)
    for ours, first in zip(run.served(1).head.parameters(), module.head.parameters()):
        assert first.grad is not None
        expected = first - LR * (first.grad + 0.5 * first)
        torch.testing.assert_close(ours.detach(), expected.detach(), rtol=1e-5, atol=1e-6)


@EACH_ENGINE
def test_pfedmes_inner_steps(kind: EngineKind) -> None:
    """θ ← θ - η (clip(∇f(θ) + λ(θ - w)) + weight_decay θ), once from θ = w."""
    table = {"name": "pfedme", "lam": 15.0, "inner_steps": 1, "inner_lr": LR, "local_steps": 1, "lr": 1 / 15}
    run = Parted({**table, "clip_norm": CLIP, "weight_decay": 0.5}, federation_of(SIZES), [[1]], kind)
    (sent,) = run.rounds()  # with ηλ = 1 the local model becomes θ
    expected = by_torch(run, 1, weight_decay=0.5)
    torch.testing.assert_close(flat(run.global_model(sent)), expected, rtol=1e-5, atol=1e-6)


@EACH_ENGINE
def test_gpfls_decay_of_its_valve_is_not_clipped(kind: EngineKind) -> None:
    """With a clip that leaves nothing of the gradient, the valve and the embeddings shrink by η µ all the same."""
    table: dict[str, Any] = {"name": "gpfl", "lam": 0.0, "mu": 0.5, "local_steps": 1, "clip_norm": 1e-9}
    run = Parted(table, federation_of(SIZES), [[0, 1]], kind, model={"name": "tests.unit.test_gpfl:Relu"})
    (sent,) = run.rounds()
    before, after = run.initial, run.task.whole(sent, run.initial)
    for part in ("gpfl_valve", "gpfl_embeddings"):
        for was, now in zip(run.extra(before, part), run.extra(after, part)):
            torch.testing.assert_close(now, (1 - LR * 0.5) * was, rtol=1e-5, atol=1e-6)
