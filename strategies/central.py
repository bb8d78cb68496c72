"""Central: no federation at all, the upper bound."""

from __future__ import annotations

from typing import ClassVar

from fedtl.clients.settings import Settings
from fedtl.strategies.fedavg import FedAvg


class Central(FedAvg):
    """Training on all clients' samples in one place: the upper bound that every table of results wants.

    SGD, or another optimiser, on Σ_i (n_i / n) f_i, which is FedAvg's objective: a sample that several clients hold
    counts as often. Client 0 stands for the place. A round of ``local_epochs`` is as many passes over all samples as a
    round of another method in which all clients take part; ``local_steps`` are so many mini-batches of the place, where
    another method takes as many at each client. The model is scored on each client's own test samples, as FedAvg's is.
    """

    pools: ClassVar[bool] = True

    @classmethod
    def unused(cls, settings: Settings) -> dict[str, str]:
        """What says how clients take part."""
        why = f"under {settings.name} all training samples are in one place"
        return {
            **super().unused(settings),
            "clients_per_round": why,
            "sampling": why,
            "stragglers": why,
            "weighting": why,
        }
