"""pFedMe."""

from __future__ import annotations

from typing import Any, ClassVar

from fedtl.clients.contract import ClientUpdate
from fedtl.clients.pfedme import PFedMe as PFedMeClient
from fedtl.clients.pfedme import PFedMeSettings
from fedtl.clients.settings import Settings
from fedtl.strategies.contract import Strategy, Uploads, Vectors


class PFedMe(Strategy):
    """pFedMe: personalised models by Moreau envelopes (Dinh, Tran, Nguyen 2020, arXiv 2006.08848, Algorithm 1).

    The server's step is w ← (1 - β) w + β mean_i(w_{i,R}); the clients' is in ``clients/pfedme.py``.
    """

    settings_type: ClassVar[type[Settings]] = PFedMeSettings
    client_update: ClassVar[type[ClientUpdate[Any]]] = PFedMeClient
    settings: PFedMeSettings

    def update(self, state: Vectors, uploads: Uploads, round: int) -> Vectors:
        """Line 11 of Algorithm 1: w ← (1 - β) w + β mean."""
        beta = self.settings.beta
        return {**state, "w": (1 - beta) * state["w"] + beta * uploads.mean("w")}
