"""Make a traced graph shorter: the same function in fewer, cheaper operations.

Each pass keeps what the graph computes, up to float32 rounding; what it leaves out would have been computed
and thrown away, or is arithmetic that two operations did where one does.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import torch
from torch import fx

from fedtl.tracing.tape import TRANSPOSES, Node, aten, item

MAY_COPY = aten.reshape.default
VIEW = {aten.view.default, aten._unsafe_view.default, MAY_COPY}
"""Other shapes of the same elements in the same order; the last copies where their order in memory is another."""

REPEATS = {aten.expand.default, aten.unsqueeze.default, aten.squeeze.dim, aten._to_copy.default, aten.clone.default}
SAME = {aten.detach.default, aten.alias.default, aten.lift_fresh.default, aten.lift_fresh_copy.default}


def simplify(graph: fx.Graph, labels: bool = True) -> None:
    """Apply all passes, in place.

    Args:
        graph: changed.
        labels: whether "y" are labels, of which none is negative; outcomes of other tasks may be, and -100 stands for a
            token that is not to be predicted.
    """
    for node in graph.nodes if not labels else ():
        if node.target == "y":
            node.meta["any"] = True
    passes = (drop_copies, parts_of_cats, known_numbers, drop_copies, merge_equals, products, pool_before_relu)
    for change in (*passes, softmax_minus_one_hot, drop_copies):
        change(graph)
        drop_unused(graph)
    graph.lint()


def drop_unused(graph: fx.Graph) -> None:
    """Take out what nobody uses, as ``graph.eliminate_dead_code``, which looks at what all others might do first."""
    for node in reversed(graph.nodes):
        if not node.users and not node.is_impure():
            graph.erase_node(node)


def drop_copies(graph: fx.Graph) -> None:
    """Take out what gives its own argument: detached and copied values, views of views, a transpose's transpose."""
    for node in _calls(graph):
        first = node.args[0] if node.args else None
        if not isinstance(first, fx.Node):
            continue
        if node.target in SAME or (node.target is aten.clone.default and not node.kwargs):
            _replace(node, first)
        elif node.target is aten.copy.default and _alike(node, node.args[1]):
            _replace(node, node.args[1])
        elif node.target in VIEW | {aten.expand.default} and _alike(node, first):
            _replace(node, first)
        elif node.target in VIEW and first.target in VIEW:
            node.args = (first.args[0], *node.args[1:])
            if MAY_COPY in (node.target, first.target):
                node.target = MAY_COPY
        elif node.target in TRANSPOSES and first.target in TRANSPOSES and _swapped(node) == _swapped(first):
            _replace(node, first.args[0])


def _swapped(transpose: Node) -> frozenset[int]:
    """The two dimensions that a transpose exchanges."""
    dims = len(transpose.meta["shape"])
    return frozenset(dim % dims for dim in transpose.args[1:] or (0, 1))


def parts_of_cats(graph: fx.Graph) -> None:
    """A slice of what is put together of parts is one of them, where it lies as that does.

    So a step that takes in some parts of a gradient leaves the others uncomputed.
    """
    for node in _calls(graph, aten.slice.Tensor):
        arguments: tuple[Any, ...] = node.args
        cat = arguments[0]
        if len(arguments) != 4 or cat.target is not aten.cat.default:
            continue
        _, dim, start, stop = arguments
        rank = len(node.meta["shape"])
        axis = (cat.args[1] if len(cat.args) > 1 else 0) % rank
        at = 0
        for part in cat.args[0] if dim % rank == axis else ():
            end = at + part.meta["shape"][axis]
            if (at, end) == (start, stop):
                _replace(node, part)
                break
            at = end


