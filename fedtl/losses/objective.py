"""The local objective: a weighted sum of terms, over one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from fedtl.choice import ConfigError, Registry, resolve, validate
from fedtl.losses.term import Term, View

TERMS: Registry = {
    "cross_entropy": "fedtl.losses.classification:CrossEntropy",
    "l2": "fedtl.losses.classification:L2",
}

PROVIDED = frozenset({"features"})
"""What a client can offer a term beyond logits, labels and parameters."""


def read_objective(tables: Sequence[Mapping[str, Any]]) -> tuple[Term, ...]:
    """Read the config's ``[[objective]]`` tables; none at all means cross-entropy alone."""
    terms = []
    for i, table in enumerate(tables or [{"term": "cross_entropy"}]):
        key = f"objective[{i}]"
        kind = resolve(TERMS, table.get("term"), f"{key}.term")
        if not (isinstance(kind, type) and issubclass(kind, Term)):
            raise ConfigError(f"{key}.term = {table['term']!r}: it is no subclass of fedtl.losses.term.Term")
        term = validate(kind, table, key)
        for need in sorted(term.needs - PROVIDED):
            raise ConfigError(
                f"{key}: the term {term.term!r} needs {need!r}; a client has {', '.join(sorted(PROVIDED))}"
            )
        terms.append(term)
    names = [term.term for term in terms]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"objective: the term {name!r} stands there twice; add their weights up")
    return tuple(terms)


class Objective:
    """Σ_j weight_j · term_j."""

    def __init__(self, terms: Sequence[Term]) -> None:
        self.terms = tuple(terms)
        self.names = tuple(term.term for term in terms)
        self.needs_features = any("features" in term.needs for term in terms)

    def __call__(
        self,
        labels: Tensor,
        weight: Tensor | None,
        forward: Callable[[], tuple[Tensor | None, Tensor]],
        parameters: Callable[[], Tensor],
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Evaluate on one client's mini-batch.

        Args:
            labels: ``[B]``.
            weight: ``[B]`` marks of samples (1) and padding (0), or None.
            forward: runs the model; gives (features ``[B, f]`` or None, logits ``[B, classes]``).
            parameters: gives the trainable parameters ``[P]``, attached to the gradient.

        Returns:
            The objective (a scalar to differentiate), and each term's value without its weight.
        """
        view = View(labels, weight, forward, parameters)
        values = tuple(term.value(view) for term in self.terms)
        total = values[0] if self.terms[0].weight == 1 else self.terms[0].weight * values[0]
        for term, value in zip(self.terms[1:], values[1:]):
            total = total + term.weight * value
        return total, values
