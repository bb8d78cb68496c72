"""A small linear model on digits, and steps of it by a loss that is written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fedtl.assemble.parts import assemble
from fedtl.config.read import build
from fedtl.data.federate import federate
from fedtl.engine import Trained
from tests.parts import EngineKind, train_cohort

CLIENTS, STEPS = 4, 2


def tables(method: str, alpha: float, rounds: int = 1, **strategy: Any) -> dict[str, Any]:
    """A method's run on labels that are skewed by Dir(α)."""
    partition = {"name": "dirichlet", "alpha": alpha}
    return {
        "name": method,
        "rounds": rounds,
        "device": "cpu",
        "data": {"name": "digits", "clients": CLIENTS, "samples": 200, "partition": partition},
        "model": {"name": "logistic"},
        "strategy": {"name": method, **strategy},
        "simulation": {"grid": "in-process"},
    }


def assert_steps(
    config: dict[str, Any], kind: EngineKind, loss: Callable[[Tensor, Tensor, Tensor], Tensor], spread: float = 0.0
) -> None:
    """Check two full-batch steps of each client.

    Args:
        config: whose strategy has ``lr``, ``batch_size = 0`` and ``local_steps = 2``.
        kind: the engine.
        loss: of the logits ``[n, k]``, those of the received model, and the labels ``[n]``, in float64.
        spread: the standard deviation of what is added to the initial model.
    """
    read, lr = build(config), config["strategy"]["lr"]
    assembly = assemble(read, federate(read.data, 0))
    (task,), (update,) = assembly.tasks, assembly.updates
    received = task.layout.flatten(task.module)
    received = received + spread * torch.randn(len(received), generator=torch.Generator().manual_seed(0))
    engine = kind(task.on(task.samples))
    outcomes = train_cohort(engine, update, received, range(CLIENTS), [{}] * CLIENTS, 1)
    for client, outcome in enumerate(outcomes):
        assert isinstance(outcome, Trained)
        x, y = task.samples.batch(task.samples.federation.train[client])
        x = x.flatten(1).double()
        w, b = (task.layout.views(received)[f"head.{name}"].double() for name in ("weight", "bias"))
        first = x @ w.T + b
        for _ in range(STEPS):
            w, b = (tensor.detach().requires_grad_() for tensor in (w, b))
            gradients = torch.autograd.grad(loss(x @ w.T + b, first, y), (w, b))
            w, b = (tensor - lr * gradient for tensor, gradient in zip((w, b), gradients))
        for name, tensor in (("weight", w), ("bias", b)):
            ours = task.layout.views(outcome.uploads["w"])[f"head.{name}"].double()
            torch.testing.assert_close(ours, tensor.detach(), rtol=1e-4, atol=1e-5)
