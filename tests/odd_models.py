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


class Picky(Plain):
    """Raises on a sample that has a 9."""

    def seen(self, x: Tensor) -> Tensor:
        if (x == 9).any():
            raise ValueError("a 9 is not for me")
        return x


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


class Words(nn.Module):
    """Looks its input up by number, with a mask for the padding 0."""

    def __init__(self, classes: int, words: int = 20, width: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        layer = nn.TransformerEncoderLayer(width, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        t = x.long()
        out: Tensor = self.head(self.encoder(self.embedding(t), src_key_padding_mask=t == 0).mean(1))
        return out


class Bag(nn.Module):
    def __init__(self, classes: int, words: int = 20) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, 8)
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.embedding(x.long()).mean(1))
        return out


class FloatBag(Bag):
    """Forgets that samples come as float32."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.embedding(x).mean(1))
        return out


class Rounded(Bag):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.round().clamp(0, 19))


class OneHot(Bag):
    def __init__(self, classes: int, words: int = 20) -> None:
        super().__init__(classes, words)
        self.words = words
        self.head = nn.Linear(words, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(nn.functional.one_hot(x.long().clamp(0), self.words).float().mean(1))
        return out


class Packed(Bag):
    """A recurrent network that stops where a text ends: of no words it makes nothing."""

    def __init__(self, classes: int, words: int = 20) -> None:
        super().__init__(classes, words)
        self.lstm = nn.LSTM(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        t = x.long()
        lengths = (t != 0).sum(1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(self.embedding(t), lengths, batch_first=True, enforce_sorted=False)
        _, (h, _) = self.lstm(packed)
        out: Tensor = self.head(h[-1])
        return out


class Positions(nn.Module):
    """Looks up by number, but not its input's: that may be normalised."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.position = nn.Embedding(input_shape[0], 4)
        self.head = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head((x[:, :, None] * self.position(torch.arange(x.shape[1]))).mean(1))
        return out


class Outputs(nn.Module):
    """Gives what it is told to."""

    def __init__(self, input_shape: tuple[int, ...], how: str) -> None:
        super().__init__()
        self.how, self.head = how, nn.Linear(input_shape[0], 1 if how in ("one", "flat") else 2)

    def forward(self, x: Tensor) -> object:
        z = self.head(x)
        made: dict[str, object] = {
            "flat": z[:, 0],
            "pair": (z, x),
            "table": {"logits": z},
            "classes": z.argmax(1),
            "integers": (z > 0).long(),
            "sequence": z[:, None].expand(-1, 3, -1),
            "mean": z.mean(0),
            "three": torch.cat([z, z[:, :1]], 1),
        }
        return made.get(self.how, z)


class BatchNorm(nn.Sequential):
    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        inputs = input_shape[0]
        super().__init__(nn.Linear(inputs, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, classes))


class ImageNorm(nn.Sequential):
    """Batch-norm over a 3 x 3 image, which one sample suffices for, or over what is left of it, a single pixel."""

    def __init__(self, classes: int, kernel: int = 1) -> None:
        left = (4 - kernel) ** 2
        super().__init__(
            nn.Conv2d(1, 4, kernel), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * left, classes)
        )
