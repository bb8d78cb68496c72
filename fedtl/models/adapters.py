"""A frozen network with a few new parameters in it, which alone train and travel.

Its tensors keep their names; those of LoRA are ``lora_a`` and ``lora_b`` beside a layer's weight, those of a bottleneck
lie in a child ``adapter`` of the layer.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedtl.choice import ConfigError, nearest
from fedtl.models.adapter_settings import AdapterChoice, BottleneckChoice, LoRAChoice
from fedtl.models.composite import Composite, model_of
from fedtl.models.generators import generators_of, seeded
from fedtl.models.head import head_name
from fedtl.models.modes import in_evaluation, keep_in_evaluation

KEY = "model.adapter"

_BY_CHANNEL = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.modules.pooling._MaxPoolNd)
"""Layers whose outputs have their features, the channels, first, and end in places."""


class LoRALinear(nn.Linear):
    """A linear layer with the weight W + scale · B A."""

    lora_a: nn.Parameter
    lora_b: nn.Parameter
    scale: float

    def forward(self, x: Tensor) -> Tensor:
        """The layer's outputs."""
        return super().forward(x) + F.linear(F.linear(x, self.lora_a), self.lora_b) * self.scale


class LoRAAttention(nn.MultiheadAttention):
    """Torch's attention with products beside its projections in (of queries, keys and values together) and out."""

    lora_a: nn.Parameter
    lora_b: nn.Parameter
    lora_out_a: nn.Parameter
    lora_out_b: nn.Parameter
    scale: float

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """As torch's."""
        into = self.in_proj_weight + self.scale * (self.lora_b @ self.lora_a)
        out = self.out_proj.weight + self.scale * (self.lora_out_b @ self.lora_out_a)
        with _instead(self, "in_proj_weight", into), _instead(self.out_proj, "weight", out):
            return super().forward(*args, **kwargs)


class Bottleneck(nn.Module):
    """h + up(gelu(down(h))).

    Shapes: ``[..., size]`` -> the same.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(size, width), nn.Linear(width, size)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, h: Tensor) -> Tensor:
        """See the class."""
        out: Tensor = h + self.up(F.gelu(self.down(h)))
        return out


def insert(module: nn.Module, adapter: AdapterChoice, x: Tensor) -> None:
    """Put an adapter into a network, and freeze what is neither of it nor, if the head trains, of the head.

    What the network computes stays the same. New parameters draw from torch's generator.

    Args:
        module: changed in place.
        adapter: which.
        x: some samples that the network takes.

    Raises:
        ConfigError: a layer is none of the network's, or of no kind that takes this adapter.
    """
    head = _head(module)
    if head is None and adapter.head:
        head_name(module)  # raises
    names = _layers(module, adapter, head)
    outputs = _outputs(module, names, x)
    for name in names if adapter.layers or isinstance(adapter, BottleneckChoice) else ():
        if name not in outputs:
            raise ConfigError(f"{KEY}.layers: the model {type(module).__name__} never calls its layer {name!r}")
    # As torchvision's Swin, which reads its attention's weights: nothing beside them would come into play.
    names = [name for name in names if name in outputs]
    if not names:
        raise ConfigError(f"{KEY}.layers is missing: the model {type(module).__name__} calls no layer that takes one")
    before = {id(parameter) for parameter in module.parameters()}
    if isinstance(adapter, LoRAChoice):
        for name in names:
            _add_products(module, name, adapter)
    else:
        assert isinstance(adapter, BottleneckChoice)
        for name, size in {name: _size(module, name, outputs[name]) for name in names}.items():
            _add_bottleneck(module.get_submodule(name), size, adapter.width)
    kept = {id(t) for t in (*head.parameters(), *head.buffers())} if head is not None and adapter.head else set()
    for parameter in module.parameters():
        parameter.requires_grad_(id(parameter) not in before or id(parameter) in kept)
    for part in module.modules():
        norm = isinstance(part, nn.modules.batchnorm._NormBase)
        if norm and not any(id(buffer) in kept for buffer in part.buffers()):
            keep_in_evaluation(part)
        if isinstance(part, nn.TransformerEncoderLayer):
            part.self_attn.register_forward_hook(_not_at_once)
    module.frozen_by_adapter = frozenset(  # type: ignore[assignment]
        [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
        + [name for name, buffer in module.named_buffers() if id(buffer) not in kept]
    )


def frozen_by_adapter(module: nn.Module) -> frozenset[str]:
    """Names of a network's tensors that its adapter freezes; of a composite, by the composite's names."""
    names: frozenset[str] = getattr(model_of(module), "frozen_by_adapter", frozenset())
    return frozenset(f"model.{name}" for name in names) if isinstance(module, Composite) else names


def merged(module: nn.Module) -> nn.Module:
    """The network with LoRA's products added to its weights, in place; other adapters stay as they are."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, LoRALinear):
                part.weight.add_(part.lora_b @ part.lora_a, alpha=part.scale)
            elif isinstance(part, LoRAAttention):
                part.in_proj_weight.add_(part.lora_b @ part.lora_a, alpha=part.scale)
                part.out_proj.weight.add_(part.lora_out_b @ part.lora_out_a, alpha=part.scale)
            else:
                continue
            for name in [name for name in part._parameters if name.startswith("lora_")]:
                delattr(part, name)
            part.__class__ = nn.Linear if isinstance(part, LoRALinear) else nn.MultiheadAttention  # type: ignore[assignment]
    return module


