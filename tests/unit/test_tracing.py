"""Recorded steps: what is written down, what the passes make of it, and what runs in the loop."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from fedtl.clients.contract import ClientUpdate, Count, Gradient, Memory, Probe, State, Vectors
from fedtl.clients.sgd import SGD, SGDSettings
from fedtl.engine import Engine, Trained, refusal
from fedtl.engine.step_tracer import why_not_traced
from fedtl.losses.term import Batch, Term, TermContext
from fedtl.models.mlp import MLP
from fedtl.tracing import simplify as passes
from fedtl.tracing.program import Program, compile_step
from fedtl.tracing.simplify import simplify
from fedtl.tracing.tape import UntraceableError, trace
from tests.parts import ENGINES, METHODS, NO_LAYOUT, engine_of, federation_of, small_module, train_cohort, update_of

Tensors = dict[str, Tensor]


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def evaluate(graph: fx.Graph, inputs: Tensors) -> list[Tensor]:
    """What a graph gives, operation by operation."""
    values: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            values[node] = node.meta["constant"] if "constant" in node.meta else inputs[str(node.target)]
        elif node.op == "call_function":
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    return [values[node] for node in graph.output_node().args[0]]  # type: ignore[union-attr,index]


def operations(graph: fx.Graph) -> list[str]:
    return [str(node.target).removeprefix("aten.") for node in graph.nodes if node.op == "call_function"]


# The tape.


def in_place(x: Tensor) -> Tensor:
    x = x * 1
    x.add_(1).mul_(x)
    x.relu_().sub_(0.5)
    x += x.new_ones(())
    return x


def refreshed_views(x: Tensor) -> list[Tensor]:
    x = x * 1
    views = [
        x.view(-1),
        x.t(),
        x.unsqueeze(0),
        x.permute(1, 0),
        x[1],
        x[:, 1:],
        *x.split(2, 1),
        x.detach(),
        x[None, 2:],
    ]
    x.exp_()
    return [x, *views, *(view * 2 for view in views)]


def changes_through_views(x: Tensor) -> list[Tensor]:
    x = x * 1
    a, b = x.split(2, 1)
    whole = [x.view(-1), x.t(), x.permute(-1, 0), x.unsqueeze(1), x.unsqueeze(1).squeeze(1), x.detach()]
    parts = [x[1], x[:, 1:3], x[::2], a, b, x.t()[3], x.view(2, -1)[1:, :2], x.as_strided((2, 2), (5, 1), 3)]
    for number, view in enumerate([*whole, *parts]):
        view.mul_(1 + 0.1 * number)
        view.add_(number)
    return [x, *whole, *parts]


def turned_in_place(x: Tensor) -> Tensor:
    x = x * 2
    x.unsqueeze_(0)
    x.transpose_(1, 2)
    x = torch.tanh(x)
    return x.squeeze_(0).t_()


def filled(x: Tensor) -> list[Tensor]:
    x = x * 1
    x[x > 0] = 0.5
    x[:, [0, 2]] = x[:, torch.tensor([1, 1])]
    y = torch.empty_like(x).copy_(x)
    return [x, y, y.fill_(2.0), torch.ones_like(x).zero_(), torch.empty(3).copy_(x[0, 0])]


def other_types(x: Tensor) -> list[Tensor]:
    count = torch.zeros((), dtype=torch.int64)
    count.add_(1)
    count += torch.tensor([1, 2]).mul_(2).sum()
    x = x * 1
    return [x.add_(x.double()) * 0.1, count * 2, torch.arange(4) * 2]


@pytest.mark.parametrize(
    "function", [in_place, refreshed_views, changes_through_views, turned_in_place, filled, other_types]
)
@pytest.mark.parametrize("simplified", [False, True])
def test_what_changes_in_place_is_written_down_as_new_values(function: Callable[..., Any], simplified: bool) -> None:
    graph = trace(function, {"x": numbers(0, 4, 4)})
    if simplified:
        simplify(graph)
    assert not [name for name in operations(graph) if re.search(r"[a-z]_\.", name)]
    expected = function(numbers(1, 4, 4))
    for actual, wanted in zip(
        evaluate(graph, {"x": numbers(1, 4, 4)}), [expected] if isinstance(expected, Tensor) else expected
    ):
        assert actual.dtype == wanted.dtype
        torch.testing.assert_close(actual, wanted)


def test_gradients_are_written_down_with_what_they_hang_on() -> None:
    def function(x: Tensor, w: Tensor) -> Tensor:
        leaf = w.detach().requires_grad_()
        (gradient,) = torch.autograd.grad((x @ leaf).tanh().sum(), leaf)
        return gradient

    graph = trace(function, {"x": numbers(0, 4, 3), "w": numbers(1, 3, 2)})
    x, w = numbers(2, 4, 3), numbers(3, 3, 2)
    torch.testing.assert_close(evaluate(graph, {"x": x, "w": w})[0], function(x, w))


OUTSIDE = torch.zeros(4)


def reads_then_changes_outside(x: Tensor) -> Tensor:
    y = x + OUTSIDE
    OUTSIDE.add_(1)
    return y


def turns_then_changes(x: Tensor) -> Tensor:
    x = x * 1
    x.unsqueeze_(0)
    return x.add_(1)


def changes_an_uneven_view(x: Tensor) -> Tensor:
    x = x * 1
    x.diagonal().add_(1)
    return x


@pytest.mark.parametrize(
    ("function", "because"),
    [
        (lambda x: x * 2 if x.sum() > 0 else x, "depends on a tensor's values"),
        (lambda x: x * float(x[0, 0]), "depends on a tensor's values"),
        (lambda x: x if torch.equal(x, x * 2) else -x, "depends on a tensor's values"),
        (lambda x: x if torch.allclose(x, x * 2) else -x, "depends on a tensor's values"),
        (lambda x: x[x > 0], r"the shape of what aten\.index\.Tensor gives depends on a tensor's values"),
        (lambda x: x.nonzero(), r"the shape of what aten\.nonzero\.default gives depends"),
        (lambda x: torch.add(x, x, out=torch.empty(4, 4)), r"aten\.add\.out changes tensors in place"),
        (lambda x: OUTSIDE.add_(1), "changes something that it was not given"),
        (reads_then_changes_outside, "changes something that it was not given"),
        (turns_then_changes, "changes a tensor's shape and its values in place"),
        (changes_an_uneven_view, r"it changes in place what aten\.diagonal\.default gave"),
        (lambda x: (x * 1).t().as_strided((2, 2), (1, 2)), "depends on how numbers lie in memory"),
        (lambda x: (x * 1).resize_(2, 2), r"resize_\.default changes a tensor"),
    ],
)
def test_what_cannot_be_written_down_is_refused_with_a_reason(function: Callable[..., Any], because: str) -> None:
    with pytest.raises(UntraceableError, match=because):
        trace(function, {"x": numbers(0, 4, 4)})


# The passes.


def passed(
    change: Callable[[fx.Graph], None], function: Callable[..., Any], **inputs: Tensor
) -> tuple[list[str], list[str]]:
    """The operations before and after a pass, which keeps the values."""
    copies = {name: tensor.clone() for name, tensor in inputs.items()}
    graph = trace(function, copies)
    graph.eliminate_dead_code()
    before, expected = operations(graph), evaluate(graph, inputs)
    change(graph)
    graph.eliminate_dead_code()
    graph.lint()
    for actual, wanted in zip(evaluate(graph, inputs), expected):
        torch.testing.assert_close(actual, wanted, equal_nan=True)
    return before, operations(graph)


def test_copies_go() -> None:
    x = numbers(0, 2, 3)
    before, after = passed(passes.drop_copies, lambda x: x.clone().detach().view(6).view(3, 2).t().t() + 1, x=x)
    assert before == [
        "clone.default",
        "detach.default",
        "view.default",
        "view.default",
        "t.default",
        "t.default",
        "add.Tensor",
    ]
    assert after == ["view.default", "add.Tensor"]
    _, after = passed(passes.drop_copies, lambda x: torch.empty_like(x).copy_(x.expand(2, 3)) * 2, x=x)
    assert after == ["mul.Tensor"]
    # What broadcasts, or has another type, is no copy; nor are two different transposes.
    _, after = passed(passes.drop_copies, lambda x: torch.empty(2, 2, 3).copy_(x) * 2, x=x)
    assert after == ["empty.memory_format", "copy.default", "mul.Tensor"]
    _, after = passed(passes.drop_copies, lambda x: x[None].transpose(0, 1).transpose(1, 2) * 2, x=x)
    assert after.count("transpose.int") == 2


def test_known_numbers_are_worked_out() -> None:
    x = numbers(0, 2, 3)
    _, after = passed(passes.known_numbers, lambda x: x * torch.ones_like(x).sum((0, 1)) / 2, x=x)
    assert after[-2:] == ["mul.Tensor", "mul.Tensor"]
    assert "sum.dim_IntList" not in after
    _, after = passed(passes.known_numbers, lambda x: torch.where(torch.ones_like(x, dtype=torch.bool), x, -x), x=x)
    assert "where.self" not in after
    for function in (
        lambda x: x / torch.zeros_like(x),
        lambda x: torch.where(torch.zeros_like(x, dtype=torch.bool), x, torch.full((), 2.0)),
        lambda x: torch.full_like(x, 0.5).long() + x,
        lambda x: (x.long() * 3) // 2 + torch.ones((), dtype=torch.int64) * 7,
    ):
        passed(passes.known_numbers, function, x=x)


def test_equals_are_computed_once_but_random_numbers_each_time() -> None:
    x = numbers(0, 2, 3)
    _, after = passed(passes.merge_equals, lambda x: x.exp() + x.exp() * x.sum(0) * x.sum(1, keepdim=True), x=x)
    assert after.count("exp.default") == 1
    assert after.count("sum.dim_IntList") == 2
    graph = trace(lambda x: [torch.rand_like(x), torch.rand_like(x)], {"x": x})
    passes.merge_equals(graph)
    assert operations(graph).count("rand_like.default") == 2


def test_stacked_products() -> None:
    a, b, c = numbers(0, 2, 3, 4), numbers(1, 2, 4, 5), numbers(2, 2, 3, 5)
    _, after = passed(passes.products, lambda a, b: torch.bmm(a, b).transpose(1, 2) * 1, a=a, b=b)
    assert after == ["transpose.int", "transpose.int", "bmm.default", "mul.Tensor"]
    for function in (lambda a, b, c: c + torch.bmm(a, b), lambda a, b, c: torch.bmm(a, b) + c):
        assert passed(passes.products, function, a=a, b=b, c=c)[1] == ["baddbmm.default"]

    def twice(a: Tensor, b: Tensor, c: Tensor) -> list[Tensor]:
        product = torch.bmm(a, b)
        return [product.transpose(1, 2) * 1, product + c]

    before, after = passed(passes.products, twice, a=a, b=b, c=c)  # somebody else needs the product
    assert before == after
    before, after = passed(passes.products, lambda a, b, c: torch.add(c, torch.bmm(a, b), alpha=2), a=a, b=b, c=c)
    assert before == after


def relu_then_pool(x: Tensor) -> list[Tensor]:
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        out = F.max_pool2d(F.relu(leaf), 2)
        (gradient,) = torch.autograd.grad((out * out).sum(), leaf)
    return [out.detach(), gradient]


def test_pooling_comes_before_relu() -> None:
    def change(graph: fx.Graph) -> None:
        passes.drop_copies(graph)
        passes.pool_before_relu(graph)

    before, after = passed(change, relu_then_pool, x=numbers(0, 2, 3, 4, 4))
    assert before.index("relu.default") < before.index("max_pool2d_with_indices.default")
    assert after.index("relu.default") > after.index("max_pool2d_with_indices.default")

    def needed_elsewhere(x: Tensor) -> Tensor:
        out = F.relu(x)
        return F.max_pool2d(out, 2).sum() + out.sum()

    before, after = passed(change, needed_elsewhere, x=numbers(0, 2, 3, 4, 4))
    assert before == after


def cross_entropy_step(scale: float = 1.0, labels: Callable[[Tensor], Tensor] = lambda y: y) -> Callable[..., Any]:
    def step(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        leaf = w.detach().requires_grad_()
        with torch.enable_grad():
            loss = F.cross_entropy(x @ leaf.view(3, 4), labels(y)) * scale
            (gradient,) = torch.autograd.grad(loss, leaf)
        return w - 0.1 * gradient

    return step


def prepared(graph: fx.Graph) -> None:
    for change in (passes.drop_copies, passes.known_numbers, passes.drop_copies, passes.softmax_minus_one_hot):
        change(graph)


def test_cross_entropys_gradient_is_softmax_minus_one_hot() -> None:
    x, y, w = numbers(0, 5, 3), torch.tensor([0, 3, 1, 1, 2]), numbers(1, 12)
    for scale in (1.0, 2.5):
        _, after = passed(prepared, cross_entropy_step(scale), x=x, y=y, w=w)
        assert "scatter_add.default" in after
        assert "nll_loss_backward.default" not in after
    # Labels of a term's own may be ones that count as none.
    _, after = passed(prepared, cross_entropy_step(labels=lambda y: torch.where(y == 1, -100, y)), x=x, y=y, w=w)
    assert "nll_loss_backward.default" in after


# The program.


def program_of(step: Callable[..., Any], state: tuple[str, ...] = ("w",), terms: int = 0, **inputs: Tensor) -> Program:
    """``step(x, y, rest, **state)`` gives the new state's vectors, the rest and the terms' values."""
    arguments = {"x": numbers(0, 5, 3), "y": torch.tensor([0, 3, 1, 1, 2]), "buffers": torch.zeros(0)}
    arguments |= {name: numbers(9 + place, 12) for place, name in enumerate(state)} | inputs
    graph = trace(step, arguments)
    simplify(graph)
    return compile_step(graph, ("x", "y"), state, terms)


def loop_of(program: Program) -> list[str]:
    lines = [line.strip().replace("torch.ops.aten.", "") for line in program.source.splitlines() if line[:8].isspace()]
    return [line for line in lines if ".append(" not in line]


def test_logistic_regressions_loop() -> None:
    def step(x: Tensor, y: Tensor, buffers: Tensor, w: Tensor) -> Any:
        leaf = w.detach().requires_grad_()
        with torch.enable_grad():
            loss = F.cross_entropy(F.linear(x, leaf[:12].view(4, 3), leaf[12:]), y)
            views = leaf.detach()[:12].view(4, 3).requires_grad_(), leaf.detach()[12:].requires_grad_()
            loss = F.cross_entropy(F.linear(x, *views), y)
            gradients = torch.autograd.grad(loss, views)
        return w - 0.1 * torch.cat([gradient.flatten() for gradient in gradients]), buffers, loss.detach()

    program = program_of(step, terms=1, w=numbers(1, 16))
    operations = [re.sub(r"^\w+ = ", "", line).split("(")[0] for line in loop_of(program)]
    assert operations == [
        *("addmm", "_log_softmax", "exp", "unsqueeze", "scatter_add_", "t", "sum"),
        *("at_w_0.addmm_", "at_w_12.add_"),
    ]
    assert f"alpha={-0.1 / 5!r}" in program.source  # the learning rate and the mean in one
    assert program.evaluations == 1


@pytest.mark.parametrize(
    ("step", "loop"),
    [
        (lambda w, a: (w - 0.1 * (w - a), a), ["w.lerp_(a, 0.1)"]),
        (lambda w, a: (torch.lerp(w, a, 0.25), a), ["w.lerp_(a, 0.25)"]),
        (lambda w, a: ((w + a) / 2, a), ["w.lerp_(a, 0.5)"]),
        (lambda w, a: (w - 0.5 * a, a), ["w.add_(a, alpha=-0.5)"]),
        (lambda w, a: (-(w * 2) - a, a), ["w.mul_(-2.0)", "w.add_(a, alpha=-1.0)"]),
        (lambda w, a: (a, a), ["w.copy_(a)"]),
        (lambda w, a: (w, a), ["pass"]),
        (lambda w, a: (a, w), ["kept_w = a.clone()", "kept_a = w.clone()", "w.copy_(kept_w)", "a.copy_(kept_a)"]),
        (lambda w, a: (w + a, w), ["a.add_(w, alpha=1.0)", "kept_w = a.clone()", "kept_a = w.clone()"]),
        (lambda w, a: (w + a.exp(), w.exp()), ["exp_default = exp(a)", "add_tensor = add(w, exp_default, alpha=1.0)"]),
    ],
)
def test_vector_arithmetic_is_one_combination_where_the_vectors_lie(step: Callable[..., Any], loop: list[str]) -> None:
    program = program_of(lambda x, y, buffers, w, a: (*step(w, a), buffers), ("w", "a"))
    assert loop_of(program)[: len(loop)] == loop
    assert_vectors_replay(program, step, 3)


def run(program: Program, state: Tensors, steps: int, terms: int = 0) -> Tensor:
    losses = torch.zeros(terms, dtype=torch.float64)
    program.run([numbers(7, steps, 5, 3), torch.zeros(steps, 5, dtype=torch.int64)], losses, torch.zeros(0), state)
    return losses


def assert_vectors_replay(
    program: Program, step: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], steps: int
) -> None:
    """Its vectors w and a end where the step itself, run as often, leads."""
    w, a = numbers(1, 12), numbers(2, 12)
    state = {"w": w.clone(), "a": a.clone()}
    run(program, state, steps)
    for _ in range(steps):
        w, a = step(w, a)
    torch.testing.assert_close(state, {"w": w, "a": a})


STEPS: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "swapped and moved": lambda w, a: (a - 0.1 * w, w + 0.1 * a),
    "swapped, in place": lambda w, a: (a * 0.9, w * 0.8),
    "one of them lies in the other": lambda w, a: (w.abs() + a.abs(), w * 0.5),
    "a view of itself": lambda w, a: (0.9 * w + 0.1 * w.narrow(0, 0, 12), a),
    "flipped": lambda w, a: (w.flip(0) + w, a),
    "a turned copy": lambda w, a: (w - 0.1 * torch.empty(4, 3).copy_(w.view(3, 4).t()).view(12), a),
    "a turned copy of a copy": lambda w, a: (w - 0.1 * w.view(3, 4).t().clone().unsqueeze(0).reshape(12), a),
    "old and new": lambda w, a: ((w - 0.1 * a) * w.view(3, 4).sum(), w),
    "twice the same": lambda w, a: ((w * 0.9 + a), (w * 0.9 + a)),
    "its square": lambda w, a: (w - 0.1 * w * w, a.exp().mul(0.1).relu()),
    "parts": lambda w, a: (torch.cat([w[:4] * 2, a[4:].exp()]), w),
    "one part": lambda w, a: (w - 0.1 * torch.cat([a.view(3, 4).mm(w.view(4, 3)).view(-1), a[9:]]), a),
    "a product of itself": lambda w, a: (
        w - 0.1 * torch.cat([w[:9].view(3, 3).mm(w[3:].view(3, 3)).view(-1), a[:3]]),
        a,
    ),
    "part of itself": lambda w, a: (w - 0.1 * torch.cat([w[6:], w[:6]]), a),
    "cancelled": lambda w, a: (w - w + a, a + w - a),
    "constant": lambda w, a: (w * 0.5 + torch.arange(12.0), a - torch.full_like(a, 0.5)),
    "clipped": lambda w, a: (w - a * (1 / a.norm().clamp(min=1)), torch.where(a > 0, a * 0.5, w)),
}


@pytest.mark.parametrize("name", STEPS)
def test_no_value_is_written_over_while_it_is_needed(name: str) -> None:
    step = STEPS[name]
    program = program_of(lambda x, y, buffers, w, a: (*step(w, a), buffers), ("w", "a"))
    assert_vectors_replay(program, step, 4)


def test_vectors_in_one_memory_become_two() -> None:
    program = program_of(lambda x, y, buffers, w, a: (w - 0.5 * (w - a) - 1, a, buffers), ("w", "a"))
    w = numbers(1, 12)
    state = {"w": w, "a": w}
    run(program, state, 3)
    torch.testing.assert_close(state["a"], numbers(1, 12))
    torch.testing.assert_close(state["w"], numbers(1, 12) - 1.75)
    state = {"w": numbers(1, 1).expand(12), "a": numbers(2, 24)[::2]}
    run(program, state, 1)
    torch.testing.assert_close(state["w"], (numbers(1, 1) + numbers(2, 24)[::2]) / 2 - 1)


@pytest.mark.parametrize(
    "name", ["losses", "torch", "x_s", "y_0", "log_p_0", "at_w_0", "velocity 1", "float", "for", "given", "mm"]
)
def test_a_methods_vectors_may_have_any_name(name: str) -> None:
    def step(x: Tensor, y: Tensor, buffers: Tensor, **state: Tensor) -> Any:
        leaf = state["w"].detach().requires_grad_()
        with torch.enable_grad():
            loss = F.cross_entropy(x @ leaf.view(3, 4), y)
            (gradient,) = torch.autograd.grad(loss, leaf)
        velocity = 0.9 * state[name] + gradient
        return state["w"] - 0.1 * velocity, velocity, buffers, loss.detach()

    program = program_of(step, ("w", name), terms=1)
    state = {"w": numbers(1, 12), name: numbers(2, 12)}
    losses = run(program, state, 1, terms=1)
    w, v, _, loss = step(
        numbers(7, 1, 5, 3)[0],
        torch.zeros(5, dtype=torch.int64),
        torch.zeros(0),
        w=numbers(1, 12),
        **{name: numbers(2, 12)},
    )
    torch.testing.assert_close(state, {"w": w, name: v})
    torch.testing.assert_close(losses.float(), loss[None])


@pytest.mark.parametrize(
    ("value", "waits"),
    [
        (lambda x, y, w: F.cross_entropy(x @ w.view(3, 4), y), True),
        (lambda x, y, w: F.cross_entropy(x @ w.view(3, 4), y, label_smoothing=0.1), False),
        (lambda x, y, w: F.cross_entropy(x @ w.view(3, 4), y, ignore_index=1), False),
        (lambda x, y, w: F.cross_entropy(x @ w.view(3, 4), (y + 1) % 4), False),
        (lambda x, y, w: F.nll_loss(w[:4].expand(5, 4), y), False),
        (lambda x, y, w: F.nll_loss(x.repeat(1, 2), y), False),
        (lambda x, y, w: w[0], False),
        (lambda x, y, w: w[0] * 1, False),
    ],
)
def test_values_of_cross_entropy_wait_until_after_the_loop(value: Callable[..., Tensor], waits: bool) -> None:
    def step(x: Tensor, y: Tensor, buffers: Tensor, w: Tensor) -> Any:
        return w * 0.9, buffers, value(x, y, w)

    program = program_of(step, terms=1)
    assert (".append(" in program.source) == waits
    state, w, expected = {"w": numbers(1, 12)}, numbers(1, 12), 0.0
    losses = run(program, state, 4, terms=1)
    for x in numbers(7, 4, 5, 3):
        w, _, loss = step(x, torch.zeros(5, dtype=torch.int64), torch.zeros(0), w)
        expected += float(loss)
    assert float(losses) == pytest.approx(expected, rel=1e-5)


def random_vector(rng: random.Random, known: list[Tensor]) -> Tensor:
    """Some operation on vectors ``[12]`` that are known already; in place on what is the function's own."""
    a, b, c = rng.choice(known), rng.choice(known), round(rng.uniform(-1, 1), 2)
    own = rng.choice(known[2:]) if len(known) > 2 else a * 1
    return rng.choice(
        [
            lambda: a + c * b,
            lambda: a - b,
            lambda: c * a,
            lambda: torch.lerp(a, b, c),
            lambda: a.tanh(),
            lambda: a * b.sigmoid(),
            lambda: torch.cat([a[5:].sin(), b[:5]]),
            lambda: torch.cat([a.view(3, 4).mm(b.view(4, 3)).flatten(), b[:3]]) * 0.1,
            lambda: a.view(3, 4).t().reshape(12),
            lambda: torch.where(a > b, a, c * b),
            lambda: a / (1 + b.abs()),
            lambda: own.mul_(c),
            lambda: own.add_(a.clone(), alpha=c),
            lambda: own.view(3, 4)[1].sub_(b[:4].clone()).repeat(3),
            lambda: own.view(3, 4).t().mul_(0.5).reshape(12),
            lambda: own.relu_(),
        ]
    )()


