"""Terms that see a model through the outputs of one of its layers, and through nothing else."""

from __future__ import annotations

from pydantic import Field
from torch import nn

from fedtl.losses.term import Term
from fedtl.models.head import head_name


class OfLayer(Term):
    """A term of one layer's outputs.

    Attributes:
        layer: "features" (the head's inputs), "logits", "probabilities", or a submodule's name.
    """

    layer: str = Field("features", min_length=1)

    def layers(self) -> frozenset[str]:
        """That one."""
        return frozenset({self.layer})

    def idle(self, model: nn.Module) -> str | None:
        """Where nothing trains before the head, and the term sees what comes before it alone."""
        return still_features(model) if self.layer == "features" and self.weight else None


def still_features(model: nn.Module) -> str | None:
    """A reason for which a term of features alone can do nothing: no parameter before the head trains; else None."""
    head = {id(parameter) for parameter in model.get_submodule(head_name(model)).parameters()}
    if any(parameter.requires_grad and id(parameter) not in head for parameter in model.parameters()):
        return None
    return f"it sees features alone, and no parameter of {type(model).__name__} trains before the head"
