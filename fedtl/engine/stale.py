"""Passes that look at a model's own numbers where others stand in their place.

Stacked and traced training calls a model with numbers that are not its own. They stand in the place of its parameters
while the forward pass runs. A backward pass that reads the parameters anew would find the model's own: that of
``torch.utils.checkpoint``, a hook on a tensor or a layer, an ``autograd.Function`` that keeps a layer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from fedtl.models.vector import Layout
from fedtl.tracing.tape import memory_of, tensors_in

WHY = "a pass reads the model's parameters anew, as one with torch.utils.checkpoint does"


def reads_own(module: nn.Module, layout: Layout, x: Tensor) -> bool:
    """Whether a forward or backward pass with other numbers looks at the module's own.

    Args:
        module: in training mode; its numbers stay.
        layout: of its vector.
        x: samples ``[B, ...]``.
    """
    flat, P = layout.flatten(module), layout.parameters
    numbers = {name: view.clone().requires_grad_() for name, view in layout.views(flat[:P]).items()}
    buffers = {name: view.clone() for name, view in layout.buffer_views(flat[P:]).items()}
    with _Watch(memory_of(tensor) for tensor in _own(module)) as watch:
        output = functional_call(module, numbers | buffers, (x,))
        if output.requires_grad:
            torch.autograd.grad(output.sum(), [*numbers.values()], allow_unused=True)
    seen: bool = watch.seen
    return seen


def writes_own_down(module: nn.Module, graph: fx.Graph) -> bool:
    """Whether a traced step has the module's own numbers as constants."""
    own = {memory_of(tensor) for tensor in _own(module)}
    return any("constant" in node.meta and memory_of(node.meta["constant"]) in own for node in graph.nodes)


def _own(module: nn.Module) -> Collection[Tensor]:
    return [*module.parameters(), *(buffer for buffer in module.buffers() if buffer.is_floating_point())]


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes whether an operation reads some memory."""

    def __init__(self, memory: Iterable[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.memory, self.seen = frozenset(memory), False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # see fedtl.tracing.tape

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self.seen |= any(memory_of(tensor) in self.memory for tensor in tensors_in((*args, *kwargs.values())))
        return func(*args, **kwargs)