@pytest.mark.parametrize("seed", range(60))
def test_random_methods_replay_as_they_are_played(seed: int) -> None:
    names = ("u", "v", "w")

    def step(x: Tensor, y: Tensor, buffers: Tensor, **state: Tensor) -> Any:
        rng = random.Random(seed)
        vectors = [state[name] for name in names]
        leaf = vectors[rng.randrange(3)].detach().requires_grad_()
        with torch.enable_grad():
            loss = F.cross_entropy(torch.tanh(x @ leaf.view(3, 4)), y) * rng.choice([1.0, 0.3])
            (gradient,) = torch.autograd.grad(loss, leaf)
        known = [*(vector.clone() for vector in vectors[: rng.randrange(2)]), *vectors, gradient]
        known = [
            known[0] * 1,
            known[0] * 1,
            *(vector.clone() if rng.random() < 0.5 else vector * 0.9 for vector in known),
        ]
        for _ in range(rng.randrange(2, 9)):
            known.append(random_vector(rng, known))
        return *(rng.choice([*known[-4:], *vectors]) for _ in names), buffers, loss.detach()

    program = program_of(step, names, terms=1)
    start = {name: numbers(20 + place, 12) for place, name in enumerate(names)}
    together, apart = ({name: vector.clone() for name, vector in start.items()} for _ in range(2))
    x, y = numbers(seed, 4, 5, 3), torch.randint(4, (4, 5), generator=torch.Generator().manual_seed(seed))
    buffers, sums, more = torch.zeros(0), torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    program.run([x, y], sums, buffers, together)
    for t in range(4):
        program.run([x[t : t + 1], y[t : t + 1]], more, buffers, apart)
    for name in names:
        assert torch.equal(together[name], apart[name])
    assert torch.equal(sums, more)
    eager, total = start, 0.0
    for t in range(4):
        *vectors, _, loss = step(x[t], y[t], buffers, **{name: vector.clone() for name, vector in eager.items()})
        eager, total = dict(zip(names, vectors)), total + float(loss)
    torch.testing.assert_close(together, eager, rtol=1e-3, atol=1e-5)
    assert float(sums) == pytest.approx(total, rel=1e-4)


