"""torchvision's classification networks, each by its plain name."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fedtl.choice import ConfigError
from fedtl.data.torchvision_ops import import_torchvision
from fedtl.models.settings import ModelChoice, image_shape

# These two return a tuple in training unless their auxiliary heads are left out.
_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def torchvision_names() -> list[str]:
    """Names of torchvision's classification networks."""
    models = import_torchvision().models
    names: list[str] = models.list_models(module=models)
    return names


class TorchvisionChoice(ModelChoice):
    """One of torchvision's classification networks, with random weights and as many outputs as labels.

    Grey images are given to it three times, as red, green and blue, so that its parameters stay torchvision's
    own, in number, name and shape.
    """

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """The network; its head keeps torchvision's name (``fc``, ``classifier.6``, ...)."""
        channels, _, _ = image_shape(self.name, shape)
        if channels not in (1, 3):
            raise ConfigError(
                f"model.name = {self.name!r}: torchvision's networks take images of 3 channels, or of 1, which is "
                f"repeated, these have {channels}; 'cnn', 'lenet5' and 'resnet18-gn' take any number"
            )
        options = _OPTIONS.get(self.name, {})
        module: nn.Module = import_torchvision().models.get_model(self.name, num_classes=classes, **options)
        if channels == 1:
            module.register_forward_pre_hook(_grey_to_rgb)
        return module


def _grey_to_rgb(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """``[n, 1, h, w]`` as ``[n, 3, h, w]``, without a copy; at the module's top level, so that it pickles."""
    return (inputs[0].expand(-1, 3, -1, -1), *inputs[1:])
