"""A model as a vector: the w ∈ R^d of the papers, laid over a torch module.

All of a module's floating-point state lies in one contiguous float32 vector: first the P trainable
parameters, then the Q buffers, which move by no gradient (batch-norm statistics; frozen parameters count as such).
Everything that is not a forward pass (client updates, memories, messages, averaging) works on such
vectors, ``[d]`` for one client or ``[C, d]`` for C of them.

The weight of a linear layer with at least :data:`WIDE` outputs lies there as ``[in, out]``, the transpose of torch's
``[out, in]``. At the batch sizes of federated learning some processors multiply ``x @ W`` up to six times faster than
``x @ W.T``, on others it makes no difference; with few outputs the weight's gradient would be slower so than it is as
``[out, in]``. The module sees a transposed view, so that nothing but this file knows. ``tests.benchmarks.gemm``
measures all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedtl.choice import ConfigError
from fedtl.models.parts import part_of

WIDE = 32
"""Outputs from which on a linear layer's weight lies in the vector as ``[in, out]``."""

_IN_ATTENTION = nn.modules.linear.NonDynamicallyQuantizableLinear
"""Its weight is read by torch's attention, which has fast paths of its own."""


@dataclass(frozen=True)
class Slot:
    """Where one named tensor of a module lies in the vector.

    Attributes:
        name: the module's.
        shape: as the module has it.
        start, stop: its place in the vector.
        transposed: whether the vector has it as ``[in, out]``, a linear layer's weight.
    """

    name: str
    shape: torch.Size
    start: int
    stop: int
    transposed: bool = False

    def stored(self, vector: Tensor, offset: int = 0) -> Tensor:
        """The tensor as it lies in ``vector`` ``[..., n]``, which begins at ``offset``; shares its memory."""
        shape = self.shape[::-1] if self.transposed else self.shape
        return vector[..., self.start - offset : self.stop - offset].view((*vector.shape[:-1], *shape))

    def turned(self, tensor: Tensor) -> Tensor:
        """From the module's shape to the one in the vector, or back: a view of ``[..., *shape]``."""
        return tensor.transpose(-2, -1) if self.transposed else tensor

    def view(self, vector: Tensor, offset: int = 0) -> Tensor:
        """The tensor in the module's shape ``[..., *shape]``; shares memory with ``vector`` ``[..., n]``."""
        return self.turned(self.stored(vector, offset))


