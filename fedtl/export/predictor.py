"""A client's own predictor that is a model with modules of a term in it, as FedCP's and GPFL's are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from fedtl.assemble.network import with_modules
from fedtl.choice import ConfigError, part_type, validate
from fedtl.data.schema import DataSchema
from fedtl.losses.context import Net
from fedtl.losses.objective import TERMS
from fedtl.losses.term import Term
from fedtl.models.composite import Composite
from fedtl.models.head import head_name, layer_outputs

CLASS, OPTIONS = "class", "options"
"""In an exported file: the term's class, and its options."""


class Predictor(Composite):
    """A model and a term's modules; as a function it is what the term makes of both: see :meth:`Term.logits`."""

    def __init__(self, parts: Composite, term: Term) -> None:
        super().__init__(parts.model, dict(parts.extras))
        self._term = term

    def forward(self, x: Tensor) -> Tensor:
        """The predictor's logits ``[n, k]``."""
        logits = self._term.logits(cast(Net, _Parts(self)), layer_outputs(self.model, x, self._term.layers()))
        assert logits is not None
        return logits


class _Parts:
    """What of a :class:`~fedtl.losses.context.Net` a predictor is made of."""

    def __init__(self, parts: Composite) -> None:
        self._parts = parts

    def module(self, name: str) -> nn.Module:
        return self._parts.extras[name]

    def head(self) -> nn.Module:
        return self._parts.model.get_submodule(head_name(self._parts.model))


def described(term: Term) -> dict[str, Any]:
    """A term as an exported file names it."""
    kind = type(term)
    options = term.model_dump(mode="json", exclude_none=True)
    return {CLASS: f"{kind.__module__}:{kind.__qualname__}", OPTIONS: options}


def predictor_of(model: nn.Module, table: Mapping[str, Any], frame: DataSchema, what: str) -> Predictor:
    """A model with a term's modules as they begin.

    Args:
        model: as it begins.
        table: the term; see :func:`described`.
        frame: what the model takes and answers.
        what: is read, for messages.

    Raises:
        ConfigError: there is no such term, or it brings no modules.
    """
    kind = part_type(Term, TERMS, table.get(CLASS), f"{what}: predictor")
    term = validate(kind, table.get(OPTIONS) or {}, f"{what}: predictor")
    module, _, _ = with_modules(model, frame.without_samples(1), (term,), 0)
    if not isinstance(module, Composite):
        raise ConfigError(f"{what}: predictor: {table[CLASS]} brings no modules")
    return Predictor(module, term)
