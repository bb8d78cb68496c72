"""The two-convolution network that federated papers train on MNIST-like images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt
from torch import nn

from fedtl.choice import ConfigError
from fedtl.models.mlp import dense, projected
from fedtl.models.settings import ModelChoice, image_shape
from fedtl.models.with_head import WithHead

SMALLEST_VALID = 28
"""Images narrower or lower than this many pixels are padded by default: see :class:`CNNChoice`."""


class CNNChoice(ModelChoice):
    """Convolutions, each with ReLU and a 2x2 max-pool, then hidden linear layers.

    After McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", 2017,
    with fewer channels; on 28x28 images 28 -> 24 -> 12 -> 8 -> 4 pixels, so 32 * 4 * 4 = 512 numbers reach
    the linear layers.

    Attributes:
        channels: output channels of the convolutions.
        kernel: their width and height in pixels.
        padding: "valid" convolves without padding, "same" pads so that a convolution keeps the image's size;
            "auto" is "valid" for images of at least 28x28 pixels, which the network was made for, and "same"
            for smaller ones (8x8 digits: 8 -> 4 -> 2; 16x16 USPS: 16 -> 8 -> 4).
        hidden: sizes of the linear layers between the convolutions and the head.
        projection: outputs of a projection between those and the head, linear - ReLU - linear, which the head then
            receives, as in MOON's network; none if not given.
    """

    norm: ClassVar[bool] = False
    """Whether there is batch-norm before each ReLU."""

    name: str = "cnn"
    channels: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (16, 32)
    kernel: PositiveInt = 5
    padding: Literal["auto", "valid", "same"] = "auto"
    hidden: tuple[PositiveInt, ...] = (64,)
    projection: PositiveInt | None = None

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """A :class:`CNN` for these images."""
        inputs, height, width = image_shape(self.name, shape)
        padding = self.padding
        if padding == "auto":
            padding = "valid" if min(height, width) >= SMALLEST_VALID else "same"
        lost = self.kernel - 1 if padding == "valid" else 0
        for _ in self.channels:
            height, width = (height - lost) // 2, (width - lost) // 2
        if min(height, width) < 1:
            raise ConfigError(
                f"model.channels = {list(self.channels)}: {len(self.channels)} {padding!r} convolutions of "
                f"{self.kernel}x{self.kernel}, each with a 2x2 max-pool, leave nothing of {shape[1]}x{shape[2]} "
                f"pixels; give fewer channels or a smaller kernel"
            )
        pixels = height * width
        channels = (inputs, *self.channels)
        return CNN(channels, self.kernel, padding, pixels, self.hidden, classes, self.norm, self.projection)


class CNNBNChoice(CNNChoice):
    """``cnn`` with batch-norm before each ReLU, after the model of Li et al. 2021 (FedBN, arXiv 2102.07623).

    Theirs for digits of 28x28 has channels 64, 64, 128 and hidden layers of 2048 and 512, and no pooling after its last
    convolution. Batch-norm of the hidden layers cannot train on a mini-batch of one sample.
    """

    norm: ClassVar[bool] = True

    name: str = "cnn-bn"


class CNN(WithHead):
    """Convolutions and linear layers, as :class:`CNNChoice` says.

    Shapes: x ``[n, channels[0], height, width]`` -> features ``[n, projection or hidden[-1]]`` ->
    logits ``[n, classes]``.

    Args:
        channels: of the image, then of each convolution's output.
        kernel: the convolutions' width and height.
        padding: "valid" or "same".
        pixels: height * width of the last max-pool's output.
        hidden: sizes of the linear layers before the head.
        classes: number of logits.
        norm: whether there is batch-norm before each ReLU of these.
        projection: outputs of a projection before the head; none if None.
    """

    def __init__(
        self,
        channels: Sequence[int],
        kernel: int,
        padding: str,
        pixels: int,
        hidden: Sequence[int],
        classes: int,
        norm: bool = False,
        projection: int | None = None,
    ) -> None:
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            own = [nn.BatchNorm2d(after)] if norm else []
            layers += [nn.Conv2d(before, after, kernel, padding=padding), *own, nn.ReLU(), nn.MaxPool2d(2)]
        sizes = [channels[-1] * pixels, *hidden]
        layers += [nn.Flatten(), *dense(sizes, norm), *projected(sizes[-1], projection)]
        super().__init__(nn.Sequential(*layers), projection or sizes[-1], classes)