@dataclass(frozen=True)
class Layout:
    """The order of a module's tensors in its vector.

    Attributes:
        slots: trainable parameters first, then buffers, each in the module's own order.
        parameters: P, how many of the vector's numbers a gradient moves.
        size: d = P + Q.
        parts: the names of the tensors in the parts that are no submodule, ``"head"``, ``"features"``,
            ``"batch-norm"``, as far as the module has them.
    """

    slots: tuple[Slot, ...]
    parameters: int
    size: int
    parts: tuple[tuple[str, frozenset[str]], ...] = ()

    @classmethod
    def of(cls, module: nn.Module) -> Layout:
        """Read a module's layout.

        Raises:
            ConfigError: the module has parameters that are not float32, none that train, a batch-norm
                layer whose running average counts batches (``momentum=None``): its count is an integer
                that no average of models could combine; or in its state_dict something else than tensors.
        """
        for name, layer in module.named_modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.momentum is None:
                raise ConfigError(f"model: the layer {name!r} has momentum=None; give it a number, as 0.1")
        for name, value in module.state_dict().items():
            if not isinstance(value, Tensor):  # as get_extra_state gives; it would be found when the run has ended
                raise ConfigError(
                    f"model: {name.removeprefix('model.')!r} in its state_dict is of type {type(value).__name__}, and "
                    "a run's files hold tensors alone; leave get_extra_state out, and keep it in a buffer or as an "
                    "option of the model"
                )
        trained: list[tuple[str, Tensor]] = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        buffers: list[tuple[str, Tensor]] = [(n, p) for n, p in module.named_parameters() if not p.requires_grad]
        buffers += [(n, b) for n, b in module.named_buffers() if b.is_floating_point()]
        if not trained:
            raise ConfigError("model: it has no parameter that trains; is all of it in strategy.frozen?")
        slots, start, linear = [], 0, _linear_weights(module)
        for name, tensor in trained + buffers:
            if tensor.dtype != torch.float32:
                raise ConfigError(f"model: {name!r} is {tensor.dtype}; only float32 models are trained")
            slots.append(Slot(name, tensor.shape, start, start + tensor.numel(), id(tensor) in linear))
            start += tensor.numel()
        return cls(tuple(slots), sum(p.numel() for _, p in trained), start, tuple(_parts(module)))

    def part(self, name: str) -> tuple[slice, ...]:
        """Where the trainable parameters of a part lie in the vector: ``w[..., slice]`` for each of them.

        Args:
            name: ``"head"``, ``"features"``, ``"batch-norm"``, a term's own module, or a submodule's name.

        Raises:
            ConfigError: there is no such part, or none of it trains.
        """
        known = dict(self.parts)
        if name in known:
            own = [slot for slot in self.slots if slot.name in known[name]]
        else:
            of_term = [slot for slot in self.slots if slot.name.startswith(f"extras.{name}.")]
            own = of_term or [s for s in self.slots if s.name.removeprefix("model.").startswith(f"{name}.")]
        trained = [slice(slot.start, slot.stop) for slot in own if slot.stop <= self.parameters]
        if not own:
            raise ConfigError(f"the model has no part {name!r} with parameters; it has {', '.join(map(repr, known))}")
        if not trained:
            raise ConfigError(f"no parameter of the part {name!r} trains: strategy.frozen or model.adapter freezes it")
        return tuple(trained)

    def mask(self, name: str, device: torch.device | None = None) -> Tensor:
        """1 for the trainable parameters of a part, 0 for all others: ``[P]`` float32."""
        mask = torch.zeros(self.parameters, device=device)
        for own in self.part(name):
            mask[own] = 1
        return mask

    def views(self, w: Tensor) -> dict[str, Tensor]:
        """The trainable parameters by name; they share memory with ``w`` ``[..., P]``."""
        return {slot.name: slot.view(w) for slot in self.trained}

    def buffer_views(self, buffers: Tensor) -> dict[str, Tensor]:
        """The buffers by name; they share memory with ``buffers`` ``[..., Q]``."""
        return {slot.name: slot.view(buffers, self.parameters) for slot in self.slots[len(self.trained) :]}

    def statistics(self, module: nn.Module) -> Tensor:
        """Which of the buffers forward passes of the module may change, ``[Q]`` of bool; frozen parameters stay."""
        names = dict(module.named_buffers())
        which = torch.zeros(self.size - self.parameters, dtype=torch.bool)
        for slot in self.slots[len(self.trained) :]:
            slot.view(which, self.parameters).fill_(slot.name in names)
        return which

    @cached_property
    def trained(self) -> tuple[Slot, ...]:
        """Of the trainable parameters."""
        return tuple(slot for slot in self.slots if slot.stop <= self.parameters)

    def flat(self, tensors: Iterable[Tensor], buffers: bool = False) -> Tensor:
        """Tensors in the slots' order and the module's shapes, ``[..., *shape]``, as one new vector ``[..., n]``.

        Args:
            tensors: those of the first slots: all, or the trainable parameters or their gradients.
            buffers: the tensors are the buffers.
        """
        slots = self.slots[len(self.trained) :] if buffers else self.slots
        parts = [(slot.turned(tensor), len(slot.shape)) for slot, tensor in zip(slots, tensors)]
        return torch.cat([part.reshape((*part.shape[: part.ndim - dims], -1)) for part, dims in parts], -1)

    def flatten(self, module: nn.Module) -> Tensor:
        """A copy of a module's state as one vector ``[d]``, on the module's device."""
        named = _named(module)
        return self.flat(named[slot.name].detach() for slot in self.slots)

    def load(self, module: nn.Module, vector: Tensor) -> None:
        """Copy ``vector`` ``[d]`` into the module's own tensors."""
        named, P = _named(module), self.parameters
        views = self.views(vector[:P]) | self.buffer_views(vector[P:])
        with torch.no_grad():
            for slot in self.slots:
                tensor = named[slot.name]
                if slot.transposed and not slot.turned(tensor).is_contiguous():
                    # As in an engine's modules: products of operands in another order may round differently.
                    tensor.data = slot.turned(
                        torch.empty_like(slot.turned(tensor), memory_format=torch.contiguous_format)
                    )
                tensor.copy_(views[slot.name])