def known_numbers(graph: fx.Graph) -> None:
    """Work out what holds one and the same number in every place, whatever the data: counts, seeds of gradients.

    Labels are never negative, so none is one that cross-entropy ignores; see :func:`simplify`.
    """
    known: dict[Node, float] = {}
    for node in _calls(graph):
        number = _number(node, known)
        if number is not None:
            known[node] = number
        elif node.target is aten.where.self and node.args[0] in known:
            chosen = node.args[1] if known[node.args[0]] else node.args[2]
            if _alike(node, chosen):
                _replace(node, chosen)
        elif node.target in (aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar):
            left, right = (known.get(a, a) if isinstance(a, fx.Node) else a for a in node.args)
            if isinstance(left, (int, float)) and node.target is aten.mul.Tensor:
                left, right = right, left
            divides = node.target in (aten.div.Tensor, aten.div.Scalar)
            if not isinstance(left, fx.Node) or isinstance(right, fx.Node) or not _alike(node, left):
                continue
            if not node.meta["dtype"].is_floating_point or (divides and not right):
                continue  # a product of integers is one; what comes of a division by 0 depends on what is divided
            factor = 1 / right if divides else right
            if factor == 1:
                _replace(node, left)
            else:
                node.target, node.args = aten.mul.Tensor, (left, float(factor))
    # What is left of them is made before the loop.
    for node, number in known.items():
        if not node._erased and node.users and node.all_input_nodes:
            with graph.inserting_before(node):
                full = _full(graph, node, node.meta["shape"], number)
            _replace(node, full)
        elif not node._erased:
            node.meta["number"] = number


def _number(node: Node, known: dict[Node, float]) -> float | None:
    """The number that a value holds in every place, if that can be told."""
    target, args = node.target, node.args
    numbers = [known.get(a) if isinstance(a, fx.Node) else a for a in args]
    match target:
        case aten.ones_like.default | aten.ones.default:
            return 1.0
        case aten.zeros_like.default | aten.zeros.default | aten.new_zeros.default:
            return 0.0
        case aten.full.default:
            return float(args[1])
        case aten.scalar_tensor.default:
            return float(args[0])
        case aten.ne.Scalar:
            return 1.0 if args[0].target == "y" and args[1] < 0 and "any" not in args[0].meta else None
    first: float | None = numbers[0] if args and isinstance(args[0], fx.Node) else None
    if first is not None:
        if target in SAME | VIEW | REPEATS:
            return first if node.meta["dtype"].is_floating_point else float(int(first))
        if target is aten.neg.default:
            return -first
        if target is aten.sum.dim_IntList and args[0].meta["shape"]:
            return first * float(prod(args[0].meta["shape"][dim] for dim in args[1]))
        if target in (aten.mul.Tensor, aten.mul.Scalar) and isinstance(numbers[1], (int, float)):
            return first * float(numbers[1])
        if target in (aten.div.Tensor, aten.div.Scalar) and isinstance(numbers[1], (int, float)) and numbers[1]:
            return first / float(numbers[1])
    return None


def products(graph: fx.Graph) -> None:
    """Stacked products: a product's transpose is the product of the transposes; what is added to one is its start.

    A copy that only brings a product in order for a view is left out: the view can copy, where it must.
    """
    for node in _calls(graph):
        first: Any = node.args[0] if node.args else None
        if node.target is aten.clone.default and all(user.target in VIEW for user in node.users):
            for user in node.users:
                user.target = MAY_COPY
            _replace(node, first)
        elif node.target is aten.transpose.int and {*node.args[1:]} == {1, 2} and _only(first, aten.bmm.default):
            a, b = first.args
            with graph.inserting_before(node):
                flipped = [_flipped(graph, factor) for factor in (b, a)]
                product = _new(graph, node, aten.bmm.default, tuple(flipped))
            _replace(node, product)
        elif node.target is aten.add.Tensor and not node.kwargs:
            for start, product in (node.args, node.args[::-1]):
                if _only(product, aten.bmm.default) and isinstance(start, fx.Node) and _alike(node, product):
                    with graph.inserting_before(node):
                        total = _new(graph, node, aten.baddbmm.default, (start, *product.args))
                    _replace(node, total)
                    break


def _flipped(graph: fx.Graph, node: Node) -> Node:
    if node.target is aten.transpose.int and {*node.args[1:]} == {1, 2}:
        return node.args[0]
    shape = node.meta["shape"]
    return _new(graph, node, aten.transpose.int, (node, 1, 2), (shape[0], shape[2], shape[1]))