# The engines' steps.


class Custom(ClientUpdate[SGDSettings]):
    def __init__(self, step: Callable[..., State], start: Callable[[Tensor], State] = lambda w: {"w": w}) -> None:
        super().__init__(SGDSettings(name="custom", lr=0.1, batch_size=10), NO_LAYOUT)
        self._step, self._start = step, start

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        return self._start(received["w"])

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        return self._step(state, batch, grad)

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        return {"w": state["w"]}, {name: vector for name, vector in state.items() if name != "w"}


def prox(s: State, batch: Batch, grad: Gradient) -> State:
    return {"w": s["w"] - 0.1 * (grad(s["w"], batch) + 0.5 * (s["w"] - s["a"])), "a": s["a"]}


def two_models_change_places(s: State, batch: Batch, grad: Gradient) -> State:
    return {"w": s["a"] - 0.1 * grad(s["a"], batch), "a": s["w"] - 0.1 * grad(s["w"], batch)}


def control_variates(s: State, batch: Batch, grad: Gradient) -> State:
    g = grad(s["w"], batch)
    s["w"].sub_(g - s["own"] + s["c"], alpha=0.1)
    return {**s, "own": s["own"] * 0.5 + 0.5 * g}


def clipped(s: State, batch: Batch, grad: Gradient) -> State:
    g = grad(s["w"], batch)
    return {"w": s["w"] - 0.1 * g * (0.3 / g.norm(dim=-1, keepdim=True).clamp(min=1e-6)).clamp(max=1)}


