"""Terms that hold a model near another one: in its parameters, or in its representations."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import ClassVar, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import Tensor, nn
from torch.func import functional_call

from fedtl import losses
from fedtl.losses.batch import Sizes
from fedtl.losses.term import Term, TermContext, module_name
from fedtl.losses.terms.layer import OfLayer
from fedtl.losses.terms.rows import over_samples


class Moon(OfLayer):
    """Model-contrastive learning (Li et al. 2021, MOON); see :func:`fedtl.losses.moon`. The term's weight is µ.

    z is compared with the received model's and with that of the client's own last model. In a client's first round
    the received model stands in for that one: the value is log 2, and its gradient 0; or the run's initial one does.

    The paper's z is the output of a projection head that stands between encoder and output layer. That is the default
    ``layer``, what the head receives, of a model that ends in such a projection. With ``projector`` the projection
    stands beside the head, which keeps the encoder's features.

    Differs from the authors' code by default: there, too, the first round has no contrast; but with partial
    participation a client that first takes part later is contrasted with a network of random numbers of its own. With
    the run's initial model it is ``previous = "initial"``, as in PFLlib.

    Attributes:
        layer: whose outputs are compared, or projected: "features", or as for "mmd".
        tau: temperature of the cosine similarities; the paper's is 0.5.
        projector: the projection's width, linear - ReLU - linear; 0 for none. The authors' is 256.
        previous: the last model of a client that has not trained yet: the one that it "received", or the "initial" one
            (after a restart, of a client that has not trained since, that of the restart).
    """

    per_sample: ClassVar[bool] = True
    beside: ClassVar[bool] = True
    of_modules: ClassVar[frozenset[str] | None] = frozenset({"projector", "layer"})

    tau: PositiveFloat = 0.5
    projector: NonNegativeInt = 0
    previous: Literal["received", "initial"] = "received"

    def wants(self) -> frozenset[str]:
        """Any samples, and the two models."""
        return frozenset({"samples", "model:global", f"model:{self._last}"})

    @property
    def _last(self) -> str:
        return "previous" if self.previous == "received" else "before"

    def idle_under(self, private: Collection[str], same: bool) -> str | None:
        """Where both models that it compares make the same of a sample: it pulls as much as it pushes."""
        if same:
            return "a client receives the model that it trained last, with which it is to be contrasted"
        if "features" in private and not self.projector and not self.layer.startswith("head"):
            return "all but the head stays at clients, so the received model's representations are the last one's"
        return None

    def brings(self) -> bool:
        """Whether it has a projector."""
        return self.projector > 0

    def modules(self, sizes: Sizes) -> dict[str, nn.Module]:
        """The projector, where there is one."""
        width = sizes.layers[self.layer]
        layers = (nn.Linear(width, width), nn.ReLU(), nn.Linear(width, self.projector or 1))
        return {"projector": nn.Sequential(*layers)} if self.projector else {}

    def value(self, context: TermContext) -> Tensor:
        """The mean contrast."""
        stream = context.stream("samples")
        z = stream.layer(self.layer)
        others = {model: stream.under(model).layer(self.layer) for model in ("global", self._last)}
        if self.projector:
            head = self.module(context, "projector")
            slots = context.net.slots(module_name(self, "projector"))
            z = head(z)
            for model, features in others.items():  # each model's representation through its own projector
                vector = context.external(f"model:{model}")
                numbers = {name: slot.view(vector) for name, slot in slots.items()}
                others[model] = functional_call(head, numbers, (features,))
        return over_samples(stream, partial(losses.moon, tau=self.tau), z, others["global"], others[self._last])


class Proximal(Term):
    """½‖w - w⁰‖² to the model that the client received (FedProx, Li et al. 2020), beside any method.

    See :func:`fedtl.losses.proximal`; the term's weight is µ. All trainable parameters count.

    Attributes:
        variant: "root" leaves the square out.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"samples", "model:global"})
    per_sample: ClassVar[bool] = True
    beside: ClassVar[bool] = True

    variant: Literal["paper", "root"] = "paper"

    def value(self, context: TermContext) -> Tensor:
        """Half the squared distance."""
        w = context.w
        return losses.proximal(w, context.external("model:global")[: w.numel()], 1.0, variant=self.variant)


class L2SP(Term):
    """Fine-tuning that stays near its start (Li et al. 2018, L²-SP); see :func:`fedtl.losses.l2_sp`.

    Attributes:
        anchor: the start: "initial", the run's first model (with its pretrained weights, where it has such), or
            "phase", the global model when the phase began.
        alpha: α, of the distance to the start.
        beta: β, of the head's own norm. Modules of terms are left alone.
        new_head: whether the head is new in this task; else it is held to its start as the rest is.
    """

    per_sample: ClassVar[bool] = True
    beside: ClassVar[bool] = True

    anchor: Literal["initial", "phase"] = "initial"
    alpha: NonNegativeFloat = 0.1
    beta: NonNegativeFloat = 0.01
    new_head: bool = True

    def without_use(self) -> Mapping[str, str]:
        """See :class:`~fedtl.losses.term.Term`."""
        return {**super().without_use(), **({} if self.new_head else {"beta": "new_head = false"})}

    def wants(self) -> frozenset[str]:
        """Any samples, and the start."""
        return frozenset({"samples", f"model:{self.anchor}"})

    def value(self, context: TermContext) -> Tensor:
        """α/2 ‖w_S - w_S⁰‖² + β/2 ‖w_head‖²."""
        w, start = context.w, context.external(f"model:{self.anchor}")
        head = set(context.net.slots("head").values()) if self.new_head else set()
        slots = [slot for slot in context.net.slots("model").values() if slot.stop <= w.numel()]
        kept = [(slot.start, slot.stop) for slot in slots if slot not in head]
        new = [w[slot.start : slot.stop] for slot in slots if slot in head]
        near = [start[a:b] for a, b in kept]
        if not kept:  # a model that is all head
            return self.beta / 2 * sum((part.square().sum() for part in new), 0 * w.sum())
        return losses.l2_sp([w[a:b] for a, b in kept], near, self.alpha, head=new or None, beta=self.beta)
