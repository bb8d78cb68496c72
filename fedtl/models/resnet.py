"""ResNet-18 whose normalisation does not look at the batch, and so not at a client's label skew."""

from __future__ import annotations

from pydantic import PositiveInt, field_validator
from torch import Tensor, nn
from torch.nn import functional

from fedtl.models.settings import ModelChoice, image_shape
from fedtl.models.with_head import WithHead

LARGEST_SMALL = 64
WIDTHS = (64, 128, 256, 512)


class ResNet18GNChoice(ModelChoice):
    """ResNet-18 with GroupNorm for BatchNorm; a 3x3 stem for images of up to 64 pixels.

    Hsieh et al., "The Non-IID Data Quagmire of Decentralized Machine Learning", 2020: batch statistics of
    clients with different labels do not fit each other, group statistics belong to one sample.

    Attributes:
        groups: groups of channels in each GroupNorm; a divisor of 64.
    """

    name: str = "resnet18-gn"
    groups: PositiveInt = 2

    @field_validator("groups")
    @classmethod
    def _divides(cls, groups: int) -> int:
        if WIDTHS[0] % groups:
            raise ValueError(f"should be a divisor of {WIDTHS[0]}, the channels of the first layers")
        return groups

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """A :class:`ResNet18GN` for these images."""
        channels, height, width = image_shape(self.name, shape)
        return ResNet18GN(channels, max(height, width) <= LARGEST_SMALL, self.groups, classes)


class ResNet18GN(WithHead):
    """Four stages of two residual blocks each, averaged over the pixels, and the head.

    He et al., "Deep Residual Learning for Image Recognition", 2016; the stem for small images is the one of
    its CIFAR-10 section: 3x3, stride 1, no pooling; the other is ImageNet's: 7x7, stride 2, 3x3 max-pool.
    Parameters are initialised, and stand in the same order, as in torchvision's ``resnet18``.

    Shapes: x ``[n, channels, height, width]`` -> features ``[n, 512]`` -> logits ``[n, classes]``.
    Three channels and ten classes have 11,173,962 parameters with the small stem, 11,181,642 with the other.
    """

    def __init__(self, channels: int, small: bool, groups: int, classes: int) -> None:
        width = WIDTHS[0]
        if small:
            stem = [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.GroupNorm(groups, width), nn.ReLU()]
        else:
            stem = [
                nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False),
                *(nn.GroupNorm(groups, width), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)),
            ]
        blocks: list[nn.Module] = []
        for after in WIDTHS:
            blocks += [Block(width, after, groups), Block(after, after, groups)]
            width = after
        super().__init__(nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()), width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut; where the channels grow, the image halves.

    Shapes: x ``[n, before, h, w]`` -> ``[n, after, h, w]``, or ``[n, after, h/2, w/2]`` if ``after > before``.
    """

    def __init__(self, before: int, after: int, groups: int) -> None:
        super().__init__()
        stride = 1 if before == after else 2
        self.residual = nn.Sequential(
            *(nn.Conv2d(before, after, 3, stride, padding=1, bias=False), nn.GroupNorm(groups, after), nn.ReLU()),
            *(nn.Conv2d(after, after, 3, padding=1, bias=False), nn.GroupNorm(groups, after)),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.GroupNorm(groups, after))

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, see the class."""
        return functional.relu(self.residual(x) + self.shortcut(x))
