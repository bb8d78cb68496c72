"""What a config may name by mistake."""

from __future__ import annotations

from typing import Any

from torch import nn

from fedtl.losses.term import Term

number = 5


def function() -> None:
    """No part of anything."""


def returns_none(classes: int) -> None:
    """No model."""


def exits(classes: int) -> nn.Module:
    """Ends the process."""
    raise SystemExit(3)


class Nothing:
    """No part of anything."""


class Lazy:
    """Its parts are not to be had."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"{name} is not to be had")


lazy = Lazy()


class NoValue(Term):
    """A term that has forgotten its value."""


class RaisesWhenRead(Term):
    """A term that cannot be made."""

    def __init__(self, **options: Any) -> None:
        raise KeyError("options")
