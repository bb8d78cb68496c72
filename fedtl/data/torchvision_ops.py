"""Import torchvision where its compiled operators do not load."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

_declared: list[torch.library.Library] = []
"""Kept for the process's life: a declaration ends with its Library object."""


def import_torchvision() -> ModuleType:
    """The module ``torchvision``, also beside a torch that its operators were not compiled for.

    PyPI's torchvision is compiled for PyPI's CUDA build of torch. Beside a CPU build its library does not
    load, which it says nothing about, and then its Python code describes the operators ``nms`` and ``qnms``,
    which nobody has declared: ``operator torchvision::nms does not exist``. Only detection models call them;
    with an empty declaration everything else works. Where torchvision imports as it is, nothing is declared.
    """
    try:
        return _import()
    except RuntimeError as error:
        if not is_missing_operator(error):
            raise
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        signature = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library.define(signature)  # type: ignore[no-untyped-call]
    _declared.append(library)
    return _import()


def is_missing_operator(error: BaseException | None) -> bool:
    """Whether this is how torchvision's import fails for want of its compiled operators."""
    return isinstance(error, RuntimeError) and "operator torchvision::" in str(error)


def _import() -> ModuleType:
    # Submodules that a failed import left behind would be found, but not set as attributes of the new package.
    if "torchvision" not in sys.modules:
        for name in [name for name in sys.modules if name.startswith("torchvision.")]:
            del sys.modules[name]
    return importlib.import_module("torchvision")
