"""FedPer: base layers are shared, personalisation layers stay at each client."""

from __future__ import annotations

from typing import ClassVar, Literal

from fedtl.clients.settings import Settings
from fedtl.clients.sgd import SGD, SGDSettings


class FedPerSettings(SGDSettings):
    """FedAvg's options, and which layers are personal.

    Attributes:
        private: W_P, the personalisation layers, which stay at each client: the head, the paper's K_P = 1. More layers
            are named one by one, as ["head", "features.6"].
        private_start: each client initialises W_P,j at random by itself ("own", the paper's Algorithm 2), or all begin
            with the same values ("common"), as in FedRep's, PFLlib's and FL-bench's code.
    """

    private: tuple[str, ...] = ("head",)
    private_start: Literal["common", "own"] = "own"


class FedPer(SGD):
    """SGD on base and personalisation layers at once (Arivazhagan et al. 2019, arXiv 1912.00818, Algorithms 1 and 2).

    (W_B, W_P,j) ← SGD_j(W_B, W_P,j) at each client j; the server receives the base layers alone, W_B ← Σ_j γ_j W_B,j
    with γ_j = n_j / Σ n. A client's own model is the present W_B with its own W_P,j.

    Differs from the paper: there every client takes part in every round. A client that a round leaves out keeps its
    layers, which are the first ones until it has trained. Libraries and the code of FedRep's authors begin with the
    same layers at all clients: ``private_start = "common"``.
    """

    settings_type: ClassVar[type[Settings]] = FedPerSettings
    serves_untrained = True
