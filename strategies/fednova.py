"""FedNova."""

from __future__ import annotations

from typing import Any, ClassVar

from fedtl.clients.contract import ClientUpdate
from fedtl.clients.fednova import FedNova as FedNovaClient
from fedtl.clients.fednova import FedNovaSettings
from fedtl.clients.settings import Settings
from fedtl.engine.plan import share_of_work
from fedtl.strategies.contract import Strategy, Uploads, Vectors


class FedNova(Strategy):
    """FedNova: normalised averaging for clients of unlike numbers of steps (Wang et al. 2020, arXiv 2007.07481).

    w ← w - τ_eff Σ p_i η d_i with p_i = n_i / n over the sampled clients; with ``[strategy.server]`` the server's
    optimiser takes -τ_eff Σ p_i η d_i as its Δ. How many steps a client takes follows from its number of samples, and
    who stops early from the seed, so nobody sends it. The clients' part is in ``clients/fednova.py``.
    """

    settings_type: ClassVar[type[Settings]] = FedNovaSettings
    client_update: ClassVar[type[ClientUpdate[Any]]] = FedNovaClient
    settings: FedNovaSettings

    def steps_of(self, client: int, samples: int, round: int) -> int:
        """τ_i, how many local steps a client of so many samples takes in a round."""
        share = share_of_work(self.settings.stragglers, self.seed, round, int(self.seen[client]))
        return len(self.settings.budget.of_share(share).step_sizes(samples))

    def effective_steps(self, uploads: Uploads, round: int) -> float:
        """τ_eff."""
        o = self.settings
        steps = [self.steps_of(client, samples, round) for client, samples in zip(uploads.clients, uploads.samples)]
        weights = uploads.samples if o.weighting == "samples" else [1] * len(steps)
        norms = steps if o.effective_steps == "steps" else [o.norm(each) for each in steps]
        return sum(weight * each for weight, each in zip(weights, norms)) / sum(weights)

    def update(self, state: Vectors, uploads: Uploads, round: int) -> Vectors:
        """The mean of what was sent is w - Σ p_i η d_i."""
        w, server = state["w"], self.settings.server
        moved = w + self.effective_steps(uploads, round) * (uploads.mean("w") - w)
        return {**state, "w": moved} if server == "none" else server.step(state, moved, round)
