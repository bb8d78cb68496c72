"""A traced step as a loop over mini-batches: TorchScript source, run by TorchScript's interpreter.

The interpreter was chosen by measurement: per operation it costs a third of a microsecond where Python costs
one to two, it starts in milliseconds, and it runs whatever aten has. What makes the loop short, beyond the
passes of :mod:`~fedtl.tracing.simplify`:

- vectors are updated where they lie, so that every view of them is made once, before the loop;
- a chain of vector arithmetic is one linear combination: w - η (g + λ (w - a)) is (1 - ηλ) w + ηλ a - η g;
- the gradient's vector g never exists: each part is added to its place in the vector that takes it in, and a
  matrix product adds itself;
- the values of cross-entropy are worked out after the loop, all at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from fedtl.tracing.simplify import VIEW
from fedtl.tracing.source import Compiled, Lines, compiled, function_source, interpret, unused
from fedtl.tracing.tape import Node, UntraceableError, aten, item

IN_PLACE = {
    aten.relu.default: "relu_",
    aten.exp.default: "exp_",
    aten.scatter_add.default: "scatter_add_",
    aten.tanh.default: "tanh_",
    aten.sigmoid.default: "sigmoid_",
    aten.add.Tensor: "add_",
    aten.sub.Tensor: "sub_",
    aten.mul.Tensor: "mul_",
    aten.div.Tensor: "div_",
    aten.bernoulli.p: "bernoulli_",
    aten.normal_functional.default: "normal_",
}
"""What may write its result over its first argument, if nobody needs that any more.

