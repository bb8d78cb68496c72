"""DAFL's generator of images."""

from __future__ import annotations

from math import ceil

from torch import Tensor, nn
from torch.nn import functional as F

from fedtl.distill.method import by_pixel


class Generator(nn.Module):
    """From noise to normalised images by a linear layer and twice "nearest ×2, convolve", as in DAFL's code.

    After Radford et al.'s DCGAN, 2016. The two inner batch normalisations have eps = 0.8 and the last one, which gives
    images mean 0 and variance 1 per channel as normalised data have, follows the tanh; both are the authors'. Sides
    that are no multiple of 4 are cut off at the end.

    Shapes: z ``[n, latent]`` -> ``[n, channels, height, width]``.

    Args:
        shape: (channels, height, width) of an image.
        latent: length of z.
        hidden: channels of the first convolution, half as many in the second; the authors have 128.
    """

    def __init__(self, shape: tuple[int, int, int], latent: int = 100, hidden: int = 128) -> None:
        super().__init__()
        self.shape = shape
        channels, height, width = shape
        self.first = (hidden, ceil(height / 4), ceil(width / 4))
        half = max(1, hidden // 2)
        self.linear = nn.Linear(latent, hidden * self.first[1] * self.first[2])
        self.norm = nn.BatchNorm2d(hidden)
        self.middle = nn.Sequential(
            nn.Conv2d(hidden, hidden, 3, padding=1), nn.BatchNorm2d(hidden, eps=0.8), nn.LeakyReLU(0.2)
        )
        self.last = nn.Sequential(
            *(nn.Conv2d(hidden, half, 3, padding=1), nn.BatchNorm2d(half, eps=0.8), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(half, channels, 3, padding=1), nn.Tanh(), nn.BatchNorm2d(channels, affine=False)),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Images ``[n, channels, height, width]``."""
        x = self.norm(by_pixel(self.linear(z).unflatten(1, self.first)))
        x = self.middle(F.interpolate(x, scale_factor=2))
        x = self.last(F.interpolate(x, scale_factor=2))
        cut: Tensor = x[..., : self.shape[1], : self.shape[2]]
        return cut
