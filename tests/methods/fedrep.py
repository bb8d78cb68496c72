"""FedRep (Collins et al. 2021, arXiv 2102.07078, Algorithm 1): steps of the head, then of the body; the head stays."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveInt

from fedtl.clients.contract import ClientUpdate, Gradient, Loop, State
from fedtl.clients.settings import Settings
from fedtl.losses.batch import Batch


class FedRepSettings(Settings):
    head_epochs: PositiveInt = 1
    private: tuple[str, ...] = ("head",)


class FedRep(ClientUpdate[FedRepSettings]):
    settings_type = FedRepSettings

    def loops(self) -> Sequence[Loop]:
        head = self.budget.of_epochs(self.settings.head_epochs)
        return Loop(self.step_of("head"), head), Loop(self.step_of("features"), self.budget)

    def step_of(self, part: str):  # type: ignore[no-untyped-def]
        mask = self.layout.mask(part)

        def step(state: State, batch: Batch, grad: Gradient) -> State:
            w = state["w"]
            w.sub_(grad(w, batch).mul_(mask.to(w.device)), alpha=self.settings.lr)
            return state

        return step
