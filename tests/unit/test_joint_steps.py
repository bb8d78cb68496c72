"""Steps of several shapes in one loop: the same bits as one program after another, and one call a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fedtl.data.samples import Samples
from fedtl.engine import OneByOne, Stacked
from fedtl.tracing.joint import JointProgram, joined
from fedtl.tracing.program import Program, compile_step
from fedtl.tracing.simplify import simplify
from fedtl.tracing.tape import UntraceableError, trace
from tests.parts import METHODS, engine_of, federation_of, small_module, train_cohort, update_of


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def step(x: Tensor, y: Tensor, buffers: Tensor, w: Tensor, m: Tensor) -> Any:
    """Logistic regression with momentum; its second value cannot wait until after the loop."""
    views = w[:12].view(4, 3).detach().requires_grad_(), w[12:].detach().requires_grad_()
    with torch.enable_grad():
        logits = F.linear(x, *views)
        loss = F.cross_entropy(logits, y)
        gradients = torch.autograd.grad(loss, views)
    m = 0.9 * m + torch.cat([gradient.flatten() for gradient in gradients])
    return w - 0.1 * m, m, buffers + 1, loss.detach(), logits.detach().square().mean()


def program_of(batch: int, function: Any = step, terms: int = 2) -> Program:
    y = torch.arange(batch) % 4
    vectors = {"w": numbers(1, 16), "m": numbers(2, 16)}
    graph = trace(function, {"x": numbers(0, batch, 3), "y": y, "buffers": torch.zeros(1), **vectors})
    simplify(graph)
    return compile_step(graph, ("x", "y"), ("w", "m"), terms)


def stretch(steps: int, batch: int) -> list[Tensor]:
    y = torch.randint(4, (steps, batch), generator=torch.Generator().manual_seed(steps))
    return [numbers(steps + batch, steps, batch, 3), y]


@pytest.mark.parametrize(
    "order", [[(0, 3), (1, 1), (0, 3), (1, 1)], [(1, 2), (0, 1)], [(2, 1), (0, 2), (1, 4), (2, 2)]]
)
def test_joined_programs_give_the_bits_of_one_after_another(order: Sequence[tuple[int, int]]) -> None:
    sizes = (5, 2, 1)
    kinds = sorted({kind for kind, _ in order})
    programs = [program_of(sizes[kind]) for kind in kinds]
    lots = [(kinds.index(kind), stretch(steps, sizes[kind])) for kind, steps in order]
    ends = []
    for together in (True, False):
        state, losses = {"w": numbers(1, 16), "m": numbers(2, 16)}, torch.zeros(2, dtype=torch.float64)
        buffers = torch.zeros(1)
        if together:
            joined(programs).run(lots, losses, buffers, state)
        else:
            for kind, inputs in lots:
                programs[kind].run(inputs, losses, buffers, state)
        ends.append([*state.values(), losses, buffers])
    assert all(map(torch.equal, *ends))
    assert ends[0][-1].item() == sum(steps for _, steps in order)


def test_programs_that_add_up_different_values_are_not_joined() -> None:
    def other(x: Tensor, y: Tensor, buffers: Tensor, w: Tensor, m: Tensor) -> Any:
        *new, loss, second = step(x, y, buffers, w, m)
        return *new, loss * 1.5, second

    with pytest.raises(UntraceableError, match="wait in one kind of step"):
        joined([program_of(5), program_of(2, other)])


@pytest.mark.parametrize("kind", [OneByOne, Stacked])
@pytest.mark.parametrize("method", ["fedavg", "pfedme", "per-fedavg"])  # of one kind of step, and of three in turn
def test_a_round_of_ragged_epochs_is_one_call(kind: Any, method: str) -> None:
    federation = federation_of([8, 8, 8])
    options = {**METHODS[method], "batch_size": 3, "local_epochs": 4}  # 3, 3, 2 samples, four times
    update = update_of(method, **options)
    ends, calls = [], []
    for traced in (True, False):
        engine = engine_of(federation, small_module(), lambda task, traced=traced: kind(task, traced))
        w = engine.task.layout.flatten(engine.task.module)
        train_cohort(engine, update, w, [0, 1, 2], [{}, {}, {}], 1)  # what must be traced is
        run = JointProgram.run
        with (
            patch.object(JointProgram, "run", autospec=True, side_effect=run) as joint,
            patch.object(Program, "run", autospec=True, side_effect=Program.run) as single,
        ):
            ends.append(train_cohort(engine, update, w, [0, 1, 2], [{}, {}, {}], 2))
        calls.append((joint.call_count, single.call_count))
    assert calls == [(3 if kind is OneByOne else 1, 0), (0, 0)]
    for trained, eager in zip(*ends):
        torch.testing.assert_close(trained.uploads["w"], eager.uploads["w"], rtol=1e-5, atol=1e-6)
        assert trained.losses == pytest.approx(eager.losses, rel=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("channels_last", [False, True])
def test_mini_batches_gathered_together_lie_in_memory_as_each_alone(channels: int, channels_last: bool) -> None:
    federation = federation_of([8, 8], shape=(channels, 5, 5))
    samples = Samples(federation, torch.device("cpu"), channels_last)
    engine = engine_of(
        federation, small_module(inputs=25 * channels), lambda task: OneByOne(replace(task, samples=samples), False)
    )
    index, shapes = np.arange(14)[::-1].copy(), [(2, 3), (1, 2), (2, 2), (2, 1)]
    start = 0
    for stretch, (steps, size) in zip(engine._gathered(index, shapes, True), shapes):
        together = stretch.x.clone()  # the memory is used again
        own = index[start : start + steps * size].reshape(steps, size)
        start += steps * size
        x, y = Samples(federation, torch.device("cpu"), channels_last).batch(own)
        assert stretch.x.stride() == x.stride()  # which decides what a convolution does
        assert torch.equal(together, x)
        assert torch.equal(stretch.y, y)
