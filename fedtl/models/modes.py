"""Networks in evaluation for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def keep_in_evaluation(part: nn.Module) -> None:
    """Let a module itself, not its parts, stay in evaluation: engines call ``train`` on the whole model."""
    part.training = False
    part.train = _stays.__get__(part)  # type: ignore[method-assign]


def _stays(self: nn.Module, mode: bool = True) -> nn.Module:
    """In the place of a module's own ``train``."""
    return self


@contextmanager
def in_evaluation(module: nn.Module) -> Iterator[nn.Module]:
    """The module in evaluation mode; afterwards each part has its own mode back, as some may be frozen in theirs."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield module
    finally:
        for part, training in modes:
            part.training = training
