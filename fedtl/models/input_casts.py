"""What a model makes whole numbers of: of its input, as one that looks words up by number, or of something else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten: Any = torch.ops.aten

ROUNDING = {aten.round, aten.floor, aten.ceil, aten.trunc, aten.round_, aten.floor_, aten.ceil_, aten.trunc_}
"""What makes numbers whole that stand for the input's."""

KEEPING = {
    *(aten.clone, aten._to_copy, aten.copy, aten.copy_, aten.cat, aten.stack, aten.index, aten.index_select),
    *(aten.gather, aten.masked_select, aten.repeat, aten.flip, aten.roll, aten.constant_pad_nd),
    *(aten.clamp, aten.clamp_, aten.clamp_min, aten.clamp_min_, aten.clamp_max, aten.clamp_max_),
    *(aten.relu, aten.relu_, aten.nan_to_num, aten.nan_to_num_, aten.where, aten.masked_fill, aten.masked_fill_),
}
"""What moves numbers or bounds them, and computes no others; views share their tensor's memory."""


class InputCasts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """In the ``with`` block it is noted which of the input's numbers are made integers.

    By where they come from and not by their values: a model may well make 0, 1, 2 of something that it computed.

    Attributes:
        any: whether some of the input's numbers became integers.
        of_fractions: whether some of these were no whole numbers.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.any = self.of_fractions = False
        # By memory: whether fractions were rounded there. The tensors are kept, or their memory would be used again.
        self._rounded: dict[int, bool] = {}
        self._kept: list[Tensor] = []

    def watched(self, x: Tensor) -> Tensor:
        """A copy of the input ``x``, with which the model is to be called."""
        x = x.clone()
        self._note(x, rounded=False)
        return x

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation, and note what it does with the input's numbers."""
        operation = getattr(func, "overloadpacket", None)
        sources = [t for t in _tensors(args) if _memory(t) in self._rounded]
        rounded = any(self._rounded[_memory(t)] for t in sources)
        if operation in ROUNDING:
            rounded |= any(_has_fractions(t) for t in sources)
        if operation is aten._to_copy and sources:
            (x,) = sources
            dtype = (kwargs or {}).get("dtype")
            if x.is_floating_point() and dtype in _INTEGERS:
                self.any = True
                self.of_fractions |= rounded or _has_fractions(x)
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.is_floating_point():
            if sources and (operation in ROUNDING or operation in KEEPING):
                self._note(result, rounded)
            elif operation is not None and func._schema.is_mutable:
                self._rounded.pop(_memory(result), None)  # other numbers are there now
        return result

    def _note(self, x: Tensor, rounded: bool) -> None:
        if _memory(x):
            self._rounded[_memory(x)] = rounded
            self._kept.append(x)


_INTEGERS = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}


def _memory(x: Tensor) -> int:
    """Where its numbers are; 0 of one that has none, or has them in several places."""
    return x.untyped_storage().data_ptr() if x.layout == torch.strided else 0


def _has_fractions(x: Tensor) -> bool:
    return not torch.equal(x, x.round())


def _tensors(args: Any) -> list[Tensor]:
    flat = [each for arg in args for each in (arg if isinstance(arg, (list, tuple)) else [arg])]
    return [each for each in flat if isinstance(each, Tensor)]