def adam(s: State, batch: Batch, grad: Gradient) -> State:
    g = grad(s["w"], batch)
    s["m"].mul_(0.9).add_(g, alpha=0.1)
    s["v"].mul_(0.99).addcmul_(g, g, value=0.01)
    s["t"].add_(1)
    s["w"].sub_(s["m"] / (1 - 0.9 ** s["t"]) / (s["v"] / (1 - 0.99 ** s["t"])).sqrt().add_(1e-3), alpha=0.01)
    return s


def sharpness(s: State, batch: Batch, grad: Gradient) -> State:
    g = grad(s["w"], batch)
    return {"w": s["w"] - 0.1 * grad(s["w"] + 0.05 * g / g.norm(dim=-1, keepdim=True), batch)}


def first_order_maml(s: State, batch: Batch, grad: Gradient) -> State:
    fast = s["w"].clone()
    fast.sub_(grad(fast, batch), alpha=0.1)
    s["w"].sub_(grad(fast, batch), alpha=0.1)
    return s


def head_only(s: State, batch: Batch, grad: Gradient) -> State:
    g = grad(s["w"], batch)
    g[..., :-18] = 0
    s["w"].sub_(torch.where(g.abs() > 0.01, g.sign(), 0.0), alpha=0.01)
    return s


def grows_in_place(s: State, batch: Batch, grad: Gradient) -> State:
    g = grad(s["w"], batch)
    s["v"] = 0.9 * s["v"] + g if "v" in s else g
    return {"v": s["v"], "w": s["w"] - 0.1 * s["v"]}


