"""The engines in float64: the cases' numbers are, and in float32 a wrong equation hides behind rounding.

fedtl trains in float32, and says so by name wherever it makes numbers. In the ``with`` block of :func:`in_float64`
that name means float64, in torch and in NumPy; the code that runs is the one that ships. What is imported there for the
first time keeps what the name meant: a process that has been in one is not for anything else afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def in_float64() -> Iterator[None]:
    """Whoever asks for float32 is given float64."""
    single, double = torch.float32, torch.float64
    numpy_single, numpy_double = np.float32, np.float64
    default = torch.get_default_dtype()
    torch.set_default_dtype(double)
    torch.float32, np.float32 = double, numpy_double  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        torch.float32, np.float32 = single, numpy_single  # type: ignore[misc,assignment]
        torch.set_default_dtype(default)