def _only(node: Any, target: Any) -> bool:
    return isinstance(node, fx.Node) and node.target is target and len(node.users) == 1


def merge_equals(graph: fx.Graph) -> None:
    """Compute once what stands there twice with the same arguments; never random numbers, or memory for them."""
    seen: dict[Any, Node] = {}
    for node in _calls(graph):
        draws = node.target is not item and torch.Tag.nondeterministic_seeded in node.target.tags
        if draws or node.target is aten.empty_like.default:
            continue
        key = (node.target, repr(node.args), repr(node.kwargs))
        if key in seen:
            _replace(node, seen[key])
        else:
            seen[key] = node


def pool_before_relu(graph: fx.Graph) -> None:
    """Max-pool, then ReLU, instead of ReLU, then max-pool: the same values and gradients, a part of the work.

    The two commute, and where the maximum is not positive no gradient passes either way.
    """
    for relu in _calls(graph, aten.relu.default):
        pools = [user for user in relu.users if user.target is aten.max_pool2d_with_indices.default]
        unpools = [u for u in relu.users if u.target is aten.max_pool2d_with_indices_backward.default]
        masks = [u for u in relu.users if u.target is aten.threshold_backward.default]
        if len(pools) != 1 or len(unpools) != len(masks) or len(relu.users) != 1 + 2 * len(masks) or len(masks) > 1:
            continue
        (pool,) = pools
        if masks:
            (unpool,), (mask,) = unpools, masks
            if unpool.args[1] is not relu or mask.args != (unpool, relu, 0) or [*unpool.users] != [mask]:
                continue
        values = [user for user in pool.users if user.target is item and user.args[1] == 0]
        if len(values) != 1:
            continue
        before, pooled = relu.args[0], values[0]
        pool.replace_input_with(relu, before)
        with graph.inserting_after(pooled):
            activated = _new(graph, pooled, aten.relu.default, (pooled,))
        pooled.replace_all_uses_with(activated, delete_user_cb=lambda user, new=activated: user is not new)
        if not masks:
            continue
        with graph.inserting_before(unpool):
            masked = _new(graph, unpool.args[0], aten.threshold_backward.default, (unpool.args[0], activated, 0))
        unpool.args = (masked, before, *unpool.args[2:])
        _replace(mask, unpool)


def softmax_minus_one_hot(graph: fx.Graph) -> None:
    """Cross-entropy's gradient at the logits as (softmax - one-hot) · scale, instead of two backward passes.

    The scale (1 / B, and the term's weight) is taken out of everything that is linear in it, as far as the
    gradients themselves: there it costs nothing, as what multiplies a gradient anyway takes it in.
    """
    for backward in _calls(graph, aten._log_softmax_backward_data.default):
        incoming, log_p, dim, dtype = backward.args
        picked = _picked(incoming, log_p)
        if picked is None or dtype != torch.float32 or dim % len(log_p.meta["shape"]) != len(log_p.meta["shape"]) - 1:
            continue
        labels, number = picked
        shape = (*labels.meta["shape"], 1)
        with graph.inserting_before(backward):
            p = _new(graph, log_p, aten.exp.default, (log_p,))
            column = _new(graph, labels, aten.unsqueeze.default, (labels, len(shape) - 1), shape)
            ones = _full(graph, log_p, shape, -1.0)
            g = _new(graph, p, aten.scatter_add.default, (p, len(shape) - 1, column, ones))
        _replace(backward, g)
        _scale_gradients(graph, g, -number)


def _picked(gradient: Node, log_p: Node) -> tuple[Node, float] | None:
    """Labels, and the number that the gradient at ``log_p`` has in the labels' places, where it is 0 elsewhere."""
    match gradient.target, gradient.args:
        case aten.nll_loss_backward.default, (seed, of, labels, None, 1, ignored, _) if (
            of is log_p and labels.target == "y" and ignored < 0  # other labels than a client's may be ignored ones
        ):
            number = seed.meta.get("number")
            return None if number is None else (labels, -number / log_p.meta["shape"][0])
        case aten.scatter_add.default, (zeros, dim, column, values) if (
            zeros.meta.get("number") == 0 and column.target is aten.unsqueeze.default and values.meta["shape"][-1] == 1
        ):
            last = len(log_p.meta["shape"]) - 1
            number = values.meta.get("number")
            if number is not None and dim % (last + 1) == last and column.args[1] % (last + 1) == last:
                return column.args[0], number
    return None