UPDATES: dict[str, Callable[[], ClientUpdate[Any]]] = {
    "anchor in the model's memory": lambda: Custom(prox, lambda w: {"w": w, "a": w}),
    "places": lambda: Custom(two_models_change_places, lambda w: {"w": w, "a": w + 0.1}),
    "control variates": lambda: Custom(control_variates, lambda w: {"w": w, "c": 0.1 * w, "own": 0.2 * w}),
    "clipped": lambda: Custom(clipped),
    "adam": lambda: Custom(adam, lambda w: {"w": w, "m": 0 * w, "v": 0 * w, "t": 0 * w[..., :1]}),
    "sharpness": lambda: Custom(sharpness),
    "maml": lambda: Custom(first_order_maml),
    "head only": lambda: Custom(head_only),
    "grows": lambda: Custom(grows_in_place),
    "momentum": lambda: SGD(SGDSettings(name="m", lr=0.1, batch_size=1, momentum=0.9, weight_decay=0.1), NO_LAYOUT),
    "pfedme": lambda: update_of("pfedme", **METHODS["pfedme"], batch_size=10, inner_start="w", weight_decay=0.1),
}


def seeded(module: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return module()


def assert_replays(
    module: Callable[[], nn.Module],
    update: Callable[[], ClientUpdate[Any]] = lambda: update_of("fedavg", lr=0.1, batch_size=10),
    shape: tuple[int, ...] = (6,),
    objective: Any = (),
    sizes: tuple[int, ...] = (7, 23, 33),
) -> None:
    """Both recorded engines record the step, and train as the plain one does; clients' sizes pad the stacks."""
    federation = federation_of(sizes, shape=shape)
    engines: dict[str, Engine] = {
        name: engine_of(federation, seeded(module), kind, objective) for name, kind in ENGINES.items()
    }
    outcomes: dict[str, list[Trained]] = {}
    for name, engine in engines.items():
        stacked = "stacked" in name
        if stacked and refusal(engine.task.module, shape):
            continue
        method = update()
        assert engine.tracer is None or why_not_traced(engine.task, method, stacked) is None
        w, memories = engine.task.layout.flatten(engine.task.module), [{} for _ in sizes]
        outcomes[name] = train_cohort(engine, method, w, range(len(sizes)), memories, 1)  # type: ignore[assignment]
        assert engine.tracer is None or engine.tracer.replays_all
        for one, other in zip(outcomes["one by one"], outcomes[name]):
            assert isinstance(one, Trained), one
            assert isinstance(other, Trained), other
            torch.testing.assert_close(one.uploads.get("w"), other.uploads.get("w"), rtol=1e-4, atol=2e-6)
            torch.testing.assert_close(one.memory, other.memory, rtol=1e-4, atol=2e-6)
            np.testing.assert_allclose(one.losses, other.losses, rtol=1e-4)


@pytest.mark.parametrize("name", UPDATES)
def test_methods_replay(name: str) -> None:
    assert_replays(small_module, UPDATES[name])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.unused, self.head = (nn.Linear(6, n) for n in (6, 6, 2, 3))
        self.b.weight = self.a.weight
        self.a.bias.requires_grad_(False)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + torch.tanh(self.b(F.gelu(self.a(x)))) * self.scale)


