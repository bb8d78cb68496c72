"""FedSAM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import PositiveInt
from torch import Tensor

from fedtl.clients.contract import ClientUpdate
from fedtl.clients.fedsam import SAM, SAMSettings
from fedtl.clients.settings import Settings
from fedtl.optimizers.settings import AveragingSettings
from fedtl.strategies import iterates
from fedtl.strategies.contract import Download, Uploads, Vectors
from fedtl.strategies.fedavg import FedAvg


class FedSAMSettings(SAMSettings, AveragingSettings):
    """Options of FedSAM: those of the clients' minimisation, a server optimiser's, and of averaging over the rounds.

    Attributes:
        swa_from: the first round whose model is averaged; none if not given. The paper begins after three quarters of
            the T rounds; its authors' code averages the models of rounds ⌊0.75 T⌋ + c + 1, ⌊0.75 T⌋ + 2 c + 1, …
        swa_every: c, of how many rounds one is averaged.
    """

    swa_from: PositiveInt | None = None
    swa_every: PositiveInt = 1


class FedSAM(FedAvg):
    """FedAvg of clients that seek flat minima (Qu et al. 2022, arXiv 2206.02618; Caldarola et al. 2022, 2203.11834).

    With ``adaptive`` it is the second's FedASAM. With ``swa_from`` the server keeps its stochastic weight average
    besides: w_SWA ← (n w_SWA + w) / (n + 1) every c rounds. Clients go on from w; scores, exports and the final model
    are of w_SWA. Batch-norm's running statistics are those of w. An average begins and ends with the phases that have
    ``swa_from``.

    Differs from the first paper: clients count by their samples, as in the second; ``weighting = "uniform"`` for its
    plain mean. Differs from the second: no learning rate changes with the averages, unless ``schedule`` says so. Its
    cycles are the schedule "cyclical"; its authors' code averages the model one round after a cycle's end.
    """

    settings_type: ClassVar[type[Settings]] = FedSAMSettings
    client_update: ClassVar[type[ClientUpdate[Any]]] = SAM
    settings: FedSAMSettings

    def first_state(self, w: Tensor) -> Vectors:
        """The model to train besides the one to score, where the two differ, and how many were averaged."""
        return iterates.with_average(w) if self._averages else super().first_state(w)

    def send(self, state: Vectors, clients: Sequence[int], round: int) -> Download:
        """The model to train."""
        return Download({"w": iterates.trained(state, self._averages)})

    def send_to_score(self, state: Vectors, clients: Sequence[int], round: int) -> Download:
        """The average."""
        return Download({"w": state["w"]})

    def update(self, state: Vectors, uploads: Uploads, round: int) -> Vectors:
        """FedAvg's step, and the average's."""
        first, every = self.settings.swa_from, self.settings.swa_every
        if first is None:
            return super().update(state, uploads, round)
        new = super().update({**state, "w": iterates.trained(state, True)}, uploads, round)
        counts = round >= first and not (round - first) % every
        return {**new, **iterates.averaged(state, new["w"], counts)}

    def with_other_options(self, state: Vectors, before: Settings) -> Vectors:
        """With an average besides, or without one."""
        assert isinstance(before, FedSAMSettings)
        state = super().with_other_options(state, before)
        return iterates.entered(state, before.swa_from is not None, self._averages)

    @property
    def _averages(self) -> bool:
        """Whether models of several rounds are averaged."""
        return self.settings.swa_from is not None

    @classmethod
    def unused(cls, settings: Settings) -> dict[str, str]:
        """What only ASAM and averaging have."""
        assert isinstance(settings, FedSAMSettings)
        unused = super().unused(settings)
        if not settings.adaptive:
            unused |= dict.fromkeys(("eta", "adaptive_biases"), "these are options of ASAM: set adaptive = true")
        if not settings.rho:
            unused |= dict.fromkeys(("adaptive", "eta", "adaptive_biases"), "no step is perturbed: rho = 0")
        if settings.swa_from is None:
            unused["swa_every"] = "no models are averaged: set swa_from"
        return unused

    @classmethod
    def begins(cls, settings: Settings) -> dict[str, int]:
        """The averages."""
        assert isinstance(settings, FedSAMSettings)
        return {} if settings.swa_from is None else {"swa_from": settings.swa_from}
