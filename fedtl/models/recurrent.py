"""GRU and LSTM, as torch has them, also where clients are stacked."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from fedtl.models.sequences import Pooling, SequenceChoice, Series, Tokens, WithHead, pooled


class GRU(nn.GRU):
    """Torch's GRU, whose outputs are all positions' ``[n, T, hidden]``; ``torch.func.vmap`` goes through it as well."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Outputs of all positions, from a state of 0."""
        if _mapped():
            return _unrolled(self, x)
        outputs: Tensor = super().forward(x)[0]
        return outputs

    def cells(self, layer: int, inputs: Tensor) -> list[Tensor]:
        """One layer's outputs ``[n, hidden]``, position by position, of ``inputs`` ``[n, T, 3 * hidden]``."""
        weight, bias = getattr(self, f"weight_hh_l{layer}"), getattr(self, f"bias_hh_l{layer}")
        h, outputs = inputs.new_zeros(len(inputs), self.hidden_size), list[Tensor]()
        for now in inputs.unbind(1):
            reset, update, new = now.chunk(3, 1)
            of_reset, of_update, of_new = F.linear(h, weight, bias).chunk(3, 1)
            r, z = torch.sigmoid(reset + of_reset), torch.sigmoid(update + of_update)
            n = torch.tanh(new + r * of_new)
            h = n + z * (h - n)
            outputs.append(h)
        return outputs


class LSTM(nn.LSTM):
    """Likewise."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Outputs of all positions, from a state of 0."""
        if _mapped():
            return _unrolled(self, x)
        outputs: Tensor = super().forward(x)[0]
        return outputs

    def cells(self, layer: int, inputs: Tensor) -> list[Tensor]:
        """One layer's outputs ``[n, hidden]``, position by position, of ``inputs`` ``[n, T, 4 * hidden]``."""
        weight, bias = getattr(self, f"weight_hh_l{layer}"), getattr(self, f"bias_hh_l{layer}")
        h = c = inputs.new_zeros(len(inputs), self.hidden_size)
        outputs = list[Tensor]()
        for now in inputs.unbind(1):
            i, f, g, o = (now + F.linear(h, weight, bias)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        return outputs


class RecurrentFeatures(nn.Module):
    """Shapes: x ``[n, channels, T]`` or ``[n, T]`` -> features ``[n, hidden]``, or ``[n, T, hidden]`` of all positions.

    Args:
        entry: the first layer.
        cells: see :class:`GRU`.
        pooling: what is left of the positions; all if None.
    """

    def __init__(self, entry: Tokens | Series, cells: GRU | LSTM, pooling: Pooling | None) -> None:
        super().__init__()
        self.entry, self.cells, self.pooling = entry, cells, pooling

    def forward(self, x: Tensor) -> Tensor:
        """The features."""
        return pooled(self.cells(self.entry(x)), self.entry.real(x), self.pooling)


class _RecurrentChoice(SequenceChoice):
    kind: ClassVar[type[GRU | LSTM]]

    hidden: PositiveInt = 64
    layers: PositiveInt = 1
    width: PositiveInt = 32

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Features of series or sentences, and a head."""
        entry, inputs = self.entry(shape, classes, self.width)
        cells = self.kind(inputs, self.hidden, self.layers, batch_first=True)
        return WithHead(RecurrentFeatures(entry, cells, self.pool()), self.hidden, classes)


class GRUChoice(_RecurrentChoice):
    """Gated recurrent units over a series ``[channels, T]`` or token ids ``[T]``.

    Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation", 2014
    (arXiv 1406.1078), in torch's form.

    Attributes:
        hidden: numbers of the state.
        layers: one on top of another.
        width: of a token's vector.
    """

    kind: ClassVar[type[GRU | LSTM]] = GRU

    name: str = "gru"


class LSTMChoice(_RecurrentChoice):
    """Long short-term memory over a series ``[channels, T]`` or token ids ``[T]``.

    Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997, in torch's form, which has forget gates.

    Attributes:
        hidden: numbers of the state.
        layers: one on top of another.
        width: of a token's vector.
    """

    kind: ClassVar[type[GRU | LSTM]] = LSTM

    name: str = "lstm"


def _unrolled(module: GRU | LSTM, x: Tensor) -> Tensor:
    """All layers, cell by cell, of linear and elementwise operations alone: torch's own have no rule for vmap."""
    for layer in range(module.num_layers):
        inputs = F.linear(x, getattr(module, f"weight_ih_l{layer}"), getattr(module, f"bias_ih_l{layer}"))
        x = torch.stack(module.cells(layer, inputs), 1)
    return x


def _mapped() -> bool:
    """Whether one of ``torch.func``'s transforms is under way."""
    return torch._C._functorch.peek_interpreter_stack() is not None