LINEAR_IN = {
    aten.t.default: (0,),
    aten.transpose.int: (0,),
    aten.permute.default: (0,),
    aten.expand.default: (0,),
    aten.view.default: (0,),
    aten._unsafe_view.default: (0,),
    aten.reshape.default: (0,),
    aten.clone.default: (0,),
    aten.mul.Tensor: (0, 1),
    aten.div.Tensor: (0,),
    aten.neg.default: (0,),
    aten.mm.default: (0, 1),
    aten.bmm.default: (0, 1),
    aten.sum.dim_IntList: (0,),
    aten.threshold_backward.default: (0,),
    aten.tanh_backward.default: (0,),
    aten.sigmoid_backward.default: (0,),
    aten.gelu_backward.default: (0,),
    aten.silu_backward.default: (0,),
    aten.native_dropout_backward.default: (0,),
    aten.native_layer_norm_backward.default: (0,),
    aten.native_group_norm_backward.default: (0,),
    aten.native_batch_norm_backward.default: (0,),
    aten.max_pool2d_with_indices_backward.default: (0,),
    aten.avg_pool2d_backward.default: (0,),
    aten._adaptive_avg_pool2d_backward.default: (0,),
    aten.convolution_backward.default: (0,),
    item: (0,),
}
"""Operations that are linear in the arguments at these places, each alone."""


def _scale_gradients(graph: fx.Graph, source: Node, scale: float) -> None:
    """Multiply ``source`` by ``scale``; where all that follows is linear in it, the gradients' vector instead."""
    scaled, order, gathered = {source}, [source], set()
    for node in order:
        for user in node.users:
            if user.target is aten.cat.default:
                gathered.add(user)
                continue
            places = LINEAR_IN.get(user.target, ())
            here = [place for place, argument in enumerate(user.args) if argument in scaled]
            if len(here) != 1 or here[0] not in places or any(a in scaled for a in user.kwargs.values()):
                return _multiply(graph, source, scale)
            if user not in scaled:
                scaled.add(user)
                order.append(user)
    if not gathered or any(part not in scaled for vector in gathered for part in vector.args[0]):
        return _multiply(graph, source, scale)
    for vector in gathered:
        _multiply(graph, vector, scale)
    return None


def _multiply(graph: fx.Graph, node: Node, scale: float) -> None:
    if scale != 1:
        with graph.inserting_after(node):
            product = _new(graph, node, aten.mul.Tensor, (node, scale))
        node.replace_all_uses_with(product, delete_user_cb=lambda user: user is not product)


def _calls(graph: fx.Graph, target: Any = None) -> Iterator[Node]:
    """The graph's operations in order, those that a pass takes out meanwhile excepted."""
    for node in list(graph.nodes):
        if node.op == "call_function" and (target is None or node.target is target) and not node._erased:
            yield node


def _alike(node: Node, other: Any) -> bool:
    return isinstance(other, fx.Node) and all(node.meta[key] == other.meta[key] for key in ("shape", "dtype"))


def _replace(node: Node, other: Any) -> None:
    node.replace_all_uses_with(other)
    node.graph.erase_node(node)


def _new(graph: fx.Graph, like: Node, target: Any, args: tuple[Any, ...], shape: tuple[int, ...] | None = None) -> Node:
    node = graph.call_function(target, args)
    node.meta |= {key: like.meta[key] for key in ("shape", "dtype", "device")}
    if shape is not None:
        node.meta["shape"] = shape
    return node


def _full(graph: fx.Graph, like: Node, shape: tuple[int, ...], number: float) -> Node:
    """The same number everywhere, in the type of ``like``."""
    node = _new(graph, like, aten.full.default, (list(shape), number), shape)
    node.kwargs = {"dtype": like.meta["dtype"], "device": like.meta["device"]}
    node.meta["number"] = number
    return node
