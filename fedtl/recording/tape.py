"""Write down the tensor operations that a function runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

Op = Any
"""A ``torch._ops.OpOverload``."""

Node = Any
"""An ``fx.Node``; the type of its arguments is a union of everything, which tells a checker nothing."""

aten: Any = torch.ops.aten

READS_A_VALUE = {aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default}
"""Operations by which Python learns what a tensor holds; what it then does would not be the same next time."""

RESHAPES = {aten.view.default, aten._unsafe_view.default, aten.unsqueeze.default, aten.squeeze.dim}
TRANSPOSES = {aten.t.default, aten.transpose.int}
"""Views of all of a tensor."""

FUNCTIONAL = {
    aten.bernoulli_.float: aten.bernoulli.p,
    aten.zero_.default: aten.zeros_like.default,
}
"""What an operation in place computes, where the name less its last underscore does not tell."""


class UntraceableError(Exception):
    """A function that cannot be written down as a fixed list of operations; says why in a few words."""


def record(function: Callable[..., Any], inputs: Mapping[str, Tensor]) -> fx.Graph:
    """Run ``function(**inputs)`` once and write down its operations, its gradients' too.

    Changes in place become new values, so that each name in the graph stands for one value for ever.

    Args:
        function: of tensors; gives tensors in lists, tuples and dicts.
        inputs: what it is tried on, by name; their shapes, order in memory and device hold for the recording.
            They may be changed.

    Returns:
        A graph of aten operations with a placeholder per input and, as output, the flat list of tensors that
        the function gave. ``node.meta`` has each value's shape and dtype. What the function uses besides its
        inputs is in placeholders named ``constant...`` whose ``meta["constant"]`` is the tensor.

    Raises:
        UntraceableError: what it does depends on the values that it sees, or it changes a part of a tensor in place.
    """
    tape = _Tape()
    for name, tensor in inputs.items():
        tape.note(tensor, tape.graph.placeholder(name))
    with tape:
        given = function(**inputs)
    flat, _ = tree_flatten(given)
    tape.graph.output([tape.node(tensor) for tensor in flat])
    return tape.graph


def item(values: Any, place: int) -> Any:
    """One of the several values that an operation gives: the target of the nodes that pick it."""
    return values[place]


@dataclass
class _Value:
    """What a tensor holds: ``node``, as long as its memory has seen ``version`` changes.

    Attributes:
        tensor: kept, as an id is a tensor's own only while the tensor lives.
        made: for a view, what makes it: an operation and its arguments.
    """

    tensor: Tensor
    node: Node
    version: int
    made: tuple[Op, tuple[Any, ...], dict[str, Any]] | None = None


class _Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation below autograd."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = fx.Graph()
        self._values: dict[int, _Value] = {}
        self._changes: dict[int, int] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing is compiled here; torch would import its compiler, 80 MB and a second, only to be told so.
        return False

    def __torch_dispatch__(
        self, func: Op, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation, and write it down."""
        kwargs = kwargs or {}
        if func in READS_A_VALUE:
            raise UntraceableError("what it does depends on a tensor's values")
        if torch.Tag.dynamic_output_shape in func.tags:
            raise UntraceableError(f"the shape of what {func} gives depends on a tensor's values")
        written = [i for i, a in enumerate(func._schema.arguments) if a.alias_info and a.alias_info.is_write]
        if written:
            return self._change(func, written, args, kwargs)
        if func is aten.native_batch_norm.default and args[3] is not None and args[5]:
            return self._batch_norm(args)
        result = func(*args, **kwargs)
        noted = self.graph.call_function(func, self._nodes(args), self._nodes(kwargs))
        memory = {_memory(t) for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)}
        if isinstance(result, Tensor):
            self.note(result, noted, (func, args, kwargs) if _memory(result) in memory else None)
            return result
        for place, part in enumerate(result):
            if isinstance(part, Tensor):
                made: Any = (item, ((func, args, kwargs), place), {}) if _memory(part) in memory else None
                self.note(part, self.graph.call_function(item, (noted, place)), made)
        return result

    def note(self, tensor: Tensor, node: Node, made: Any = None) -> None:
        """Let ``node`` stand for ``tensor``."""
        _describe(node, tensor)
        self._values[id(tensor)] = _Value(tensor, node, self._changes.get(_memory(tensor), 0), made)

    def node(self, tensor: Tensor) -> Node:
        """The node that stands for a tensor as it is now; a new constant if there is none."""
        value = self._values.get(id(tensor))
        if value is None:
            with self.graph.inserting_before(next(iter(self.graph.nodes))):
                node = self.graph.placeholder(f"constant{len(self._values)}")
            node.meta["constant"] = tensor
            self.note(tensor, node)
            return node
        now = self._changes.get(_memory(tensor), 0)
        if value.version != now:
            assert value.made is not None  # a tensor that is no view was noted anew when it changed
            func, args, kwargs = value.made
            if func is item:
                raise UntraceableError("a tensor is changed in place after it was split")
            self.note(tensor, self.graph.call_function(func, self._nodes(args), self._nodes(kwargs)), value.made)
            return self._values[id(tensor)].node
        return value.node

    def _nodes(self, arguments: Any) -> Any:
        return tree_map_only(Tensor, self.node, arguments)

    def _change(self, func: Op, written: list[int], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A change in place: the tensor stands for a new value from now on."""
        tensor = args[0] if args else None
        name = func._schema.name.removeprefix("aten::")
        if written != [0] or not name.endswith("_") or tensor is None:
            raise UntraceableError(f"{func} changes tensors in place")
        if id(tensor) not in self._values:
            raise UntraceableError(f"{func} changes something that it was not given in place")
        functional = FUNCTIONAL.get(func) or getattr(getattr(aten, name[:-1], None), func._overloadname, None)
        if functional is None:
            raise UntraceableError(f"{func} changes a tensor in place")
        given = args
        if func in FUNCTIONAL:  # whose defaults need not be the same
            given += tuple(a.default_value for a in func._schema.arguments[len(args) :] if not a.kwarg_only)
        if functional is aten.zeros_like.default:
            given, kwargs = args[:1], {}
        node = self.graph.call_function(functional, self._nodes(given), self._nodes(kwargs))
        self._changed(tensor, node)
        return func(*args, **kwargs)

    def _changed(self, tensor: Tensor, node: Node) -> None:
        """From now on ``tensor`` is ``node``; so is, in its own shape, what it is a view of."""
        while (made := self._values[id(tensor)].made) is not None:
            func, args, _ = made
            if func in RESHAPES:
                back, where = aten.view.default, [list(args[0].shape)]
            elif func is aten.permute.default:
                back, where = func, [[args[1].index(dim) for dim in range(len(args[1]))]]
            elif func in TRANSPOSES:
                back, where = func, list(args[1:])
            else:
                raise UntraceableError("it changes a part of a tensor in place")
            _describe(node, tensor)
            node = self.graph.call_function(back, (node, *where))
            tensor = args[0]
        memory = _memory(tensor)
        self._changes[memory] = self._changes.get(memory, 0) + 1
        self.note(tensor, node)

    def _batch_norm(self, args: tuple[Any, ...]) -> Any:
        """Batch-norm in training, which changes its statistics although its schema does not say so."""
        functional = aten._native_batch_norm_legit_functional.default
        noted = self.graph.call_function(functional, self._nodes(args))
        result = aten.native_batch_norm.default(*args)
        for place, part in enumerate(result):
            self.note(part, self.graph.call_function(item, (noted, place)))
        for place, statistic in ((3, args[3]), (4, args[4])):
            self._changed(statistic, self.graph.call_function(item, (noted, place)))
        return result


def _describe(node: Node, tensor: Tensor) -> None:
    node.meta |= {"shape": tuple(tensor.shape), "dtype": tensor.dtype}


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
