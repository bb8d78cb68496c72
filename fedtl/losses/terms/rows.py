"""A batch's loss, sample by sample, where a batch is padded."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.func import vmap

from fedtl.losses.context import Stream


def over_samples(stream: Stream, loss: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """``loss(*rows)``, the mean over a batch; where it is padded, over the samples alone.

    Args:
        stream: whose samples they are.
        loss: of tensors ``[n, ...]``; a mean of what it is for each sample by itself.
        rows: ``[B, ...]`` each.

    Returns:
        A scalar; without padding, what the loss itself gives, to the bit.
    """
    return loss(*rows) if stream.mask is None else stream.mean(one_by_one(loss, *rows))


def one_by_one(loss: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """The loss of each sample by itself, ``[B]``."""
    each: Tensor = vmap(lambda *one: loss(*(row.unsqueeze(0) for row in one)))(*rows)
    return each
