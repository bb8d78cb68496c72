"""Convolutions along the time of series of measurements."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from pydantic import Field, PositiveInt
from torch import nn

from fedtl.choice import ConfigError
from fedtl.models.mlp import dense
from fedtl.models.settings import ModelChoice
from fedtl.models.with_head import WithHead


class CNN1dChoice(ModelChoice):
    """Convolutions over the time of a series ``[channels, T]``, each with a max-pool of 2 and ReLU, then their mean.

    After the fully convolutional network of Wang, Yan and Oates, "Time Series Classification from Scratch with Deep
    Neural Networks", 2017 (arXiv 1611.06455), whose features are means over time too; it has no max-pools, and
    batch-norm, which looks at a client's mini-batch.

    Attributes:
        channels: output channels of the convolutions; each halves the length.
        kernel: how many measurements a convolution sees at once.
        hidden: sizes of the linear layers between the mean and the head.
    """

    name: str = "cnn1d"
    channels: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (32, 64)
    kernel: PositiveInt = 5
    hidden: tuple[PositiveInt, ...] = ()

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Features ``[n, f]`` of series, and a head."""
        if len(shape) != 2:
            raise ConfigError(
                f"model.name = {self.name!r}: it takes series [channels, T], but a sample has shape {list(shape)}"
            )
        inputs, length = shape
        if length >> len(self.channels) < 1:
            raise ConfigError(
                f"model.channels = {list(self.channels)}: {len(self.channels)} max-pools of 2 leave nothing of "
                f"{length} measurements; give fewer channels"
            )
        sizes = [self.channels[-1], *self.hidden]
        convolutions = _convolutions((inputs, *self.channels), self.kernel)
        features = nn.Sequential(*convolutions, nn.AdaptiveAvgPool1d(1), nn.Flatten(), *dense(sizes))
        return WithHead(features, sizes[-1], classes)


def _convolutions(channels: Sequence[int], kernel: int) -> list[nn.Module]:
    """A ReLU after the max-pool gives the same as before it, in half the time."""
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.Conv1d(before, after, kernel, padding="same"), nn.MaxPool1d(2), nn.ReLU()]
    return layers