def inner(a: Tensor, b: Tensor) -> Tensor:
    """⟨a, b⟩ of vectors ``[..., P]``, as ``[..., 1]``; a client's does not depend on the stack.

    A sum's bits depend, on a CPU, on how many rows there are. These are sums of pairs, of pairs of pairs, and so on,
    which are elementwise additions.
    """
    products = a * b
    while (length := products.shape[-1]) > 1:
        half = (length + 1) // 2
        products = products[..., :half] + F.pad(products[..., half:], (0, 2 * half - length))
    return products


def take(w: Tensor, layout: Layout, parts: Iterable[str]) -> Tensor:
    """The numbers of some parts of a vector ``[..., P]``, one part after another, ``[..., n]``."""
    return torch.cat([w[..., own] for part in parts for own in layout.part(part)], -1)


def put(w: Tensor, layout: Layout, parts: Iterable[str], numbers: Tensor) -> None:
    """Put numbers ``[..., n]`` into some parts of a vector ``[..., P]``, in :func:`take`'s order."""
    places = [own for part in parts for own in layout.part(part)]
    for own, part in zip(places, torch.split(numbers, [own.stop - own.start for own in places], -1), strict=True):
        w[..., own] = part


class Binding:
    """A module whose tensors are views into vectors: what changes the one changes the other.

    Moving the binding to another vector copies nothing; a training loop that changes its vector in place
    moves it once.
    """

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        named = _named(module)
        self._moved = [(named[slot.name], slot) for slot in layout.trained]
        self.parameters = [tensor for tensor, _ in self._moved]
        device = self.parameters[0].device
        self.statistics = layout.statistics(module).to(device)
        """Which of the Q buffers forward passes may change."""
        self.sets = torch.empty(2 if self.statistics.any() else 1, len(self.statistics), device=device)
        """The Q buffers, as the module has them, and where its forward passes change any, a second set of them."""
        self.buffers = self.sets[0]
        """The Q buffers; the module's own, changed by its forward passes."""
        for slot in layout.slots[len(self._moved) :]:
            view = slot.view(self.buffers, layout.parameters)
            view.copy_(named[slot.name].detach())
            named[slot.name].data = view
        self._at = 0

    def to(self, w: Tensor) -> None:
        """Bind the trainable parameters to ``w`` ``[P]``."""
        if w.data_ptr() != self._at:
            w = w.contiguous()
            for parameter, slot in self._moved:
                parameter.data = slot.view(w)
            self._at = w.data_ptr()

    @contextmanager
    def second(self) -> Iterator[None]:
        """In the ``with`` block forward passes see and change the second set of buffers."""
        if len(self.sets) == 1:
            yield
            return
        self.sets.copy_(self.sets.flip(0))
        try:
            yield
        finally:
            self.sets.copy_(self.sets.flip(0))


def _parts(module: nn.Module) -> Iterator[tuple[str, frozenset[str]]]:
    named = _named(module)
    for name in ("head", "features", "batch-norm"):
        with suppress(ConfigError):  # not every model has each
            tensors = {id(t) for part in part_of(module, name) for t in (*part.parameters(), *part.buffers())}
            if tensors:
                yield name, frozenset(key for key, tensor in named.items() if id(tensor) in tensors)


def buffers_not_kept(module: nn.Module) -> list[str]:
    """The float buffers that the module leaves out of its state_dict, as no file of the model has them."""
    kept = module.state_dict()
    return [name for name, buffer in module.named_buffers() if buffer.is_floating_point() and name not in kept]


def _linear_weights(module: nn.Module) -> set[int]:
    """The ids of the wide weights that linear layers alone read, by :func:`torch.nn.functional.linear`."""
    linear, others = set[int](), set[int]()
    for layer in module.modules():
        plain = type(layer).forward is nn.Linear.forward and not isinstance(layer, _IN_ATTENTION)
        for name, parameter in layer.named_parameters(recurse=False):
            wide = plain and name == "weight" and len(parameter) >= WIDE
            (linear if wide else others).add(id(parameter))
    return linear - others


def _named(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}