def has_adapter(tensors: Collection[str]) -> bool:
    """Whether tensors of these names are those of a network with an adapter."""
    return any({"adapter", "lora_a"} & set(name.split(".")) for name in tensors)


def _layers(module: nn.Module, adapter: AdapterChoice, head: nn.Module | None) -> list[str]:
    """Names of the layers that get an adapter, in the network's order."""
    kind, parts = type(module).__name__, dict(module.named_modules())
    in_head = {id(part) for part in head.modules()} if head is not None and adapter.head else set[int]()
    if not adapter.layers:
        names = _by_itself(module, adapter, head)
        if not names:
            raise ConfigError(
                f"{KEY}.layers is missing: the model {kind} does not say which of its layers get an adapter"
            )
        return names
    chosen = set[str]()
    for wanted in adapter.layers:
        found = {name for name in parts if name and (name == wanted or name.endswith(f".{wanted}"))}
        if not found:
            raise ConfigError(
                f"{KEY}.layers: the model {kind} has no layer {wanted!r}: {nearest(wanted, [n for n in parts if n])}"
            )
        if any(id(parts[name]) in in_head for name in found):
            raise ConfigError(
                f"{KEY}.layers: {wanted!r} is in the head, all of which trains; leave it out, or set head = false"
            )
        chosen |= found
    for name in sorted(chosen):
        if isinstance(adapter, LoRAChoice) and not _takes_products(module, name):
            raise ConfigError(
                f"{KEY}.layers: {name!r} is a {type(parts[name]).__name__}; LoRA is for linear layers and torch's "
                "attention as a whole"
            )
    return [name for name in parts if name in chosen]


def _by_itself(module: nn.Module, adapter: AdapterChoice, head: nn.Module | None) -> list[str]:
    """The layers of a network where the config names none; never those of the head."""
    in_head = {id(part) for part in head.modules()} if head is not None else set[int]()
    parts = {name: part for name, part in module.named_modules() if name and id(part) not in in_head}
    if isinstance(adapter, LoRAChoice):
        return [name for name in parts if _takes_products(module, name)]
    ends = {end for part in module.modules() for end in getattr(part, "adapted", ())}
    return [name for name in parts if name.rpartition(".")[2] in ends]


def _takes_products(module: nn.Module, name: str) -> bool:
    part = module.get_submodule(name)
    if type(part) is nn.MultiheadAttention:
        return part.in_proj_weight is not None
    # The projection out of torch's attention is read by the attention itself.
    return type(part) is nn.Linear


def _add_products(module: nn.Module, name: str, adapter: LoRAChoice) -> None:
    part: Any = module.get_submodule(name)
    if isinstance(part, nn.Linear):
        part.__class__, weights = LoRALinear, {"lora": part.weight}
    else:
        part.__class__, weights = LoRAAttention, {"lora": part.in_proj_weight, "lora_out": part.out_proj.weight}
    part.scale = adapter.scale
    for prefix, weight in weights.items():
        outputs, inputs = weight.shape
        a = weight.new_empty(adapter.rank, inputs)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5))
        part.register_parameter(f"{prefix}_a", nn.Parameter(a))
        part.register_parameter(f"{prefix}_b", nn.Parameter(weight.new_zeros(outputs, adapter.rank)))


def _add_bottleneck(part: nn.Module, size: int, width: int) -> None:
    part.add_module("adapter", Bottleneck(size, width))
    if not isinstance(part, nn.Sequential):  # which calls its last child by itself
        part.register_forward_hook(_through_adapter)


def _outputs(module: nn.Module, names: Collection[str], x: Tensor) -> dict[str, Tensor]:
    """What the layers make of samples, by name; those that the network does not call are missing."""
    outputs: dict[str, Tensor] = {}
    hooks = []
    for name in names:

        def gives(_: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
            outputs[name] = output[0] if isinstance(output, tuple) else output

        hooks.append(module.get_submodule(name).register_forward_hook(gives))
    try:
        with seeded(0, generators_of(module)), in_evaluation(module), torch.no_grad():
            module(x.clone())
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def _size(module: nn.Module, name: str, output: Tensor) -> int:
    """How many features a layer's output has."""
    if output.ndim > 2 and any(isinstance(part, _BY_CHANNEL) for part in module.get_submodule(name).modules()):
        raise ConfigError(
            f"{KEY}.layers: a sample of what {name!r} makes is {list(output.shape[1:])}, and a bottleneck would mix "
            "its last axis, which is no features; name linear layers, attention, or blocks of these"
        )
    return output.shape[-1]


def _through_adapter(part: nn.Module, inputs: Any, output: Any) -> Any:
    """After a layer, at the module's top level, so that it pickles."""
    if isinstance(output, tuple):
        return (part.adapter(output[0]), *output[1:])  # type: ignore[operator]
    return part.adapter(output)  # type: ignore[operator]


def _not_at_once(part: nn.Module, inputs: Any, output: Any) -> None:
    """A hook that lets torch's encoder layer call its parts, where it would read their weights by itself."""


def _head(module: nn.Module) -> nn.Module | None:
    with suppress(ConfigError):
        return module.get_submodule(head_name(module))
    return None


@contextmanager
def _instead(part: nn.Module, name: str, tensor: Tensor) -> Iterator[None]:
    """In the ``with`` block a tensor stands for a parameter."""
    before = part._parameters[name]
    part._parameters[name] = tensor  # type: ignore[assignment]
    try:
        yield
    finally:
        part._parameters[name] = before
