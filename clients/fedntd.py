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
    """

    beta: float = Field(1.0, ge=0)
    tau: PositiveFloat = 1.0


class FedNTD(SGD):
    """Federated not-true distillation (Lee et al. 2022, arXiv 2106.03097, Algorithm 1).

    SGD on the objective + β τ² KL(q^g ‖ q^l): q^l and q^g are what the model in training and the received one predict
    for the classes that a sample is not of, softmax of the logits divided by τ, the label's own left out. What the
    global model knows of classes that a client lacks is kept.

    Differs from the paper: not at all.
    """

    settings_type: ClassVar[type[Settings]] = FedNTDSettings

    @classmethod
    def objective(cls, settings: Settings, terms: tuple[Term, ...]) -> tuple[Term, ...]:
        """With the distillation."""
        assert isinstance(settings, FedNTDSettings)
        term = NotTrueDistillation(term="not_true_distillation", weight=settings.beta, temperature=settings.tau)
        return with_term(terms, term, settings.name)
