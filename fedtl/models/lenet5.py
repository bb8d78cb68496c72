"""LeNet-5 in its modern form, the teacher and student of data-free distillation on MNIST."""

from __future__ import annotations

from pydantic import PositiveFloat
from torch import nn

from fedtl.choice import ConfigError
from fedtl.models.settings import ModelChoice, image_shape
from fedtl.models.with_head import WithHead

SIDE = 32


class LeNet5Choice(ModelChoice):
    """LeNet-5 with ReLU and max-pooling, on images of up to 32x32 pixels.

    Attributes:
        width: multiplies the numbers of channels and hidden units; 0.5 is DAFL's and ZSKD's student "LeNet-5-Half".
    """

    name: str = "lenet5"
    width: PositiveFloat = 1.0

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """A :class:`LeNet5` for these images."""
        channels, height, width = image_shape(self.name, shape)
        if max(height, width) > SIDE:
            raise ConfigError(
                f"model.name = {self.name!r}: it takes images of up to {SIDE}x{SIDE} pixels, these have "
                f"{height}x{width}; 'cnn' and 'resnet18-gn' take larger ones"
            )
        return LeNet5(channels, height, width, classes, self.width)


class LeNet5(WithHead):
    """Three 5x5 convolutions (6, 16, 120 channels), a linear layer of 84, and the head.

    LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document Recognition", 1998, in the
    variant of Chen et al., "Data-Free Learning of Student Networks" (DAFL), 2019: ReLU for tanh, max- for
    average pooling, every S2 channel connected to every C3 channel, a linear head for the Gaussian
    connections. DAFL resizes 28x28 images to 32x32; here they are centred in 32x32 zeros, as in 1998.

    Shapes: x ``[n, channels, height, width]`` -> features ``[n, 84]`` -> logits ``[n, classes]``.
    One channel and ten classes have 156 + 2,416 + 48,120 + 10,164 + 850 = 61,706 parameters; half the channels and
    units (3, 8, 60, 42) have 78 + 608 + 12,060 + 2,562 + 430 = 15,738.

    Args:
        channels, height, width: of the images.
        classes: number of logits.
        scale: multiplies the layers' sizes, which are rounded and at least 1.
    """

    def __init__(self, channels: int, height: int, width: int, classes: int, scale: float = 1.0) -> None:
        first, second, third, hidden = (max(1, round(scale * size)) for size in (6, 16, 120, 84))
        left, top = (SIDE - width) // 2, (SIDE - height) // 2
        features = nn.Sequential(
            nn.ZeroPad2d((left, SIDE - width - left, top, SIDE - height - top)),
            *(nn.Conv2d(channels, first, 5), nn.ReLU(), nn.MaxPool2d(2)),  # 32 -> 28 -> 14
            *(nn.Conv2d(first, second, 5), nn.ReLU(), nn.MaxPool2d(2)),  # 14 -> 10 -> 5
            *(nn.Conv2d(second, third, 5), nn.ReLU(), nn.Flatten()),  # 5 -> 1
            *(nn.Linear(third, hidden), nn.ReLU()),
        )
        super().__init__(features, hidden, classes)
