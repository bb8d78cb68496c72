"""Write down the tensor operations that a function runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

Op = Any
"""A ``torch._ops.OpOverload``."""

Node = Any
"""An ``fx.Node``; the type of its arguments is a union of everything, which tells a checker nothing."""

aten: Any = torch.ops.aten

RESHAPES = {
    aten.view.default,
    aten._unsafe_view.default,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.detach.default,
    aten.alias.default,
}
TRANSPOSES = {aten.t.default, aten.transpose.int}
"""Views of all of a tensor."""

PARTS = {
    aten.select.int: aten.select_scatter.default,
    aten.slice.Tensor: aten.slice_scatter.default,
    aten.as_strided.default: aten.as_strided_scatter.default,
}
"""Views of a part of a tensor, and what puts such a part back."""

SPLITS = {aten.split.Tensor, aten.unsafe_split.Tensor}
"""What gives parts of one size, the last one's excepted."""

FUNCTIONAL = {
    aten.bernoulli_.float: aten.bernoulli.p,
    aten.normal_.default: aten.normal_functional.default,
    aten.zero_.default: aten.zeros_like.default,
    aten.transpose_.default: aten.transpose.int,
}
"""What an operation in place computes, where the name less its last underscore does not tell."""


class UntraceableError(Exception):
    """A function that cannot be written down as a fixed list of operations; says why in a few words."""


