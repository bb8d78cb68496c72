"""What a term of the local objective is, and what it says it needs."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from fedtl.choice import Options
from fedtl.losses.aggregate import ClientAggregate
from fedtl.losses.batch import Batch, Sizes
from fedtl.losses.context import Layers, Net, TermContext

__all__ = ["Batch", "ClientAggregate", "Ramp", "Sizes", "Term", "TermContext"]


class Ramp(Options):
    """How a weight grows with the round's progress p, from 0 in the first round to 1 in the last.

    With p' = (p - start) / (end - start) between 0 and 1: ``"linear"``: p'; ``"dann"``:
    2 / (1 + exp(-gamma p')) - 1 (Ganin et al. 2016, section 5.2.2); ``"step"``: 0 before ``start``, then 1.
    """

    shape: Literal["linear", "dann", "step"] = "linear"
    gamma: float = Field(10.0, gt=0)
    start: float = Field(0.0, ge=0, le=1)
    end: float = Field(1.0, ge=0, le=1)

    def without_use(self) -> Mapping[str, str]:
        """See :class:`~fedtl.choice.Options`."""
        of_shape = {"linear": ["gamma"], "dann": [], "step": ["gamma", "end"]}[self.shape]
        return dict.fromkeys(of_shape, f"shape = {self.shape!r}")

    @model_validator(mode="after")
    def _goes_forward(self) -> Ramp:
        if self.shape != "step" and self.end <= self.start:
            raise ValueError(f"end = {self.end:g} should be greater than start = {self.start:g}")
        return self

    def at(self, p: Tensor) -> Tensor:
        """The factor at progress ``p``, of its shape."""
        if self.shape == "step":
            return (p >= self.start).to(p.dtype)
        within = ((p - self.start) / (self.end - self.start)).clamp(0, 1)
        return within if self.shape == "linear" else 2 / (1 + torch.exp(-self.gamma * within)) - 1


class Term(Options):
    """One summand of the local objective, as an ``[[objective]]`` table names it; subclasses add options.

    A term is written for one client's mini-batch; the stacked engine maps it over clients. It keeps no state,
    so that it means the same under any engine: progress, other models and statistics reach it through the view.

    Attributes:
        term: its kind: a row of the registry, or ``"package.module:Class"``.
        name: what the record calls it; the kind if not given. Two of one kind need two names.
        weight: what its value is multiplied by. With 0 it is evaluated and recorded, and trains nothing.
        ramp: lets the weight grow with the round's progress p, from 0 in the first round (of the phase) to 1 in the
            last: a table, or its shape alone. With p' from 0 at ``start`` (0) to 1 at ``end`` (1), "linear" is p',
            "dann" 2 / (1 + exp(-gamma p')) - 1 (``gamma`` is 10), and "step" 0 before ``start`` and then 1.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    """What it reads, as :data:`fedtl.losses.objective.NEEDS` lists; one that names no samples reads the source."""

    per_sample: ClassVar[bool] = False
    """Whether it is a mean over samples by themselves, taken with ``mean``: only then may a batch be padded."""

    constant: ClassVar[bool] = False
    """Whether the modules that it brings are numbers that follow from its options, and no other model."""

    beside: ClassVar[bool] = False
    """Whether it only holds or aligns a model that other terms teach to predict; an objective needs one of those."""

    tasks: ClassVar[frozenset[str] | None] = None
    """The tasks for which it is defined, by name; None: all."""

    of_modules: ClassVar[frozenset[str] | None] = None
    """The options that its modules, or its statistic, are made of: phases share these. None: all of its own."""

    term: str
    name: str | None = Field(None, min_length=1)
    weight: float = Field(1.0, ge=0)
    ramp: Ramp | None = None

    @field_validator("ramp", mode="before")
    @classmethod
    def _by_shape(cls, value: Any) -> Any:
        return {"shape": value} if isinstance(value, str) else value

    def without_use(self) -> Mapping[str, str]:
        """Options that do nothing beside the others, each with why; a run notes those that were asked for."""
        return {} if self.weight else {"ramp": "weight = 0"}

    @property
    def key(self) -> str:
        """What the record calls it."""
        return self.name or self.term

    def defined_for(self) -> frozenset[str] | None:
        """The tasks for which it is defined with these options, by name; None: all.

        What looks at probabilities, those of a softmax, is defined for classification.
        """
        return frozenset({"classification"}) if "probabilities" in self.layers() else self.tasks

    def wants(self) -> frozenset[str]:
        """What it needs, with these options."""
        return self.needs

    def layers(self) -> frozenset[str]:
        """Layers that it reads besides the logits: ``"features"``, or a submodule's name."""
        return frozenset({"features"} & self.wants())

    def modules(self, sizes: Sizes) -> dict[str, nn.Module]:
        """Trainable modules of its own (a discriminator, a projector); they are part of the model's vector."""
        return {}

    def private(self) -> frozenset[str]:
        """Which of its modules stay at the client."""
        return frozenset()

    def personal_module(self) -> str | None:
        """Which of its private modules maps samples to logits, and is scored as the client's own model."""
        return None

    def logits(self, net: Net, layers: Layers) -> Tensor | None:
        """The logits ``[B, k]`` of a predictor of the client's own, which the term's modules and the model make up.

        Training sees them in place of the model's, and so do all terms; a client's own model is scored by them. The
        global model, and models that stand still (``stream.under``), go without.

        Args:
            net: the model, and the term's modules in it.
            layers: what the model makes of the samples.

        Returns:
            None where the model itself is the predictor.
        """
        return None

    def draws(self) -> bool:
        """Whether it draws random numbers in training, torch's: clients then train one by one."""
        return False

    def frozen(self, sizes: Sizes) -> dict[str, nn.Module]:
        """Modules that never train nor travel (a teacher out of a file)."""
        return {}

    def statistic(self) -> ClientAggregate | None:
        """What clients send the server besides models, for this term's use in the next round."""
        return None

    def idle(self, model: nn.Module) -> str | None:
        """Why it can do nothing at all to this model, whose frozen parts stay as they are; None where it can."""
        return None

    def idle_under(self, private: Collection[str], same: bool) -> str | None:
        """Why it can do nothing under a method; None where it can.

        Args:
            private: the parts of the model that stay at clients.
            same: whether a client always receives the very model that it trained last.
        """
        return None

    def brings(self) -> bool:
        """Whether it has modules of its own, or asks clients for a statistic."""
        kind = type(self)
        own = kind.modules is not Term.modules or kind.frozen is not Term.frozen
        return own or self.statistic() is not None

    def value(self, context: TermContext) -> Tensor:
        """The term's value, a scalar tensor, not yet multiplied by ``weight``."""
        raise NotImplementedError

    def there(self, context: TermContext) -> Tensor | bool:
        """Whether the mini-batch has anything that the value is of: True, False, or a scalar of 1 or 0.

        Where it has not, the value is 0 for training's sake, and no part of the mean over mini-batches that is
        recorded. A term of which all mini-batches have something leaves this as it is.
        """
        return True

    def module(self, context: TermContext, name: str) -> nn.Module:
        """One of the term's own modules, trained or frozen."""
        return context.module(module_name(self, name))


def module_name(term: Term, name: str) -> str:
    """What a term's own module is called among all terms'."""
    return re.sub(r"\W", "_", f"{term.key}_{name}")