Random numbers are drawn in the order of the memory that they are written to: dropout's are the eager step's.
"""


@dataclass(frozen=True)
class Program:
    """A traced step, compiled.

    Attributes:
        source: the TorchScript function, to read.
        state: the names of the state's vectors, in the order that ``run`` takes them.
        evaluations: how often a step evaluates the objective's gradient.
    """

    source: str
    state: tuple[str, ...]
    evaluations: int
    lines: Callable[[str], Lines] = field(repr=False)
    """Its source in parts, given a prefix for the names of its variables."""
    _function: Compiled = field(repr=False)
    _constants: tuple[Tensor, ...] = field(repr=False)

    def same(self, other: Program) -> bool:
        """Whether another program does the same with the same constants."""
        return self.source == other.source and all(map(torch.equal, self._constants, other._constants))

    def run(self, inputs: Sequence[Tensor], losses: Tensor, buffers: Tensor, state: dict[str, Tensor]) -> None:
        """Train on T mini-batches, one after another.

        Args:
            inputs: what a step is given, with the steps as their first dimension: x ``[T, B, ...]``, y ``[T, B]``.
            losses: ``[terms]`` or ``[C, terms]`` float64; each term's values are added to it.
            buffers: what moves by no gradient ``[Q]``; changed in place.
            state: the method's vectors; changed in place, or new ones where two lie in the same memory.
        """
        separate(state)
        vectors = [state[name] for name in self.state]
        interpret(self._function, *inputs, losses, buffers, *vectors, *self._constants)


def separate(state: dict[str, Tensor]) -> None:
    """Let each vector lie in memory of its own, number by number, as a loop needs that changes them in place."""
    taken = set[int]()
    for name, vector in state.items():
        memory = vector.untyped_storage().data_ptr()
        if memory in taken or not vector.is_contiguous():
            state[name] = vector.clone(memory_format=torch.contiguous_format)
        taken.add(memory)


@dataclass(frozen=True)
class Function:
    """A traced function of one input, compiled to run over many.

    Attributes:
        source: the TorchScript function, to read.
    """

    source: str
    _function: Compiled = field(repr=False)
    _constants: tuple[Tensor, ...] = field(repr=False)

    def map(self, x: Tensor, buffers: Tensor, w: Tensor) -> Tensor:
        """What the function gives for each of the blocks ``x`` ``[T, B, ...]``, one after another: ``[T * B, ...]``."""
        output: Tensor = interpret(self._function, x, buffers, w, *self._constants)
        return output


def compile_function(graph: fx.Graph) -> Function:
    """Turn a traced function of "x", "buffers" and "w" into one that maps over blocks; its output is one tensor.

    Raises:
        UntraceableError: an operation that TorchScript does not know.
    """
    lines = _Lowering(graph, ("x",), ("w",), 0, gives=True).lines()
    source = function_source(lines)
    return Function(source, compiled(source), tuple(lines.constants.values()))


def compile_step(graph: fx.Graph, inputs: Sequence[str], state: Sequence[str], terms: int) -> Program:
    """Turn a traced step into a program.

    Args:
        graph: its placeholders are ``inputs``, "buffers" and ``state``; its output is the new state's vectors in
            order, the new buffers, and then for each evaluation of the gradient the values of the ``terms``.
        inputs: the placeholders that are new in each step; "y" are the labels.
        state: the placeholders that a step changes.
        terms: how many.

    Raises:
        UntraceableError: an operation that TorchScript does not know.
    """

    def lines(prefix: str) -> Lines:
        return _Lowering(graph, tuple(inputs), tuple(state), terms, prefix).lines()

    plain = lines("")
    source = function_source(plain)
    # The graph's output: the state, the buffers, and the values.
    values = len(next(iter(reversed(graph.nodes))).args[0]) - len(state) - 1
    return Program(
        source, tuple(state), values // max(terms, 1), lines, compiled(source), tuple(plain.constants.values())
    )


@dataclass
class _Combination:
    """``node`` = Σ coefficient · vector + Σ coefficient · gradient, where a gradient is a list of parts."""

    node: Node
    vectors: dict[Node, float]
    gradients: dict[Node, float]


class _Lowering:
    def __init__(
        self,
        graph: fx.Graph,
        inputs: tuple[str, ...],
        state: tuple[str, ...],
        terms: int,
        prefix: str = "",
        gives: bool = False,
    ) -> None:
        self.graph, self.inputs, self.state, self.terms, self.prefix = graph, inputs, state, terms, prefix
        self.nodes: list[Node] = list(graph.nodes)
        self.place = {node: place for place, node in enumerate(self.nodes)}
        self.placeholders = {node.target: node for node in self.nodes if node.op == "placeholder"}
        self.constants = {
            str(node.target): node.meta["constant"] for node in self.placeholders.values() if "constant" in node.meta
        }
        (outputs,) = self.nodes[-1].args
        self.output: Node | None = None
        if gives:  # a function: it changes nothing
            (self.output,) = outputs
            outputs = [self.placeholders[name] for name in (*state, "buffers")]
        self.new_state: list[Node] = outputs[: len(state)]
        self.new_buffers: Node = outputs[len(state)]
        self.values: list[Node] = outputs[len(state) + 1 :]
        self.vector_shapes = {self.placeholders[name].meta["shape"] for name in state}

        self.deferred = [self._log_likelihood(value) for value in self.values]
        self.combinations = self._combinations()
        self.skipped = self._folded() | (set(self.nodes) - self._needed())
        self.last_use = self._last_uses()
        self.hoisted: dict[str, str] = {}
        self.loop: list[str] = []
        self.names: dict[Node, str] = {node: self._name(node) for node in self.placeholders.values()}
        self.taken = {self._name(node) for node in self.nodes}
        self.losses = self._unused("losses")
        lasting = [self.placeholders[name] for name in (*state, "buffers", *self.constants)]
        self.lasting: dict[Node, Any] = {node: self._memory(node) for node in lasting}
        """Nodes whose variable is the same memory in every step, and how it lies: views of them are made once."""

    def _name(self, node: Node) -> str:
        return f"{self.prefix}{node.name}"

    def _unused(self, name: str) -> str:
        return unused(f"{self.prefix}{name}", self.taken)

    def _memory(self, node: Node) -> Tensor:
        """How a vector or a constant lies in memory: a tensor without memory."""
        like = node.meta.get("constant", torch.empty(node.meta["shape"], device="meta"))
        return torch.empty_strided(like.shape, like.stride(), dtype=node.meta["dtype"], device="meta")

    # What is computed where.

    def _log_likelihood(self, value: Node) -> tuple[Node, Node] | None:
        """(log p, y) where a term's value is the mean of -log p[y]: it can wait until after the loop."""
        y = self.placeholders["y"]
        match value.target, value.args:
            case f, (nll, 0) if f is item and nll.target is aten.nll_loss_forward.default:
                log_p, labels, class_weight, reduction, ignored = nll.args
                plain = class_weight is None and reduction == 1 and ignored < 0
                return (log_p, y) if labels is y and plain and _is_log_softmax(log_p) else None
            case aten.mul.Tensor, (total, float() as scale) if total.target is aten.sum.dim_IntList:
                # The same for each of a stack's clients: what vmap makes of it.
                chain, node = (aten.neg.default, aten.squeeze.dims, aten.gather.default), total.args[0]
                for target in chain:
                    if node.target is not target:
                        return None
                    gather, node = node, node.args[0]
                column, batch = gather.args[2], y.meta["shape"][-1]
                picks = column.target is aten.unsqueeze.default and column.args == (y, 2) and gather.args[1] in (2, -1)
                mean = total.args[1] == [1] and abs(scale * batch - 1) < 1e-12
                return (node, y) if picks and mean and _is_log_softmax(node) else None
        return None

    def _outputs(self) -> list[Node]:
        waiting = [log_p for pair in self.deferred if pair for log_p in pair[:1]]
        now = [value for value, pair in zip(self.values, self.deferred) if not pair]
        return [*self.new_state, self.new_buffers, *waiting, *now, *([self.output] if self.output else [])]

    def _linear(self, node: Node) -> dict[Node, float] | None:
        """What a vector is a linear combination of, one operation deep."""
        if node.meta.get("shape") not in self.vector_shapes or node.meta.get("dtype") != torch.float32:
            return None
        alpha = node.kwargs.get("alpha", 1)
        match node.target, node.args:
            case ((aten.add.Tensor | aten.sub.Tensor), (fx.Node() as a, fx.Node() as b)) if _same_shape(node, a, b):
                sign = 1 if node.target is aten.add.Tensor else -1
                return _sum({a: 1.0}, {b: sign * alpha})
            case aten.mul.Tensor, (fx.Node() as a, int() | float() as c):
                return {a: float(c)}
            case aten.mul.Tensor, (int() | float() as c, fx.Node() as a):
                return {a: float(c)}
            case aten.div.Tensor, (fx.Node() as a, int() | float() as c) if not node.kwargs:
                return {a: 1 / c}
            case aten.neg.default, (a,):
                return {a: -1.0}
            case aten.lerp.Scalar, (a, b, c) if _same_shape(node, a, b):
                return _sum({a: 1 - c}, {b: c})
        return None

    def _combinations(self) -> dict[Node, _Combination]:
        outputs = set(self._outputs())
        linear = {node: combination for node in self.nodes if (combination := self._linear(node)) is not None}
        # One that is used twice, or by something else, is a vector of its own; the others are only steps to it.
        own = {n for n in linear if n in outputs or len(n.users) != 1 or not all(u in linear for u in n.users)}

        def expand(node: Node) -> dict[Node, float]:
            total: dict[Node, float] = {}
            for part, c in linear[node].items():
                inner = expand(part) if part in linear and part not in own else {part: 1.0}
                total = _sum(total, {base: c * k for base, k in inner.items()})
            return total

        self.inner = set(linear) - own
        combinations: dict[Node, _Combination] = {}
        for node in linear:
            if node in own:
                bases = expand(node)
                gradients = {b: c for b, c in bases.items() if self._is_gradient(b)}
                vectors = {b: c for b, c in bases.items() if b not in gradients}
                if not vectors:
                    vectors, gradients = gradients, {}
                combinations[node] = _Combination(node, vectors, gradients)
        return combinations

    def _is_gradient(self, node: Node) -> bool:
        """A vector put together of parts, for one combination alone."""
        if node.target is not aten.cat.default or len(node.users) != 1:
            return False
        dim = node.args[1] if len(node.args) > 1 else 0
        return dim % len(node.meta["shape"]) == len(node.meta["shape"]) - 1

    def _folded(self) -> set[Node]:
        """Nodes that a combination takes in: they are not computed by themselves."""
        folded = set(self.inner)
        for combination in self.combinations.values():
            for gradient in combination.gradients:
                folded.add(gradient)
                for part in gradient.args[0]:
                    core = _core(part)
                    while part is not core:
                        folded.add(part)
                        part = part.args[0]
                    if _is_product(core):
                        folded.add(core)
        return folded

    def _needed(self) -> set[Node]:
        """What the outputs are computed from; what only serves values that wait is not."""
        needed, ask = set[Node](), self._outputs()
        while ask:
            node = ask.pop()
            if node not in needed:
                needed.add(node)
                ask += node.all_input_nodes
        return needed

    def _reads(self, node: Node) -> list[Node]:
        """What computing a node looks at."""
        combination = self.combinations.get(node)
        if combination is None:
            return list(node.all_input_nodes)
        reads = list(combination.vectors)
        for gradient in combination.gradients:
            for part in gradient.args[0]:
                core = _core(part)
                reads += core.all_input_nodes if _is_product(core) else [core]
        return reads

    def _last_uses(self) -> dict[Node, int]:
        """Where each value, through any view of it, is looked at for the last time."""
        last: dict[Node, int] = {}
        for node in self.nodes[:-1]:
            if node not in self.skipped:
                for read in self._reads(node):
                    last[_root(read)] = self.place[node]
        for node in self._outputs():
            last[_root(node)] = len(self.nodes)
        return last

    # The text.

    def lines(self) -> Lines:
        """The loop, in parts."""
        for node in self.nodes:
            if node.op == "call_function" and node not in self.skipped:
                if node in self.combinations:
                    self._combine(self.combinations[node])
                else:
                    self._call(node)
        after = self._values()
        self._carry_over()
        if self.output:
            outputs = self._unused("outputs")
            self.kept.append(outputs)
            self.loop.append(f"{outputs}.append({self.names[self.output]})")
            after.append(f"return torch.cat({outputs})")
        before = [f"{name} = {text}" for text, name in self.hoisted.items()]
        return Lines(
            self._names_of(self.inputs),
            () if self.output else (self.losses,),
            self.names[self.placeholders["buffers"]],
            self._names_of(self.state),
            dict(zip(self._names_of(tuple(self.constants)), self.constants.values())),
            (*before, *(f"{name}: List[Tensor] = []" for name in self.kept)),
            tuple(self.loop),
            tuple(after),
            self.means,
            Counter(place % self.terms for place, pair in enumerate(self.deferred) if pair),
            {place % self.terms for place, pair in enumerate(self.deferred) if pair is None},
            frozenset(self.taken),
        )

    def _names_of(self, placeholders: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(self.names[self.placeholders[name]] for name in placeholders)

    def _call(self, node: Node) -> None:
        if node.target is item and node.args[0] not in self.names:
            return  # its operation names all its results
        constant = not node.all_input_nodes and torch.Tag.nondeterministic_seeded not in _tags(node)
        lasting = self._memory(node) if constant else self._lasting_view(node)
        if lasting is not None:
            self.names[node] = self._hoist(self._text(node), node.name)
            self.lasting[node] = lasting
            return
        replaced = IN_PLACE.get(node.target)
        first = node.args[0] if node.args else None
        if replaced and isinstance(first, fx.Node) and self._is_free(first, node):
            text = self._text(node, replaced)
        else:
            text = self._text(node)
        if node.target is not item and len(node.target._schema.returns) > 1:
            count = len(node.target._schema.returns)
            parts = {user.args[1]: user for user in node.users if user.target is item and user not in self.skipped}
            names = [self._name(parts[i]) if i in parts else f"_{self._name(node)}_{i}" for i in range(count)]
            self.names |= {part: self._name(part) for part in parts.values()}
            self.loop.append(f"{', '.join(names)} = {text}")
            return
        self.names[node] = self._name(node)
        self.loop.append(f"{self._name(node)} = {text}")

    def _lasting_view(self, node: Node) -> Any:
        """How a view of what lasts lies in memory; None if it is none, or would be a copy."""
        base = self.lasting.get(node.args[0]) if _is_view(node) else None
        if base is None:
            return None
        operation = aten.view.default if node.target in VIEW else node.target
        try:
            return operation(base, *node.args[1:], **node.kwargs)
        except RuntimeError:  # its numbers' order in memory is another
            return None

    def _is_free(self, value: Node, taker: Node) -> bool:
        """Whether ``taker`` may write over ``value``."""
        return (
            value.op == "call_function"
            and not _is_view(value)
            and value not in self.lasting
            and value not in self.combinations
            and self.last_use[value] == self.place[taker]
            and taker.args.count(value) == 1
            and [_root(read) for read in taker.all_input_nodes].count(value) == 1
            and value.meta.get("shape") == taker.meta["shape"]
            and value.meta.get("dtype") == taker.meta["dtype"]
        )

    def _combine(self, combination: _Combination) -> None:
        node, vectors = combination.node, dict(combination.vectors)
        here = self.place[node]
        products = {
            _root(read)
            for gradient in combination.gradients
            for part in gradient.args[0]
            for read in ([_core(part)] if not _is_product(_core(part)) else _core(part).all_input_nodes)
        }
        free = [
            v
            for v in vectors
            if not _is_view(v)
            and (v in self.combinations or (v.op == "placeholder" and v.target in self.state))
            and self.last_use[v] == here
            and v not in products
            and [_root(other) for other in vectors].count(v) == 1
        ]
        if free:
            base = max(free, key=lambda v: abs(vectors[v]))
            name, c = self.names[base], vectors.pop(base)
            if base in self.lasting:
                self.lasting[node] = self.lasting[base]
            ((other, b),) = vectors.items() if len(vectors) == 1 else ((None, 0.0),)
            if other is not None and abs(c + b - 1) < 1e-12:
                self.loop.append(f"{name}.lerp_({self.names[other]}, {b!r})")
                vectors = {}
            elif c != 1:
                self.loop.append(f"{name}.mul_({c!r})")
        else:
            base = max(vectors, key=lambda v: vectors[v] == 1)
            c, name = vectors.pop(base), self._name(node)
            text = f"torch.ops.aten.mul({self.names[base]}, {c!r})"
            if c == 1 and vectors:
                other = next(iter(vectors))
                text = f"torch.ops.aten.add({self.names[base]}, {self.names[other]}, alpha={vectors.pop(other)!r})"
            self.loop.append(f"{name} = {text}")
        self.names[node] = name
        self.loop += [f"{name}.add_({self.names[v]}, alpha={c!r})" for v, c in vectors.items()]
        for gradient, c in combination.gradients.items():
            start = 0
            for part in gradient.args[0]:
                stop = start + part.meta["shape"][-1]
                self._add_part(node, name, part, start, stop, c)
                start = stop

    def _add_part(self, node: Node, name: str, part: Node, start: int, stop: int, c: float) -> None:
        core = _core(part)
        if core.meta.get("number") == 0:
            return  # what the objective does not depend on
        cut = f"torch.ops.aten.slice({name}, {len(node.meta['shape']) - 1}, {start}, {stop})"
        shaped = f"torch.ops.aten.view({cut}, {_literal(list(core.meta['shape']))})"
        slot = self._hoist(shaped, f"{name}_{start}") if node in self.lasting else shaped
        if _is_product(core):
            a, b = (self.names[read] for read in core.args)
            operation = "addmm_" if core.target is aten.mm.default else "baddbmm_"
            self.loop.append(f"{slot}.{operation}({a}, {b}, alpha={c!r})")
        else:
            self.loop.append(f"{slot}.add_({self.names[core]}, alpha={c!r})")

    def _values(self) -> list[str]:
        """Add the terms' values to ``losses``, or keep what they are made of; returns what is to do after the loop."""
        self.kept: list[str] = []
        self.means: dict[int, str] = {}
        tail: list[str] = []
        lists: dict[int, tuple[str, str, tuple[int, ...]]] = {}
        for place, (value, pair) in enumerate(zip(self.values, self.deferred)):
            term = place % self.terms
            if pair is None:
                total = self._hoist(f"torch.ops.aten.select({self.losses}, -1, {term})", f"loss_{term}")
                self.loop.append(f"{total}.add_({self.names[value]})")
                continue
            if term not in lists:
                lists[term] = self._unused(f"log_p_{term}"), self._unused(f"y_{term}"), pair[0].meta["shape"]
                self.kept += lists[term][:2]
            log_ps, ys, _ = lists[term]
            self.loop += [f"{log_ps}.append({self.names[pair[0]]})", f"{ys}.append({self.names[pair[1]]})"]
        for term, (log_ps, ys, shape) in lists.items():
            labels = f"torch.stack({ys}, {len(shape) - 2}).unsqueeze(-1)"
            picked = f"torch.stack({log_ps}, {len(shape) - 2}).gather(-1, {labels}).squeeze(-1)"
            means = self.means[term] = self._unused(f"means_{term}")
            tail.append(f"{means} = {picked}.sum(-1).mul_({-1 / shape[-2]!r})")
        return tail

    def _carry_over(self) -> None:
        """Bring what is new into the vectors that the next step begins with.

        What lies in a vector that is written over meanwhile is copied first: two vectors may change places.
        """
        targets = [self.names[self.placeholders[name]] for name in (*self.state, "buffers")]
        moves = [
            (to, value) for to, value in zip(targets, [*self.new_state, self.new_buffers]) if self.names[value] != to
        ]
        written, copies = {to for to, _ in moves}, []
        for to, value in moves:
            name = self.names[value]
            if self.names[_root(value)] in written:
                kept = self._unused(f"kept_{to}")
                self.loop.append(f"{kept} = {name}.clone()")
                name = kept
            copies.append(f"{to}.copy_({name})")
        self.loop += copies

    def _hoist(self, text: str, name: str) -> str:
        if text not in self.hoisted:
            self.hoisted[text] = self._unused(f"at_{name.removeprefix(self.prefix)}")
        return self.hoisted[text]

    def _text(self, node: Node, operation: str | None = None) -> str:
        if node.target is item:
            return f"{self.names[node.args[0]]}[{node.args[1]}]"
        library, _, name = node.target._schema.name.partition("::")
        if node.target in VIEW:
            name = "reshape"  # a traced view may meet memory in another order
        arguments = [self._literal(argument) for argument in node.args]
        arguments += [f"{key}={self._literal(value)}" for key, value in node.kwargs.items()]
        return f"torch.ops.{library}.{operation or name}({', '.join(arguments)})"

    def _literal(self, value: Any) -> str:
        return _literal(value, self.names)


def _literal(value: Any, names: Mapping[Node, str] | None = None) -> str:
    """A value as TorchScript writes it."""
    match value:
        case fx.Node():
            assert names is not None
            return names[value]
        case list() | tuple():
            return f"[{', '.join(_literal(inner, names) for inner in value)}]"
        case float() if value != value or value in (float("inf"), -float("inf")):
            return f"float('{value}')"
        case torch.device():
            return f"torch.device('{value}')"
        case torch.dtype() | torch.memory_format() | torch.layout():
            return str(value)
        case None | bool() | int() | float() | str():
            return repr(value)
    raise UntraceableError(f"TorchScript has no {type(value).__name__}")


def _sum(left: Mapping[Node, float], right: Mapping[Node, float]) -> dict[Node, float]:
    return {node: left.get(node, 0.0) + right.get(node, 0.0) for node in (*left, *right)}


def _same_shape(node: Node, *others: Any) -> bool:
    return all(isinstance(o, fx.Node) and o.meta.get("shape") == node.meta["shape"] for o in others)


def _is_view(node: Node) -> bool:
    """Whether a value shares the memory of its first argument, or may."""
    if node.op != "call_function":
        return False
    if node.target is item:
        return _is_view(node.args[0])
    return node.target in VIEW or any(r.alias_info is not None for r in node.target._schema.returns)


def _root(node: Node) -> Node:
    """Whose memory a value lies in."""
    while _is_view(node):
        node = node.args[0]
    return node


def _tags(node: Node) -> Sequence[torch.Tag]:
    return () if node.target is item else node.target.tags


def _core(part: Node) -> Node:
    """What a gradient's part is a flat view of, for each of a stack's clients."""
    lead = part.meta["shape"][:-1]
    while part.target in VIEW and len(part.users) == 1 and part.args[0].meta["shape"][: len(lead)] == lead:
        part = part.args[0]
    return part


def _is_log_softmax(node: Node) -> bool:
    """Whether a value has memory of its own, in which it may wait."""
    return node.target is aten._log_softmax.default


def _is_product(node: Node) -> bool:
    """A matrix product that only a gradient's part needs."""
    return node.target in (aten.mm.default, aten.bmm.default) and len(node.users) == 1