def trace(function: Callable[..., Any], inputs: Mapping[str, Tensor]) -> fx.Graph:
    """Run ``function(**inputs)`` once and write down its operations, its gradients' too.

    Changes in place become new values, so that each name in the graph stands for one value for ever.

    Args:
        function: of tensors; gives tensors in lists, tuples and dicts.
        inputs: what it is tried on, by name; their shapes, order in memory and device hold for the trace.
            They may be changed.

    Returns:
        A graph of aten operations with a placeholder per input and, as output, the flat list of tensors that
        the function gave. ``node.meta`` has each value's shape and dtype. What the function uses besides its
        inputs is in placeholders named ``constant...`` whose ``meta["constant"]`` is the tensor.

    Raises:
        UntraceableError: what it does depends on the values that it sees, or it changes a tensor in a way that
            has no functional form, or one that it was not given.
    """
    tape = _Tape()
    for name, tensor in inputs.items():
        tape.note(tensor, tape.graph.placeholder(name))
    with tape:
        output = function(**inputs)
    flat, _ = tree_flatten(output)
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
        self._constants: set[int] = set()
        self._turned: set[int] = set()
        """Memory of tensors that changed their shape in place: what makes their views again is not known."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing is compiled here; torch would import its compiler, 80 MB and a second, only to be told so.
        return False

    def __torch_dispatch__(
        self, func: Op, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation, and write it down."""
        kwargs = kwargs or {}
        if torch.Tag.data_dependent_output in func.tags:
            raise UntraceableError("what it does depends on a tensor's values")
        if torch.Tag.dynamic_output_shape in func.tags and not _indexes_by_integers(func, args):
            raise UntraceableError(f"the shape of what {func} gives depends on a tensor's values")
        written = [i for i, a in enumerate(func._schema.arguments) if a.alias_info and a.alias_info.is_write]
        if written:
            return self._change(func, written, args, kwargs)
        if func is aten.native_batch_norm.default and args[3] is not None and args[5]:
            return self._batch_norm(args)
        result = func(*args, **kwargs)
        if func is aten._to_copy.default and not isinstance(args[0], Tensor):  # vmap's way with a number
            noted = self.graph.call_function(aten.scalar_tensor.default, args, {"dtype": result.dtype})
        else:
            noted = self._call(func, args, kwargs)
        memory = {memory_of(tensor) for tensor in tensors_in((*args, *kwargs.values()))}
        if func is aten.lift_fresh.default:  # a number or list made a tensor: it is the function's own
            self.node(args[0]).meta["constant"] = args[0].clone()
            self._constants -= memory
            memory = set()
        if isinstance(result, Tensor):
            self.note(result, noted, (func, args, kwargs) if memory_of(result) in memory else None)
            return result
        for place, part in enumerate(result):
            if isinstance(part, Tensor):
                made: Any = (item, ((func, args, kwargs), place), {}) if memory_of(part) in memory else None
                self.note(part, self.graph.call_function(item, (noted, place)), made)
        return result

    def note(self, tensor: Tensor, node: Node, made: Any = None) -> None:
        """Let ``node`` stand for ``tensor``."""
        _describe(node, tensor)
        self._values[id(tensor)] = _Value(tensor, node, self._changes.get(memory_of(tensor), 0), made)

    def node(self, tensor: Tensor) -> Node:
        """The node that stands for a tensor as it is now; a new constant if there is none."""
        value = self._values.get(id(tensor))
        if value is None:
            with self.graph.inserting_before(next(iter(self.graph.nodes))):
                node = self.graph.placeholder(f"constant{len(self._values)}")
            node.meta["constant"] = tensor
            self._constants.add(memory_of(tensor))
            self.note(tensor, node)
            return node
        now = self._changes.get(memory_of(tensor), 0)
        if value.version != now:
            if memory_of(tensor) in self._turned:
                raise UntraceableError("it changes a tensor's shape and its values in place")
            assert value.made is not None  # a tensor that is no view was noted anew when it changed
            func, args, kwargs = value.made
            if func is item:
                (split, of, how), place = args
                args = self._call(split, of, how), place
            self.note(tensor, self._call(func, args, kwargs), value.made)
            return self._values[id(tensor)].node
        return value.node

    def _call(self, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Node:
        """Write an operation down."""
        nodes = self._nodes(args)
        if func is aten.as_strided.default:
            nodes = self._in_order(args[0]), *nodes[1:]
        return self.graph.call_function(func, nodes, self._nodes(kwargs))

    def _in_order(self, tensor: Tensor) -> Node:
        """A tensor's node for what depends on how its numbers lie in memory: the passes do not keep that."""
        if not tensor.is_contiguous() or tensor.storage_offset():
            raise UntraceableError("it depends on how numbers lie in memory")
        node = self.graph.call_function(
            aten.clone.default, (self.node(tensor),), {"memory_format": torch.contiguous_format}
        )
        _describe(node, tensor)
        return node

    def _nodes(self, arguments: Any) -> Any:
        """An operation's arguments, with nodes for tensors; torch's own trees would take a sixth of the recording."""
        if isinstance(arguments, Tensor):
            return self.node(arguments)
        if type(arguments) in (tuple, list):
            return type(arguments)(map(self._nodes, arguments))
        if type(arguments) is dict:
            return {name: self._nodes(value) for name, value in arguments.items()}
        return arguments

    def _change(self, func: Op, written: list[int], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A change in place: the tensor stands for a new value from now on."""
        tensor = args[0] if args else None
        name = func._schema.name.removeprefix("aten::")
        if written != [0] or not name.endswith("_") or tensor is None:
            raise UntraceableError(f"{func} changes tensors in place")
        if id(tensor) not in self._values or memory_of(tensor) in self._constants:
            raise UntraceableError(f"{func} changes something that it was not given in place")
        functional = FUNCTIONAL.get(func) or getattr(getattr(aten, name[:-1], None), func._overloadname, None)
        if functional is None:
            raise UntraceableError(f"{func} changes a tensor in place")
        if torch.Tag.inplace_view in func.tags:
            if func is aten.as_strided_.default and _only_names_strides(tensor, *args[1:], **kwargs):
                return func(*args, **kwargs)
            if functional not in RESHAPES | TRANSPOSES:
                raise UntraceableError(f"{func} changes a tensor's shape in place")
            node = self._call(functional, args, kwargs)
            func(*args, **kwargs)
            self._turned.add(memory_of(tensor))
            self.note(tensor, node)
            return tensor
        if memory_of(tensor) in self._turned:
            raise UntraceableError("it changes a tensor's shape and its values in place")
        values = args
        if func in FUNCTIONAL:  # whose defaults need not be the same
            values += tuple(a.default_value for a in func._schema.arguments[len(args) :] if not a.kwarg_only)
        if functional is aten.zeros_like.default:
            values, kwargs = args[:1], {}
        node = self.graph.call_function(functional, self._nodes(values), self._nodes(kwargs))
        if any(_promotes(tensor, other) for other in args[1:]):
            _describe(node, tensor)
            node = self.graph.call_function(aten._to_copy.default, (node,), {"dtype": tensor.dtype})
        self._changed(tensor, node)
        return func(*args, **kwargs)

    def _changed(self, tensor: Tensor, node: Node) -> None:
        """From now on ``tensor`` is ``node``; so is, in its own shape, what it is a view of, or that part of it."""
        while (made := self._values[id(tensor)].made) is not None:
            func, args, _ = made
            if func is item and args[0][0] in SPLITS:
                (_, (base, size, *dim), _), place = args
                func, args = aten.slice.Tensor, (base, *(dim or [0]), place * size, (place + 1) * size)
            base = args[0]
            if func in RESHAPES:
                back, arguments = aten.view.default, (node, list(base.shape))
            elif func is aten.permute.default:
                dims = [dim % base.dim() for dim in args[1]]
                back, arguments = func, (node, [dims.index(dim) for dim in range(len(dims))])
            elif func in TRANSPOSES:
                back, arguments = func, (node, *args[1:])
            elif func in PARTS:
                whole = self._in_order(base) if func is aten.as_strided.default else self.node(base)
                back, arguments = PARTS[func], (whole, node, *args[1:])
            else:
                raise UntraceableError(f"it changes in place what {func} gave")
            _describe(node, tensor)
            node = self.graph.call_function(back, arguments)
            tensor = base
        memory = memory_of(tensor)
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


def tensors_in(arguments: Iterable[Any]) -> Iterator[Tensor]:
    """Those among an operation's arguments, which may be lists of them."""
    for argument in arguments:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, (tuple, list)):
            yield from tensors_in(argument)


def _indexes_by_integers(func: Op, args: tuple[Any, ...]) -> bool:
    """Whether it is an indexing whose result's shape does not depend on values: booleans would pick some."""
    return func is aten.index.Tensor and all(i is None or i.dtype in (torch.int64, torch.int32) for i in args[1])


def _only_names_strides(tensor: Tensor, size: list[int], stride: list[int], storage_offset: int | None = None) -> bool:
    """Whether other strides leave each number where it is: those of dimensions of one number may be any."""
    same = all(old == new for n, old, new in zip(size, tensor.stride(), stride) if n != 1)
    return same and list(tensor.shape) == list(size) and storage_offset in (None, tensor.storage_offset())


def _promotes(tensor: Tensor, other: Any) -> bool:
    """Whether ``tensor`` and ``other`` together may give another dtype; in place it stays."""
    kinds = [t.dtype.is_floating_point for t in (tensor, other) if isinstance(t, Tensor)]
    return len(kinds) == 2 and kinds[0] == kinds[1] and tensor.dtype != other.dtype


def _describe(node: Node, tensor: Tensor) -> None:
    node.meta |= {"shape": tuple(tensor.shape), "dtype": tensor.dtype, "device": tensor.device}


def memory_of(tensor: Tensor) -> int:
    """What tensors have in common that share numbers."""
    return int(tensor.untyped_storage()._cdata)
