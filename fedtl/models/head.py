"""Where a network's features end and its head begins."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from fedtl.choice import ConfigError, nearest


def head_name(module: nn.Module) -> str:
    """The name of the submodule that turns features into logits.

    The attribute ``head_name`` where the module has one; else its child ``head``; else its last ``nn.Linear``
    in the order of registration, which is the head of torchvision's networks (``fc``, ``classifier.6``, ...).

    Raises:
        ConfigError: there is no such submodule.
    """
    kind = type(module).__name__
    named = getattr(module, "head_name", None)
    if isinstance(named, str):
        if named not in dict(module.named_modules()):
            raise ConfigError(f"the model {kind} says head_name = {named!r}, but has no submodule of that name")
        return str(named)
    if "head" in dict(module.named_children()):
        return "head"
    linear: list[str] = [name for name, part in module.named_modules() if isinstance(part, nn.Linear) and name]
    if not linear:
        raise ConfigError(
            f"the model {kind} does not tell its features from its head: give it a linear submodule 'head', or an "
            "attribute head_name with the name of the submodule that makes the logits"
        )
    return linear[-1]


def layer_outputs(module: nn.Module, x: Tensor, layers: Collection[str] = ()) -> dict[str, Tensor]:
    """What the module returns and what it makes on the way, in one forward pass.

    Outputs are caught by hooks that live as long as this call, so a module whose layers nobody asks for pays
    nothing, and any module will do.

    Args:
        module: maps ``[n, *shape]`` to logits ``[n, k]``.
        x: samples ``[n, *shape]``.
        layers: ``"features"``, what the head receives, and names of submodules, whose outputs are wanted.

    Returns:
        Tensors by name, flattened to ``[n, f]``; ``"logits"`` is always among them.

    Raises:
        ConfigError: the module has no head or no such submodule, or calls it other than once.
    """
    if not layers:
        return {"logits": module(x)}
    caught: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    hooks = []
    for layer, calls in caught.items():
        if layer == "features":

            def receives(_: nn.Module, inputs: tuple[Any, ...], calls: list[Tensor] = calls) -> None:
                calls.append(inputs[0])

            hooks.append(module.get_submodule(head_name(module)).register_forward_pre_hook(receives))
        else:

            def gives(_: nn.Module, inputs: Any, output: Tensor, calls: list[Tensor] = calls) -> None:
                calls.append(output)

            hooks.append(submodule(module, layer).register_forward_hook(gives))
    try:
        logits: Tensor = module(x)
    finally:
        for hook in hooks:
            hook.remove()
    for layer, calls in caught.items():
        if len(calls) != 1:
            what = f"its head {head_name(module)!r}" if layer == "features" else f"its layer {layer!r}"
            raise ConfigError(
                f"the model {type(module).__name__} calls {what} {len(calls)} times in a forward pass, not once"
            )
    return {"logits": logits} | {layer: calls[0].flatten(1) for layer, calls in caught.items()}


def submodule(module: nn.Module, name: str) -> nn.Module:
    """A module's part by its name.

    Raises:
        ConfigError: it has no such part.
    """
    parts: dict[str, nn.Module] = dict(module.named_modules())
    if not name or name not in parts:
        known = [part for part in parts if part]
        raise ConfigError(f"the model {type(module).__name__} has no layer {name!r}: {nearest(name, known)}")
    return parts[name]


def features_and_logits(
    module: nn.Module, x: Tensor, parameters: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """What the head receives and what the module returns, in one forward pass.

    Args:
        module: maps ``[n, *shape]`` to logits ``[n, k]``.
        x: samples ``[n, *shape]``.
        parameters: stand in for the module's own, as in ``torch.func.functional_call``; under
            ``torch.func.vmap`` they and ``x`` may be stacked.

    Returns:
        features ``[n, f]`` and logits ``[n, k]``.

    Raises:
        ConfigError: the module has no head, or calls it other than once.
    """
    if parameters is None:
        outputs = layer_outputs(module, x, ("features",))
        return outputs["features"], outputs["logits"]
    names = {f"module.{name}": tensor for name, tensor in parameters.items()}
    pair: tuple[Tensor, Tensor] = functional_call(_FeaturesAndLogits(module), names, (x,))
    return pair


class _FeaturesAndLogits(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return features_and_logits(self.module, x)
