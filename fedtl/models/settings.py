"""What every model's options have in common; importing this does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, SerializeAsAny, field_validator

from fedtl.choice import Choice, ConfigError
from fedtl.models.adapter_settings import AdapterChoice, read_adapter

if TYPE_CHECKING:
    from torch import nn

    from fedtl.data.samples import FewSamples
    from fedtl.tasks import LearningTask


class ModelChoice(Choice):
    """A network's name and options; what it still needs, the data say.

    Attributes:
        pretrained: weights to begin with: a finished run's folder, a .safetensors file, or for a network of
            torchvision's the name of her weights, as "DEFAULT". Tensors go by name; where the weights have another
            head, it stays new. Images keep the normalisation of [data], which need not be the weights' own.
        adapter: new parameters that alone train and travel, with the head, while all else is frozen:
            ``{ name = "lora", rank = 4, alpha = 8, layers = [...] }``, or ``{ name = "adapter", width = 8 }`` for a
            bottleneck after each of the layers; with ``head = false`` the head is frozen too.
    """

    pretrained: str | None = Field(None, min_length=1)
    adapter: SerializeAsAny[AdapterChoice] | None = None

    @field_validator("adapter", mode="before")
    @classmethod
    def _read_adapter(cls, table: Any) -> AdapterChoice | None:
        return None if table is None else read_adapter(table)

    def without_use_on(self, shape: tuple[int, ...]) -> Mapping[str, str]:
        """Options that do nothing to samples of a shape, each with why; a run that is given one says so."""
        return {}

    def for_task(self, task: LearningTask) -> ModelChoice:
        """The same network as what is predicted asks for it."""
        if task.per_token and "per_token" in type(self).model_fields:
            return self.model_copy(update={"per_token": True})
        return self

    def untrained(self) -> Self:
        """The same network without the weights that it begins with."""
        return self.model_copy(update={"pretrained": None})

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """A freshly initialised network that maps samples ``[n, *shape]`` to logits ``[n, classes]``.

        Prefer :func:`fedtl.models.build_model`, which seeds the initialisation and checks the result.
        """
        raise NotImplementedError

    def check_samples(self, few: FewSamples, classes: int) -> None:
        """Check what the network asks of samples beyond their shape.

        Raises:
            ConfigError: it does not take these.
        """


def image_shape(name: str, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """``shape`` as (channels, height, width), for the networks that convolve.

    Raises:
        ConfigError: the samples are vectors or series; the message says which models take them.
    """
    if len(shape) != 3:
        raise ConfigError(
            f"model.name = {name!r}: it needs images [channels, height, width], but a sample has shape "
            f"{list(shape)}; 'logistic' and 'mlp' take any shape"
        )
    channels, height, width = shape
    return channels, height, width
