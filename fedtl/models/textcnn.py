"""Convolutions over the words of a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from fedtl.choice import ConfigError
from fedtl.models.sequences import Tokens, TokensChoice
from fedtl.models.with_head import WithHead


class TextCNNChoice(TokensChoice):
    """Convolutions of several widths over a sentence's word vectors, and of each its maximum over time.

    Kim, "Convolutional Neural Networks for Sentence Classification", 2014 (arXiv 1408.5882), whose word vectors have
    300 numbers, with 100 channels of each width; without the dropout before the head.

    Attributes:
        width: of a token's vector.
        channels: of each convolution.
        widths: how many tokens each of the convolutions sees at once.
    """

    name: str = "textcnn"
    width: PositiveInt = 50
    channels: PositiveInt = 50
    widths: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (3, 4, 5)

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Features ``[n, channels * len(widths)]`` of sentences, and a head."""
        tokens = self.words(shape, self.width, classes)
        if max(self.widths) > shape[0]:
            raise ConfigError(
                f"model.widths = {list(self.widths)}: a sample has {shape[0]} tokens; give no greater width"
            )
        features = TextFeatures(tokens, self.width, self.channels, self.widths)
        return WithHead(features, self.channels * len(self.widths), classes)


class TextFeatures(nn.Module):
    """Shapes: x ``[n, T]`` -> features ``[n, channels * len(widths)]``.

    Args:
        tokens: looks words up.
        width: of a word's vector.
        channels: of each convolution.
        widths: how many words the convolutions see.
    """

    def __init__(self, tokens: Tokens, width: int, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.tokens = tokens
        self.convolutions = nn.ModuleList(nn.Conv1d(width, channels, words) for words in widths)

    def forward(self, x: Tensor) -> Tensor:
        """The features."""
        vectors = self.tokens(x).transpose(1, 2)
        return torch.cat([F.relu(convolution(vectors).amax(2)) for convolution in self.convolutions], 1)
