"""Models that a trial must tell apart: by what they make whole numbers of, and by what they keep between calls."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Computes(nn.Module):
    """Makes whole or other numbers of what it computes, which looks nothing up by the input's numbers."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, how: str) -> None:
        super().__init__()
        self.how = how
        self.classes, self.table = classes, nn.Embedding(8, classes)
        self.head = nn.Linear(int(np.prod(input_shape)), classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(x.flatten(1))
        ways: dict[str, Callable[[], Tensor]] = {
            "spectrum": lambda: self.head(torch.fft.fft2(x).abs().flatten(1)),
            "complex": lambda: self.head(x.to(torch.cfloat).real.flatten(1)),
            "positions": lambda: y + self.table(torch.linspace(0, 3, 4).long()).mean(0),
            "decision": lambda: y + nn.functional.one_hot((y.mean(1) > 0).float().long(), 2).float().mean(),
            "bins": lambda: y + self.table(torch.floor(torch.sigmoid(y) * 3).long()).mean(1),
            "mask": lambda: self.head(x.masked_fill((x > 0).float().bool(), 0.0).flatten(1)),
            "binarised": lambda: y + self.table((x.flatten(1) > 0.5).float().long()).mean(1),
        }
        return ways[self.how]()


class Looks(nn.Module):
    """Looks its input up by number, in one of the ways that people write."""

    def __init__(self, classes: int, how: str) -> None:
        super().__init__()
        self.how, self.table = how, nn.Embedding(300, classes)

    def forward(self, x: Tensor) -> Tensor:
        ways: dict[str, Callable[[], Tensor]] = {
            "long": lambda: x.long().clamp(0),
            "int": lambda: x.int().clamp(0),
            "first": lambda: x[:, :3].clone().clamp(0).long(),
            "round": lambda: x.round().clamp(0, 255).long(),
            "floor": lambda: torch.cat([x, x]).floor().relu().to(torch.int32),
        }
        n = len(x)
        out: Tensor = self.table(ways[self.how]().flatten(1)).mean(1)[:n]
        return out


class Lazy(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.inner, self.head = nn.LazyLinear(4), nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.inner(x))
        return out


class Noise:
    """A helper object with a generator."""

    def __init__(self, generator: Any) -> None:
        self.generator = generator


class Keeps(nn.Module):
    """Keeps something from call to call."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, what: str) -> None:
        super().__init__()
        self.what, self.head, self.n = what, nn.Linear(input_shape[0], classes), 0
        self.generators = [np.random.default_rng()]
        self.by_name = {"numbers": random.Random()}
        self.helper = Noise(torch.Generator())
        self.draw = np.random.default_rng().normal
        self.last = torch.zeros(())
        self.register_buffer("mean", torch.zeros(()))
        self.mean: Tensor
        self.lock = threading.Lock() if what == "lock" else None

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.head(x)
        self.n += 1
        if self.what == "list":
            return z + float(self.generators[0].normal())
        if self.what == "dict":
            return z + self.by_name["numbers"].random()
        if self.what == "object":
            return z + torch.rand((), generator=self.helper.generator)
        if self.what == "method":
            return z + float(self.draw())
        if self.what == "counter":
            return z * (1 + 1 / self.n)
        if self.what == "counter in evaluation":
            return z if self.training else z * self.n
        if self.what == "tensor":
            self.last = self.last + 1
            return z + self.last
        if self.what == "buffer":
            self.mean.mul_(0.9).add_(z.mean().detach())
            return z + self.mean
        if self.what == "rebound buffer":
            self.mean = 0.9 * self.mean + z.mean().detach()
        return z  # "unused counter"


class OfOne(nn.Module):
    """Of one sample it makes an output of another shape, or no numbers, and raises nothing."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, how: str) -> None:
        super().__init__()
        self.how, self.head = how, nn.Linear(input_shape[0], classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x if self.how == "squeezed" else x / x.std(0))
        return out.squeeze() if self.how == "squeezed" else out


class Zeros(nn.Module):
    """A linear model that begins with zeros, as logistic regression often does."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(int(np.prod(input_shape)), classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.flatten(1))
        return logits


class Tokens(nn.Module):
    """Logits for each token of a sequence, of that token alone."""

    def __init__(self, classes: int, tokens: int, width: int = 6) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(tokens, width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.embedding(x.long())))
        return out
