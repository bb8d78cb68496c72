"""Small reference networks; torchvision's classification networks by name; a user's own by dotted path.

Importing this package does not import torch; reading or building a model does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedtl.choice import ConfigError, Registry, cause, load_object, nearest, shown, validate
from fedtl.models.settings import ModelChoice

if TYPE_CHECKING:
    from torch import nn

    from fedtl.data.samples import FewSamples
    from fedtl.tasks import LearningTask

__all__ = ["MODELS", "ModelChoice", "build_model", "read_model"]

MODELS: Registry = {
    "cnn": "fedtl.models.cnn:CNNChoice",
    "cnn-bn": "fedtl.models.cnn:CNNBNChoice",
    "cnn1d": "fedtl.models.cnn1d:CNN1dChoice",
    "gru": "fedtl.models.recurrent:GRUChoice",
    "lenet5": "fedtl.models.lenet5:LeNet5Choice",
    "logistic": "fedtl.models.logistic:LogisticChoice",
    "lstm": "fedtl.models.recurrent:LSTMChoice",
    "mlp": "fedtl.models.mlp:MLPChoice",
    "resnet18-gn": "fedtl.models.resnet:ResNet18GNChoice",
    "tabular-mlp": "fedtl.models.tabular:TabularMLPChoice",
    "textcnn": "fedtl.models.textcnn:TextCNNChoice",
    "transformer": "fedtl.models.transformer:TransformerChoice",
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
        raise ConfigError(f"model.name = {shown(name)}: give one of {_known()}")
    if name in MODELS:
        return _validate(load_object(MODELS[name], "model.name"), table)
    if ":" in name:
        from fedtl.models.own import OwnModelChoice, load_own

        kind = load_own(name)
        if isinstance(kind, type) and issubclass(kind, ModelChoice):
            return _validate(kind, table)
        own = validate(OwnModelChoice, table, "model")
        own.check()
        return own
    from fedtl.models.torchvision_models import TorchvisionChoice, torchvision_names

    names = torchvision_names()
    if name in names:
        return validate(TorchvisionChoice, table, "model")
    hint = nearest(name, [*MODELS, *names])
    raise ConfigError(
        f"model.name = {shown(name)} is unknown: {hint if hint.startswith('did') else 'give one of ' + _known()}"
    )


def build_model(
    choice: ModelChoice,
    shape: tuple[int, ...],
    classes: int,
    seed: int,
    few: FewSamples | None = None,
    task: LearningTask | None = None,
) -> nn.Module:
    """The network, initialised from ``seed`` alone (and the weights that ``pretrained`` names), seen to fit the data.

    Built on the CPU, so that the bits do not depend on where it is trained; the caller's random state is left
    as it was.

    Args:
        choice: as :func:`read_model` returns it.
        shape: a sample's shape.
        classes: how many numbers it gives for a sample, or for each token: one logit for each label, or as ``task``
            has it.
        seed: of the initialisation.
        few: samples to try it out on; made-up ones if None.
        task: what it is to predict; labels if None.

    Raises:
        ConfigError: the network cannot be built, its pretrained weights are not to be had or another network's, or
            it does not fit the data; see :func:`fedtl.models.trial.try_out`.
    """
    from fedtl.models.adapters import has_adapter
    from fedtl.models.generators import seeded
    from fedtl.tasks import Classification

    task = task or Classification()
    choice = choice.for_task(task)
    with seeded(seed):
        module = _built(choice, shape, classes, seed)
        adapted = False
        if choice.pretrained is not None:
            from fedtl.models.pretrained import begin_with, weights_of

            tensors = weights_of(choice.name, choice.pretrained)
            adapted = choice.adapter is not None and has_adapter(tensors)
            if not adapted:
                begin_with(module, tensors, choice.pretrained)
        from fedtl.models.trial import taken_by, try_out

        # Still under the seed: lazy layers draw their first numbers in the first pass.
        try_out(module, choice, shape, classes, few, task)
        if choice.adapter is not None:
            from fedtl.models.adapters import insert

            insert(module, choice.adapter, taken_by(module, shape, few))
            if choice.pretrained is not None and adapted:
                begin_with(module, tensors, choice.pretrained)
    return module


def _built(choice: ModelChoice, shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """The network that a choice makes, which may import torchvision only then."""
    from fedtl.data.torchvision_ops import import_torchvision, is_missing_operator
    from fedtl.models.generators import seed_again

    try:
        try:
            return choice.build(shape, classes)
        except RuntimeError as error:
            if not is_missing_operator(error):
                raise
        import_torchvision()
        seed_again(seed)  # what was drawn before it failed
        return choice.build(shape, classes)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"model.name = {choice.name!r} cannot be built for samples of shape {list(shape)} and {classes} "
            f"classes: {cause(error)}"
        ) from error


def _validate(kind: type[ModelChoice], table: Mapping[str, Any]) -> ModelChoice:
    return validate(kind, table, "model")


def _known() -> str:
    return f"{', '.join(sorted(MODELS))}, a classification network of torchvision, or 'package.module:Class'"
