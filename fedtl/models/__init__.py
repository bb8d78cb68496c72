"""Small reference networks; torchvision's classification networks by name; a user's own by dotted path.

Importing this package does not import torch; reading or building a model does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedtl.choice import ConfigError, Registry, load_object, nearest, validate
from fedtl.models.settings import ModelChoice

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MODELS", "ModelChoice", "build_model", "read_model"]

MODELS: Registry = {
    "cnn": "fedtl.models.cnn:CNNChoice",
    "lenet5": "fedtl.models.lenet5:LeNet5Choice",
    "logistic": "fedtl.models.logistic:LogisticChoice",
    "mlp": "fedtl.models.mlp:MLPChoice",
    "resnet18-gn": "fedtl.models.resnet:ResNet18GNChoice",
}


def read_model(table: Mapping[str, Any]) -> ModelChoice:
    """A config's ``[model]`` table, checked; ``model_dump()`` of the result reads as an equal choice.

    ``name`` is a row of :data:`MODELS`, one of torchvision's classification networks (``"resnet18"``), or the
    dotted path ``"package.module:Name"`` of a :class:`ModelChoice`, of an ``nn.Module`` class, or of a function
    that returns a module.

    Raises:
        ConfigError: the name is unknown or an option is wrong.
    """
    name = table.get("name")
    if not isinstance(name, str) or not name:
        raise ConfigError(f"model.name = {name!r}: give one of {_known()}")
    if name in MODELS:
        return _validate(load_object(MODELS[name], "model.name"), table)
    if ":" in name:
        from fedtl.models.own import OwnModelChoice, load_own

        found = load_own(name)
        if isinstance(found, type) and issubclass(found, ModelChoice):
            return _validate(found, table)
        own = validate(OwnModelChoice, table, "model")
        own.check()
        return own
    from fedtl.models.torchvision_models import TorchvisionChoice, torchvision_names

    names = torchvision_names()
    if name in names:
        return validate(TorchvisionChoice, table, "model")
    hint = nearest(name, [*MODELS, *names])
    raise ConfigError(
        f"model.name = {name!r} is unknown: {hint if hint.startswith('did') else 'give one of ' + _known()}"
    )


def build_model(choice: ModelChoice, shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """The network, initialised from ``seed`` alone (and the weights that ``pretrained`` names), seen to fit the data.

    Built on the CPU, so that the bits do not depend on where it is trained; the caller's random state is left
    as it was.

    Args:
        choice: as :func:`read_model` returns it.
        shape: a sample's shape.
        classes: number of labels, which the logits must match.
        seed: of the initialisation.

    Raises:
        ConfigError: the network cannot be built, its pretrained weights are not to be had or another network's, or
            two samples ``[2, *shape]`` do not give ``[2, classes]``.
    """
    import torch

    # devices=[]: saving the state of a GPU's generator would start CUDA in a process that may not want it.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            module = choice.build(shape, classes)
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(
                f"model.name = {choice.name!r} cannot be built for samples of shape {list(shape)} and {classes} "
                f"classes: {_cause(error)}"
            ) from error
        if choice.pretrained is not None:
            from fedtl.models.pretrained import begin_with

            begin_with(module, choice.name, choice.pretrained)
        from fedtl.models.modes import in_evaluation

        try:
            with in_evaluation(module):  # or two samples of zeros would enter BatchNorm's statistics
                output = module(torch.zeros(2, *shape))
        except Exception as error:
            raise ConfigError(
                f"model.name = {choice.name!r} does not take samples of shape {list(shape)}: {_cause(error)}"
            ) from error
    if not isinstance(output, torch.Tensor):
        raise ConfigError(
            f"model.name = {choice.name!r}: its output is a {type(output).__name__}; "
            f"the labels need a tensor of shape [2, {classes}]"
        )
    if tuple(output.shape) != (2, classes):
        raise ConfigError(
            f"model.name = {choice.name!r}: its output has shape {list(output.shape)}; the labels need [2, {classes}]"
        )
    return module


def _validate(kind: type[ModelChoice], table: Mapping[str, Any]) -> ModelChoice:
    return validate(kind, table, "model")


def _known() -> str:
    return f"{', '.join(sorted(MODELS))}, a classification network of torchvision, or 'package.module:Class'"


def _cause(error: Exception) -> str:
    """An exception as the end of a sentence."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
