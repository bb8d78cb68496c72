"""FedBN: batch-norm layers stay at each client."""

from __future__ import annotations

from typing import ClassVar

from fedtl.clients.settings import Counted, Settings
from fedtl.clients.sgd import SGD, SGDSettings


class FedBNSettings(SGDSettings):
    """FedAvg's options, with what stays and what the mean is.

    Attributes:
        private: the batch-norm layers, with their weights, biases and running statistics.
        weighting: the paper takes the plain mean of the clients ("uniform").
    """

    private: tuple[str, ...] = ("batch-norm",)
    weighting: Counted = "uniform"


class FedBN(SGD):
    """SGD on all layers, of which batch-norm's are never averaged (Li et al. 2021, arXiv 2102.07623, Algorithm 1).

    w_k ← SGD_k(w_k); for each layer ℓ that is no batch-norm w_k^(ℓ) ← 1/|S| Σ_j w_j^(ℓ). A client's own model is the
    present mean with its own batch-norm layers, γ, β, and running mean and variance.

    Differs from the paper: there every client takes part in every round; here one that a round leaves out keeps its
    batch-norm layers, which are the first ones (mean 0, variance 1) until it has trained.
    """

    settings_type: ClassVar[type[Settings]] = FedBNSettings
    serves_untrained = True
