"""Models as people write them, which do more than map samples to logits; by dotted path, as any worker imports them."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor, nn


class Plain(nn.Module):
    """Linear, on inputs that are moved and scaled; in memory of its own."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(input_shape[0], classes)

    def seen(self, x: Tensor) -> Tensor:
        return (x - 0.5) / 0.5

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.seen(x))
        return out


class InPlace(Plain):
    def seen(self, x: Tensor) -> Tensor:
        return x.sub_(0.5).div_(0.5)


class OnAView(Plain):
    """Changes what it sees of its input through a view."""

    def seen(self, x: Tensor) -> Tensor:
        flat = x.view(-1)
        flat -= 0.5
        x[:, :] = x / 0.5
        return x


class ByData(Plain):
    """``.data`` is not counted among a tensor's changes."""

    def seen(self, x: Tensor) -> Tensor:
        x.data.sub_(0.5).div_(0.5)
        return x


class InTraining(Plain):
    def seen(self, x: Tensor) -> Tensor:
        return x.sub_(0.5).div_(0.5) if self.training else (x - 0.5) / 0.5


class InEvaluation(Plain):
    def seen(self, x: Tensor) -> Tensor:
        return (x - 0.5) / 0.5 if self.training else x.sub_(0.5).div_(0.5)


class Where(Plain):
    """Only of samples that are far from the others."""

    def seen(self, x: Tensor) -> Tensor:
        if float(x.max()) > 2.5:
            return x.sub_(0.5).div_(0.5)
        return (x - 0.5) / 0.5


class ReLUFirst(Plain):
    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.relu = nn.ReLU(inplace=True)

    def seen(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(x)
        return out


class PlainReLUFirst(ReLUFirst):
    def seen(self, x: Tensor) -> Tensor:
        return x.relu()


class Rarely(Plain):
    """Where no trial would find it."""

    def seen(self, x: Tensor) -> Tensor:
        if 0.02 < float(x.mean().abs()) % 0.1 < 0.09:
            return x.sub_(0.5).div_(0.5)
        return (x - 0.5) / 0.5


class NumPyNoise(Plain):
    """Noise of NumPy's in training, and in its first numbers."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.head.weight.data = torch.from_numpy(np.random.randn(classes, input_shape[0]).astype(np.float32))  # noqa: NPY002

    def seen(self, x: Tensor) -> Tensor:
        return x + float(np.random.rand()) if self.training else x  # noqa: NPY002


class PythonBranch(Plain):
    """Python decides, mostly in one way: two recordings would mostly be the same."""

    def seen(self, x: Tensor) -> Tensor:
        return x.flip(1) if self.training and random.random() < 0.02 else x


class OwnGenerators(Plain):
    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.numbers, self.python = np.random.default_rng(), random.Random()
        self.old, self.torch = np.random.RandomState(), torch.Generator()

    def seen(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        noise = self.numbers.normal() + self.python.gauss(0, 1) + self.old.randn()
        return x + float(noise) + torch.rand(x.shape[1:], generator=self.torch)


class NoisyScores(Plain):
    """Draws in evaluation too, as Monte Carlo dropout does."""

    def seen(self, x: Tensor) -> Tensor:
        return x + torch.randn(x.shape[1:]) + float(np.random.randn()) + random.gauss(0, 1)  # noqa: NPY002


class Unseeded(Plain):
    """What nobody can seed."""

    def seen(self, x: Tensor) -> Tensor:
        return x + float(np.random.default_rng().normal())
