"""GRU and LSTM, as torch has them, also where clients are stacked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from fedtl.models.sequences import Pooling, SequenceChoice, Series, Tokens, pooled
from fedtl.models.with_head import WithHead


class GRU(nn.GRU):
    """Torch's GRU, whose outputs are all positions' ``[n, T, hidden]``; ``torch.func.vmap`` goes through it as well."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Outputs of all positions, from a state of 0."""
        if _mapped():
            return _unrolled(self, x)
        outputs: Tensor = super().forward(x)[0]
        return outputs

    def cell(self, of_input: Tensor, of_state: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The next state ``[n, hidden]``, and what an LSTM keeps besides.

        Args:
            of_input: what a linear layer makes of the position, ``[n, gates * hidden]``.
            of_state: what another makes of the state, likewise.
            h: the state.
            c: the rest of an LSTM's.
        """
        reset, update, new = of_input.chunk(3, 1)
        of_reset, of_update, of_new = of_state.chunk(3, 1)
        r, z = torch.sigmoid(reset + of_reset), torch.sigmoid(update + of_update)
        n = torch.tanh(new + r * of_new)
        return n + z * (h - n), c


class LSTM(nn.LSTM):
    """Likewise."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Outputs of all positions, from a state of 0."""
        if _mapped():
            return _unrolled(self, x)
        outputs: Tensor = super().forward(x)[0]
        return outputs

    def cell(self, of_input: Tensor, of_state: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`GRU`."""
        i, f, g, o = (of_input + of_state).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


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

    def without_use_on(self, shape: tuple[int, ...]) -> Mapping[str, str]:
        """See :class:`~fedtl.models.settings.ModelChoice`."""
        series = len(shape) == 2
        return {"width": f"samples of shape {list(shape)} are series, not token ids"} if series else {}

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
        weight, bias = getattr(module, f"weight_hh_l{layer}"), getattr(module, f"bias_hh_l{layer}")
        inputs = F.linear(x, getattr(module, f"weight_ih_l{layer}"), getattr(module, f"bias_ih_l{layer}"))
        h = c = inputs.new_zeros(len(inputs), module.hidden_size)
        outputs = list[Tensor]()
        for now in inputs.unbind(1):
            h, c = module.cell(now, F.linear(h, weight, bias), h, c)
            outputs.append(h)
        x = torch.stack(outputs, 1)
    return x


def _mapped() -> bool:
    """Whether one of ``torch.func``'s transforms is under way."""
    return torch._C._functorch.peek_interpreter_stack() is not None
