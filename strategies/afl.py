"""AFL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedtl.clients import afl
from fedtl.clients.afl import AFLSettings
from fedtl.clients.contract import ClientUpdate
from fedtl.clients.settings import Settings
from fedtl.strategies import iterates
from fedtl.strategies.contract import Download, Strategy, Uploads, Vectors


class AFL(Strategy):
    """AFL: agnostic federated learning, the worst mixture of clients (Mohri et al. 2019, arXiv 1902.00146).

    min_w max_λ Σ_i λ_i L_i(w) over all mixtures λ of the N clients, by w ← Σ_S λ_i w_i and
    λ ← Π(λ + γ_λ (L_1(w), …, L_N(w))), with Π the projection onto the simplex; λ begins uniform. What is scored and
    saved is the mean of all rounds' w, as Stochastic-AFL gives out; the last w, which may be better where losses are
    not convex, is ``output = "last"``. The clients' part is in ``clients/afl.py``.

    Differs from the paper: with partial participation λ counts among the sampled clients S alone, and its gradient is
    estimated by N/|S| times their losses, and 0 for the others. Λ is the whole simplex of those clients that can train
    in the present phase; what λ has of others, which could in the phase before, goes to these in equal parts.
    """

    settings_type: ClassVar[type[Settings]] = AFLSettings
    client_update: ClassVar[type[ClientUpdate[Any]]] = afl.AFL
    settings: AFLSettings

    def first_state(self, w: Tensor) -> Vectors:
        """The uniform mixture, 0 for clients that cannot train, and with an average the model to train besides."""
        models = iterates.with_average(w) if self._averages else {"w": w}
        mixture = torch.zeros(self.numbered)
        mixture[self.able] = 1 / max(self.population, 1)  # 0: a server that has not heard of its clients' samples
        return {**models, "mixture": mixture}

    def send(self, state: Vectors, clients: Sequence[int], round: int) -> Download:
        """The model, and how much each client counts: |S| λ_i / Σ_S λ ``[n, 1]``; all alike where none does."""
        own = self._mixture(state)[list(clients)]
        total = own.sum()
        share = own * len(own) / total if total > 0 else torch.ones_like(own)
        return Download({"w": iterates.trained(state, self._averages)}, {"share": share[:, None]})

    def send_to_score(self, state: Vectors, clients: Sequence[int], round: int) -> Download:
        """The model to score, for which nobody's share counts."""
        return Download({"w": state["w"]})

    def update(self, state: Vectors, uploads: Uploads, round: int) -> Vectors:
        """A step down in w and one up in λ."""
        mixture, able = self._mixture(state).clone(), torch.from_numpy(self.able)
        ascent = self.settings.mixture_lr * self.population / len(uploads.clients)
        mixture[list(uploads.clients)] += ascent * uploads.rows["loss"][:, 0]
        w = iterates.trained(state, self._averages)
        share = uploads.mean("share").clamp(min=1e-30)  # 1, if nobody has failed
        new = w + (uploads.mean("w") - w) / share
        models = iterates.averaged(state, new, True) if self._averages else {"w": new}
        mixture[able] = onto_simplex(mixture[able])
        return {**state, **models, "mixture": mixture}

    def with_other_options(self, state: Vectors, before: Settings) -> Vectors:
        """With a mean of the phase's rounds, or without one."""
        assert isinstance(before, AFLSettings)
        state = super().with_other_options(state, before)
        return iterates.entered(state, before.output == "average", self._averages)

    @property
    def _averages(self) -> bool:
        """Whether the mean of the rounds' models is scored."""
        return self.settings.output == "average"

    def _mixture(self, state: Vectors) -> Tensor:
        """The mixture λ of all clients, none of which is of one that cannot train in the present phase."""
        mixture, able = state["mixture"], torch.from_numpy(self.able)
        own = torch.zeros_like(mixture)
        own[able] = mixture[able]
        if not torch.equal(own, mixture):
            own[able] = onto_simplex(mixture[able])
        return own


def onto_simplex(v: Tensor) -> Tensor:
    """The nearest point ``[N]`` to ``v`` ``[N]`` whose numbers are at least 0 and sum to 1 (Duchi et al. 2008)."""
    ordered, places = v.double().sort(descending=True)[0], torch.arange(1, len(v) + 1)
    excess = (ordered.cumsum(0) - 1) / places
    last = int((ordered > excess).nonzero().max())
    return (v.double() - excess[last]).clamp(min=0).to(v.dtype)
