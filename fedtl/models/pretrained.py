"""Starting from weights that somebody trained: a run's, a file's, torchvision's."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from fedtl.choice import ConfigError, nearest
from fedtl.data.torchvision_ops import import_torchvision
from fedtl.models.head import head_name
from fedtl.models.parts import part_of

RUNS_MODEL = "model.safetensors"
"""In a run's folder: its final global model under the module's own names."""

RUNS_BEST = "best.safetensors"
"""The same of its best round by validation."""

ALONE = "local"
"""The method whose clients send nothing, so that its runs' global model is the one that they began with."""

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


def weights_of(name: str, source: str) -> dict[str, Tensor]:
    """The pretrained weights that a config names.

    Args:
        name: the model's.
        source: as for :func:`read_weights`, or the name of weights that torchvision has for its own network.

    Raises:
        ConfigError: there are no such weights.
    """
    key = "model.pretrained"
    known = {} if Path(source).exists() else torchvision_weights(name)
    if source in known:
        return _from_torchvision(name, source, key)
    if known:
        options = ", ".join(sorted(known))
        raise ConfigError(f"{key} = {source!r}: it is no run's folder, no .safetensors file, and none of {options}")
    return read_weights(source, key)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """What says whether two networks' tensors are the same."""
    whole = hashlib.sha256()
    for name in sorted(tensors):
        whole.update(name.encode())
        whole.update(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def begin_with(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Put pretrained weights into a network; another network's head stays new, and a note of the module says so.

    Args:
        module: freshly initialised; changed in place.
        tensors: as :func:`weights_of` gives them.
        source: what the config names.

    Raises:
        ConfigError: they are another network's.
    """
    what, notes = f"model.pretrained = {source!r}", list[str]()
    if private := private_of_run(source, "model.pretrained"):
        own = module.state_dict()
        tensors = {**tensors, **{name: own[name] for name in _names_in(module, private, what)}}
        notes.append(f"{what}: {', '.join(map(repr, private))} is new, as it stayed at that run's clients")
    if copy(tensors, module, what, new_head=True):
        notes.append(f"{what}: the head is new, as these weights have another one")
    module.notes_on_weights = tuple(notes)  # type: ignore[assignment]


def private_of_run(source: str, key: str) -> list[str]:
    """The parts of a model that stayed at the clients of the run that trained it; none where no run is known.

    A run's model.safetensors has first values in their place, which nobody trained.

    Args:
        source: a run's folder, or a .safetensors file, which may lie in one.
        key: the config key that names it.

    Raises:
        ConfigError: the run's method trains no model for all clients.
    """
    path = Path(source)
    record = (path if path.is_dir() else path.parent) / "config.toml"
    if not record.is_file() or not (path.is_dir() or path.name in (RUNS_MODEL, RUNS_BEST)):
        return []
    try:
        strategy = tomllib.loads(record.read_text(encoding="utf-8"))["strategy"]
        name, private = strategy["name"], [*strategy.get("private", ())]
    except (OSError, ValueError, KeyError, TypeError):  # it is no run's
        return []
    if name == ALONE:
        raise ConfigError(
            f"{key} = {source!r}: it is a run of {name!r}, which trains no model for all clients; fedtl export with "
            "--client writes a client's own"
        )
    return private


def check_whole(source: str, key: str) -> None:
    """Check that a run's global model is a whole one, all of which was trained for all clients.

    Raises:
        ConfigError: a part of it stayed at the run's clients.
    """
    if private := private_of_run(source, key):
        raise ConfigError(
            f"{key} = {source!r}: {', '.join(map(repr, private))} stayed at that run's clients (strategy.private), so "
            "its global model is no whole one; fedtl export with --client writes a client's own"
        )


def _names_in(module: nn.Module, parts: Collection[str], key: str) -> set[str]:
    """The names of all tensors in some parts of a model."""
    within = {id(inner) for name in parts for part in part_of(module, name, key) for inner in part.modules()}
    return {name for name in module.state_dict() if id(module.get_submodule(name.rpartition(".")[0])) in within}


def notes_on_weights(module: nn.Module) -> tuple[str, ...]:
    """What a user should know of the weights that a network began with."""
    notes: tuple[str, ...] = getattr(module, "notes_on_weights", ())
    return notes


def copy(tensors: Mapping[str, Tensor], module: nn.Module, what: str, *, new_head: bool = False) -> bool:
    """Copy tensors into a module, each to its name.

    Args:
        tensors: by the names of the module's ``state_dict``.
        module: where they go.
        what: they are, for messages: key and value.
        new_head: whether a head is left as it is where the tensors have another one, or none; an error else.

    Returns:
        Whether it was left.

    Raises:
        ConfigError: names or shapes are not the module's.
    """
    own, kind = module.state_dict(), type(module).__name__
    prefix = _head_prefix(module)
    head = {name for name in own if prefix and name.startswith(prefix)}
    other = [n for n in head if n in tensors and tensors[n].shape != own[n].shape]
    classes = bool(other) and all(tensors[n].shape[1:] == own[n].shape[1:] for n in other)
    if classes and not new_head:
        theirs, ours = len(tensors[other[0]]), len(own[other[0]])
        raise ConfigError(f"{what}: it tells {theirs} classes apart, but these data have {ours}")
    left = new_head and (classes or _another_head(tensors, own, head))
    if left:
        own = {name: tensor for name, tensor in own.items() if name not in head}
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
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
    return left


def _another_head(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], head: set[str]) -> bool:
    """Whether all but the head are a network's, and some of the head are not."""
    body = [name for name in own if name not in head and not name.endswith(COUNTS)]

    def same(name: str) -> bool:
        return name in tensors and tensors[name].shape == own[name].shape

    return bool(body) and all(map(same, body)) and not all(map(same, head))


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


def _head_prefix(module: nn.Module) -> str:
    """What the names of the head's tensors begin with; "" where a module does not tell its head."""
    try:
        return f"{head_name(module)}."
    except ConfigError:
        return ""