class Attention(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.into, self.head = nn.Linear(1, 8), nn.Linear(8, 3)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout, batch_first=True, norm_first=True)
        self.register_buffer("mask", torch.triu(torch.ones(6, 6, dtype=torch.bool), 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.into(x[..., None]), src_mask=self.mask).mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], layers: int = 1) -> None:
        super().__init__()
        self.cells, self.head = kind(1, 5, layers, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x[..., None])[0][:, -1])


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(10, 4), nn.Linear(24, 3)
        self.order = torch.arange(3) * 2  # no buffer

    def forward(self, x: Tensor) -> Tensor:
        out = self.head(self.words((x.abs() * 3).long().clamp(0, 9)).flatten(1)) + x[:, self.order]
        out[:, 0] *= 2
        return out


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList(nn.Linear(6 + 4 * i, 4) for i in range(2)), nn.Linear(14, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, F.relu(layer(x), inplace=True)], 1)
        return self.head(x)


class Bias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([0.1, -0.2, 0.3]))

    def forward(self, x: Tensor) -> Tensor:
        return self.bias.expand(len(x), 3)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "tied, frozen, unused": (Tied, (6,)),
    "attention": (Attention, (6,)),
    "attention with dropout": (lambda: Attention(0.1), (6,)),
    "gru": (lambda: Recurrent(nn.GRU), (6,)),
    "lstm": (lambda: Recurrent(nn.LSTM), (6,)),
    "lstm on top of another": (lambda: Recurrent(nn.LSTM, 2), (6,)),
    "words": (Words, (6,)),
    "dense": (Dense, (6,)),
    "bias": (Bias, (6,)),
    "layer-norm": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ELU(inplace=True), nn.Linear(8, 3)),
        (6,),
    ),
    "dropout": (lambda: nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.PReLU(), nn.Linear(8, 3)), (6,)),
    "images": (
        lambda: nn.Sequential(
            *(nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), nn.GroupNorm(2, 4), nn.ReLU(inplace=True)),
            *(nn.ConvTranspose2d(4, 4, 2, 2), nn.InstanceNorm2d(4, affine=True), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)),
        ),
        (2, 6, 6),
    ),
    "batch-norm": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)),
        (2, 6, 6),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_replay(name: str) -> None:
    module, shape = MODELS[name]
    assert_replays(module, shape=shape)


