"""LG-FedAvg: each client has a representation of its own, and the head is shared."""

from __future__ import annotations

from typing import ClassVar

from fedtl.clients.settings import Settings
from fedtl.clients.sgd import SGD, SGDSettings


class LGFedAvgSettings(SGDSettings):
    """FedAvg's options, and which part is local.

    Attributes:
        private: the local representation ℓ_m: all but the head.
    """

    private: tuple[str, ...] = ("features",)


class LGFedAvg(SGD):
    """SGD on a local representation and the global head at once (Liang et al. 2020, arXiv 2001.01523, Algorithm 1).

    (ℓ_m, g_m) ← SGD_m(ℓ_m, g) at each client m; the server receives the head alone, g ← Σ_m n_m / n g_m over the
    sampled clients. A client's own model is its own ℓ_m with the present g.

    Differs from the paper: its local losses on a representation alone (self-supervised, or against a protected
    attribute) are terms of the objective here, and none is there by default; the ℓ_m begin alike, unless
    ``private_start = "own"``; devices that were never seen are served by the first representation, and not by an
    ensemble of all devices'. Its authors' code takes the plain mean, ``weighting = "uniform"``, has a momentum of 0.5,
    and begins with a model that FedAvg has trained: ``model.pretrained``. On MNIST it shares the last three of the
    MLP's five layers, and on CIFAR-10 the two convolutions, while the linear layers stay, which is the other way round:
    ``private`` names the layers that stay. It chooses each client's round by the client's test samples.
    """

    settings_type: ClassVar[type[Settings]] = LGFedAvgSettings
    serves_untrained = True
