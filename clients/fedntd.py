"""FedNTD: FedAvg with not-true distillation."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, PositiveFloat

from fedtl.clients.settings import Settings
from fedtl.clients.sgd import SGD, SGDSettings
from fedtl.losses.objective import with_term
from fedtl.losses.term import Term
from fedtl.losses.terms.teaching import NotTrueDistillation


class FedNTDSettings(SGDSettings):
    """Options of FedNTD: FedAvg's, and those of the term "not_true_distillation".

    Attributes:
        beta: β, the distillation's weight.
        tau: τ, its temperature.
        scale_t2: whether the distillation is multiplied by τ².
    """

    beta: float = Field(1.0, ge=0)
    tau: PositiveFloat = 1.0
    scale_t2: bool = True


class FedNTD(SGD):
    """Federated not-true distillation (Lee et al. 2022, arXiv 2106.03097, Algorithm 1).

    SGD on the objective + β τ² KL(q^g ‖ q^l): q^l and q^g are what the model in training and the received one predict
    for the classes that a sample is not of, softmax of the logits divided by τ, the label's own left out. What the
    global model knows of classes that a client lacks is kept.

    Differs from the paper: the factor τ² is of its authors' code; at the paper's τ = 1 it is none, and
    ``scale_t2 = false`` leaves it out. Clients count by their samples, as in that code; ``weighting = "uniform"`` for
    the plain mean of Algorithm 1.
    """

    settings_type: ClassVar[type[Settings]] = FedNTDSettings

    @classmethod
    def objective(cls, settings: Settings, terms: tuple[Term, ...]) -> tuple[Term, ...]:
        """With the distillation."""
        assert isinstance(settings, FedNTDSettings)
        o = settings
        options = {"temperature": o.tau, "scale_t2": o.scale_t2}
        return with_term(terms, NotTrueDistillation(term="not_true_distillation", weight=o.beta, **options), o.name)

    @classmethod
    def unused(cls, settings: Settings) -> dict[str, str]:
        """All of a distillation of weight 0, and τ² at τ = 1."""
        assert isinstance(settings, FedNTDSettings)
        if not settings.beta:
            return dict.fromkeys(("tau", "scale_t2"), "nothing is distilled: beta = 0")
        return {"scale_t2": "τ² is 1 at tau = 1"} if settings.tau == 1 else {}