class Odd(Term):
    which: str

    def value(self, context: TermContext) -> Tensor:
        log_p = F.log_softmax(context.logits, 1)
        if self.which == "focal":
            picked = log_p.gather(1, context.labels[:, None])[:, 0]
            return context.mean(-picked * (1 - picked.exp()) ** 2)
        if self.which == "ignores":
            return context.mean(
                F.cross_entropy(
                    context.logits, torch.where(context.labels == 1, -100, context.labels), reduction="none"
                )
            )
        if self.which == "entropy":
            return context.mean(-(log_p.exp() * log_p).sum(1)) ** 2
        return torch.tensor(3.0)


@pytest.mark.parametrize(
    "objective",
    [
        [{"term": "cross_entropy", "weight": 2.5}],
        [{"term": "cross_entropy", "weight": 0.0}, {"term": "l2", "weight": 0.1}],
        [{"term": "l2", "weight": 0.5}, {"term": "cross_entropy", "weight": 0.7, "label_smoothing": 0.1}],
        [Odd(term="a", which="focal"), Odd(term="b", which="entropy", weight=0.3)],
        [Odd(term="a", which="ignores"), Odd(term="b", which="constant")],
    ],
    ids=str,
)
def test_objectives_replay(objective: Any) -> None:
    assert_replays(small_module, objective=objective)


