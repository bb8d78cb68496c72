"""Starting from weights that somebody trained: a run's, a file's, torchvision's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from fedtl.choice import ConfigError, nearest
from fedtl.data.torchvision_ops import import_torchvision
from fedtl.models.head import head_name

RUNS_MODEL = "model.safetensors"
"""In a run's folder: its final global model under the module's own names."""

COUNTS = "num_batches_tracked"
"""Batch-norm's count of batches, which training here does not read; older files lack it."""


def read_weights(source: str, key: str) -> dict[str, Tensor]:
    """A network's tensors by name.

    Args:
        source: a run's folder, or a .safetensors file.
        key: the config key that names it.

    Raises:
        ConfigError: there is no such file, or it cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(source)
    file = path / RUNS_MODEL if path.is_dir() else path
    if not file.is_file():
        why = f"this folder holds no {RUNS_MODEL}" if path.is_dir() else "there is no such file"
        raise ConfigError(f"{key} = {source!r}: {why}; give the folder of a finished run, or a .safetensors file")
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        why = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(f"{key} = {source!r}: it cannot be read as safetensors: {why}") from error
    return tensors


def begin_with(module: nn.Module, name: str, source: str) -> None:
    """Put pretrained weights into a network; a head for another number of classes stays new.

    Args:
        module: freshly initialised; changed in place.
        name: the model's, as the config has it.
        source: as for :func:`read_weights`, or the name of weights that torchvision has for its own network.

    Raises:
        ConfigError: there are no such weights, or they are another network's.
    """
    key = "model.pretrained"
    known = {} if Path(source).exists() else torchvision_weights(name)
    if source in known:
        tensors = _from_torchvision(name, source, key)
    elif known:
        options = ", ".join(sorted(known))
        raise ConfigError(f"{key} = {source!r}: it is no run's folder, no .safetensors file, and none of {options}")
    else:
        tensors = read_weights(source, key)
    copy(tensors, module, f"{key} = {source!r}", new_head=True)


def copy(tensors: Mapping[str, Tensor], module: nn.Module, what: str, *, new_head: bool = False) -> None:
    """Copy tensors into a module, each to its name.

    Args:
        tensors: by the names of the module's ``state_dict``.
        module: where they go.
        what: they are, for messages: key and value.
        new_head: whether a head for another number of classes is left as it is; an error else.

    Raises:
        ConfigError: names or shapes are not the module's.
    """
    own, kind = module.state_dict(), type(module).__name__
    head = _head_of(module)
    other = [n for n in head if n in tensors and n in own and tensors[n].shape != own[n].shape]
    if other and all(tensors[n].shape[1:] == own[n].shape[1:] for n in other):
        if not new_head:
            theirs, ours = len(tensors[other[0]]), len(own[other[0]])
            raise ConfigError(f"{what}: it tells {theirs} classes apart, but these data have {ours}")
        own = {name: tensor for name, tensor in own.items() if name not in head}
        tensors = {name: tensor for name, tensor in tensors.items() if name not in head}
    for name, tensor in own.items():
        if name not in tensors:
            if name.endswith(COUNTS):
                continue
            raise ConfigError(f"{what}: it has no tensor {name!r}, so it is no {kind}: {nearest(name, tensors)}")
        if tensors[name].shape != tensor.shape:
            shapes = f"has shape {list(tensors[name].shape)}, the model {kind} needs {list(tensor.shape)}"
            raise ConfigError(
                f"{what}: its tensor {name!r} {shapes}; give the model the options that it was trained with"
            )
    for name in tensors:
        if name not in own:
            raise ConfigError(f"{what}: the model {kind} has no place for its tensor {name!r}: {nearest(name, own)}")
    with torch.no_grad():
        for name, tensor in own.items():
            if name in tensors:
                tensor.copy_(tensors[name])


def torchvision_weights(name: str) -> dict[str, object]:
    """The weights that torchvision has for a network of hers; none for any other."""
    if ":" in name:
        return {}
    models = import_torchvision().models
    return dict(models.get_model_weights(name).__members__) if name in models.list_models(module=models) else {}


def _from_torchvision(name: str, which: str, key: str) -> dict[str, Tensor]:
    """Torchvision's weights, out of torch's cache or downloaded to it."""
    try:
        # The whole network, as torchvision renames some files' tensors, and drops auxiliary heads, while it loads.
        network: nn.Module = import_torchvision().models.get_model(name, weights=which)
    except Exception as error:
        why = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(
            f"{key} = {which!r}: torchvision's weights of {name!r} are not in torch's cache (TORCH_HOME) and cannot be "
            f"downloaded: {type(error).__name__}: {why}"
        ) from error
    return dict(network.state_dict())


def _head_of(module: nn.Module) -> set[str]:
    """Names of the head's tensors; none where a module does not tell its head."""
    try:
        name = head_name(module)
    except ConfigError:
        return set()
    return {tensor for tensor in module.state_dict() if tensor.startswith(f"{name}.")}
