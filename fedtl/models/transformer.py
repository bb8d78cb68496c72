"""A small transformer: an encoder that classifies, or a decoder that tells the next token."""

from __future__ import annotations

import math

import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor, nn

from fedtl.models.sequences import Pooling, SequenceChoice, Series, Tokens, pooled
from fedtl.models.with_head import WithHead


class TransformerChoice(SequenceChoice):
    """Self-attention and feed-forward layers over token ids ``[T]`` or a series ``[channels, T]``.

    Vaswani et al., "Attention Is All You Need", 2017 (arXiv 1706.03762), with layer-norm before each part, GELU and
    learned positions, as in GPT-2; without dropout. A sequence as a whole is encoded by attention to all of its
    positions, and each position (``per_token``) by attention to it and those before it.

    Attributes:
        width: of a position's vector.
        layers: one on top of another.
        heads: of attention; a divisor of width.
        hidden: units of the feed-forward layers; twice the width if not given.
    """

    name: str = "transformer"
    pooling: Pooling = "mean"
    width: PositiveInt = 64
    layers: PositiveInt = 2
    heads: PositiveInt = 4
    hidden: PositiveInt | None = None

    @model_validator(mode="after")
    def _heads_divide(self) -> TransformerChoice:
        if self.width % self.heads:
            raise ValueError(f"heads = {self.heads} should be a divisor of width = {self.width}")
        return self

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Features of sequences, and a head."""
        entry, inputs = self.entry(shape, classes, self.width)
        hidden = self.hidden or 2 * self.width
        blocks = [Block(self.width, self.heads, hidden) for _ in range(self.layers)]
        features = TransformerFeatures(entry, inputs, shape[-1], self.width, blocks, self.pool())
        return WithHead(features, self.width, classes)


class TransformerFeatures(nn.Module):
    """Shapes: x ``[n, T]`` or ``[n, channels, T]`` -> features ``[n, width]``, or ``[n, T, width]`` of all positions.

    Args:
        entry: the first layer.
        inputs: how many numbers it makes of each position.
        length: T, at most.
        width: of a position's vector.
        blocks: the layers.
        pooling: what is left of the positions; if None all, and none sees those after it.
    """

    adapted = ("attention", "feed_forward")
    """After which parts an adapter is put if nothing else is asked for."""

    def __init__(
        self,
        entry: Tokens | Series,
        inputs: int,
        length: int,
        width: int,
        blocks: list[Block],
        pooling: Pooling | None,
    ) -> None:
        super().__init__()
        self.entry, self.pooling = entry, pooling
        self.into = nn.Linear(inputs, width) if isinstance(entry, Series) else nn.Identity()
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks, self.norm = nn.ModuleList(blocks), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """The features."""
        h = self.into(self.entry(x))
        h, real = h + self.positions[: h.shape[1]], self.entry.real(x)
        hidden = self._hidden(h.shape[1], real, x.device)
        for block in self.blocks:
            h = block(h, hidden)
        return pooled(self.norm(h), real, self.pooling)

    def _hidden(self, length: int, real: Tensor | None, device: torch.device) -> Tensor | None:
        """Which positions a position does not see, ``[T, T]`` or ``[n, 1, T, T]``; None if it sees all."""
        hidden: Tensor | None = None
        if self.pooling is None:
            hidden = torch.ones(length, length, dtype=torch.bool, device=device).triu(1)
        if real is not None:
            # Each sees itself: a softmax over nothing is no number.
            others = ~torch.eye(length, dtype=torch.bool, device=device)
            padding = ~real[:, None, None, :] & others
            hidden = padding if hidden is None else hidden | padding
        return hidden


class Block(nn.Module):
    """Attention and a feed-forward layer, each beside a shortcut.

    Shapes: h ``[n, T, width]`` -> the same.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, h: Tensor, hidden: Tensor | None) -> Tensor:
        """See the class, and :class:`Attention`."""
        h = h + self.attention(self.norm1(h), hidden)
        out: Tensor = h + self.feed_forward(self.norm2(h))
        return out


class Attention(nn.Module):
    """Multi-head self-attention, of products and a softmax: torch's fused one has no rule for ``torch.func.vmap``.

    Shapes: h ``[n, T, width]`` -> the same.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, h: Tensor, hidden: Tensor | None) -> Tensor:
        """What each position sees.

        Args:
            h: the positions.
            hidden: true where the position of a row does not see the one of a column; it sees all if None.
        """
        n, T, width = h.shape
        each = width // self.heads
        q, k, v = self.qkv(h).view(n, T, 3, self.heads, each).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * (1 / math.sqrt(each))) @ k.transpose(-2, -1)
        if hidden is not None:
            scores = scores.masked_fill(hidden, -math.inf)
        seen = (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, T, width)
        out: Tensor = self.out(seen)
        return out