class PythonSees(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 + x.detach().numpy().mean())


class PythonCounts(nn.Linear):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) / self.calls


class SeesInEvaluation(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 if self.training else 1 + x.numpy().mean())


def test_scores_are_the_models_own() -> None:
    index = np.arange(30)
    for module in (*(module for module, shape in MODELS.values() if shape == (6,)), lambda: SeesInEvaluation(6, 3)):
        scores = []
        for name in ("one by one", "one by one, traced"):
            engine = engine_of(federation_of([40]), seeded(module), ENGINES[name])
            vector = engine.task.layout.flatten(engine.task.module)
            scores += [engine.score(vector, index[:5]), engine.score(0.5 * vector, index[20:25])]
        for eager, recorded in zip(scores[:2], scores[2:]):
            assert eager.correct == recorded.correct
            assert eager.loss_sum == pytest.approx(recorded.loss_sum, rel=1e-5)


class Keeps(Custom):
    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        self.anchor = received["w"].clone()
        return {"w": received["w"]}


@pytest.mark.parametrize(
    ("module", "update", "because"),
    [
        (lambda: PythonSees(6, 3), lambda: update_of("fedavg", lr=0.1), "other numbers than run eagerly"),
        (lambda: PythonCounts(6, 3), lambda: update_of("fedavg", lr=0.1), "other numbers than run eagerly"),
        (small_module, lambda: Custom(lambda s, b, g: {"w": s["w"] - random.random() * g(s["w"], b)}), "other numbers"),
        (small_module, lambda: Custom(lambda s, b, g: {f"{len(s)}": g(s["w"], b), **s}), "has other vectors after"),
    ],
)
def test_what_python_does_besides_is_noticed(
    module: Callable[[], nn.Module], update: Callable[[], ClientUpdate[Any]], because: str
) -> None:
    why_not = why_not_traced(engine_of(federation_of([20]), module()).task, update(), False)
    assert because in (why_not or "")


def called(name: str) -> Custom:
    return Custom(lambda s, b, g: {"w": s["w"] - 0.1 * g(s["w"], b), name: s[name]}, lambda w: {"w": w, name: w})


@pytest.mark.parametrize("name", [*Batch._fields, "buffers", "view_a"])
def test_a_state_that_is_called_as_what_a_step_is_given_is_not_traced(name: str) -> None:
    terms = [{"term": "cross_entropy"}, {"term": "simclr"}]
    task = engine_of(federation_of([20]), MLP(6, (4,), 3), objective=terms).task
    assert f"a state may not be called {name!r}" in (why_not_traced(task, called(name), False) or "")


@pytest.mark.parametrize("name", ["rest", "weight", "target"])
def test_any_other_name_is_free(name: str) -> None:
    task = engine_of(federation_of([20]), small_module()).task
    assert why_not_traced(task, called(name), False) is None


def test_a_vector_that_a_method_keeps_to_itself_is_noticed() -> None:
    update = Keeps(lambda s, batch, grad: {"w": s["w"] - 0.1 * (s["w"] - update.anchor)})
    task = engine_of(federation_of([20]), small_module()).task
    for stacked in (False, True):
        assert why_not_traced(task, update, stacked) == "it uses numbers that are no tensors of the step, and change"


class Caches(nn.Linear):
    shift: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.shift is None:
            self.shift = torch.arange(6.0) * 0.1
        return super().forward(x + self.shift)


def test_what_a_model_makes_once_and_keeps_is_recorded() -> None:
    assert_replays(lambda: Caches(6, 3))


class Wards(nn.Module):
    """Looks up a code, of which there are five."""

    def __init__(self) -> None:
        super().__init__()
        self.wards = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.wards(x[:, 0].long()))
        return logits


@pytest.mark.parametrize("kind", [kind for name, kind in ENGINES.items() if "traced" in name])
def test_a_client_of_whose_samples_the_step_raises_changes_nobody_elses_bits(kind: Any) -> None:
    """Whoever comes first in a process; and it is told the same."""
    federation = federation_of([8, 8], shape=(6,))
    federation.x[:, 0] = np.arange(len(federation.x)) % 5
    federation.x[federation.train[0], 0] = 7
    update = update_of("fedavg", lr=0.1, local_epochs=2, batch_size=4)
    told, trained, scores = [], [], []
    for order in ([0, 1], [1, 0]):
        torch.manual_seed(0)
        engine = engine_of(federation, Wards(), kind)
        w = engine.task.layout.flatten(engine.task.module)
        for client in order:
            (outcome,) = train_cohort(engine, update, w, [client], [{}], 1)
            if isinstance(outcome, Trained):
                trained.append(outcome.uploads["w"].clone())
            else:
                told.append(outcome.message)
            with suppress(IndexError):
                scores.append(engine.score(w, federation.train[client]).loss_sum)
        assert engine.tracer is not None
        assert engine.tracer.replays_all
    assert told == ["IndexError: index out of range in self"] * 2
    assert torch.equal(*trained)
    assert scores[0] == scores[1]
