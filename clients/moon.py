"""MOON: FedAvg with a contrast of representations."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat

from fedtl.clients.settings import Settings
from fedtl.clients.sgd import SGD, SGDSettings
from fedtl.losses.objective import with_term
from fedtl.losses.term import Term
from fedtl.losses.terms.drift import Moon as MoonTerm


class MoonSettings(SGDSettings):
    """Options of MOON: FedAvg's, and those of the term "moon".

    Attributes:
        mu: µ, the contrast's weight; the paper tries 0.1, 1, 5 and 10.
        tau: τ, the temperature of its cosine similarities.
        layer: whose outputs are the representation z: "features", what the head receives, or a submodule's name.
        projector: the width of a projection of z that stands beside the head, linear - ReLU - linear; 0 for none.
        previous: the last model of a client that trains for the first time: the run's "initial" one, or the one that it
            "received", with which it has no contrast in its first round.
    """

    same_in_phases: ClassVar[tuple[str, ...]] = (*SGDSettings.same_in_phases, "projector")

    mu: float = Field(1.0, ge=0)
    tau: PositiveFloat = 0.5
    layer: str = Field("features", min_length=1)
    projector: NonNegativeInt = 0
    previous: Literal["initial", "received"] = "initial"


class Moon(SGD):
    """Model-contrastive federated learning (Li, He, Song 2021, arXiv 2103.16257, Algorithm 1).

    SGD on the objective + µ ℓ_con, with z of the model in training, z_glob of the received one and z_prev of the
    client's own last one on the same samples:
    ℓ_con = -log(exp(cos(z, z_glob)/τ) / (exp(cos(z, z_glob)/τ) + exp(cos(z, z_prev)/τ))).

    The paper's z is the output of a projection head between encoder and output layer: take a model that ends in one,
    as a cnn with ``model.projection = 256``, whose "features" are then its outputs. With ``projector = 256`` the
    projection stands beside the head instead, which keeps the encoder's features.

    Differs from the paper: not at all, where the model ends in a projection. The paper does not say what the last model
    of a client is that has never trained; here it is the run's initial one, as in PFLlib. In its authors' code, which
    has no contrast in the first round either, it is a network of random numbers of the client's own.
    """

    settings_type: ClassVar[type[Settings]] = MoonSettings

    @classmethod
    def objective(cls, settings: Settings, terms: tuple[Term, ...]) -> tuple[Term, ...]:
        """With the contrast."""
        assert isinstance(settings, MoonSettings)
        o = settings
        options = {"tau": o.tau, "layer": o.layer, "projector": o.projector, "previous": o.previous}
        return with_term(terms, MoonTerm(term="moon", weight=o.mu, **options), o.name)

    @classmethod
    def unused(cls, settings: Settings) -> dict[str, str]:
        """What a contrast of weight 0 is of."""
        assert isinstance(settings, MoonSettings)
        return {} if settings.mu else dict.fromkeys(("tau", "layer", "previous"), "there is no contrast: mu = 0")
