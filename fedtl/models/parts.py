"""Parts of a model by name: its head, its features, its batch-norm layers, any submodule."""

from __future__ import annotations

from torch import nn

from fedtl.choice import ConfigError, nearest
from fedtl.models.composite import Composite, model_of
from fedtl.models.head import head_name


def part_of(module: nn.Module, name: str, key: str = "strategy.private or frozen") -> list[nn.Module]:
    """The submodules that a part's name means; ``key`` is the config key that has it, for messages.

    ``"head"``: what makes the logits; ``"features"``: all other children of the model; ``"batch-norm"``: every
    batch-norm layer; else a term's own module, or a submodule by its name.

    Raises:
        ConfigError: there is no such part.
    """
    model = model_of(module)
    if name == "batch-norm":
        norms: list[nn.Module] = [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
        if not norms:
            raise ConfigError(f"strategy: the model {type(model).__name__} has no batch-norm layer")
        return norms
    parts = dict(model.named_modules())
    if name == "head":
        return [model.get_submodule(head_name(model))]
    if name == "features" and name not in parts:
        head = head_name(model)
        return [part for child, part in parts.items() if part is not model and not _touches(child, head)]
    extras = dict(module.extras.named_children()) if isinstance(module, Composite) else {}
    if name in extras:
        return [extras[name]]
    if name not in parts or not name:
        known = ["head", "features", "batch-norm", *extras, *(part for part in parts if part)]
        kind = type(model).__name__
        raise ConfigError(f"{key}: the model {kind} has no part {name!r}: {nearest(name, known)}")
    return [parts[name]]


def _touches(name: str, head: str) -> bool:
    """Whether a submodule is the head, holds it, or lies in it."""
    return name == head or head.startswith(f"{name}.") or name.startswith(f"{head}.")
