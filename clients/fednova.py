"""FedNova: local changes normalised by how far their steps reach."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from fedtl.clients.contract import Count, Gradient, Memory, Probe, State, Vectors
from fedtl.clients.settings import Settings
from fedtl.clients.sgd import PLAIN, SGD, SGDSettings
from fedtl.losses.batch import Batch
from fedtl.optimizers.settings import AveragingSettings


class FedNovaSettings(SGDSettings, AveragingSettings):
    """Options of FedNova, of its local SGD, and of a server optimiser.

    Attributes:
        mu: µ of a proximal term µ/2 ‖w - w^t‖² in the local losses; none if 0.
        effective_steps: τ_eff, which the paper leaves free: Σ p_i ‖a_i‖₁ ("norms"), which is FedAvg's own, or
            Σ p_i τ_i ("steps"), as its authors' code has it with a proximal term.
    """

    mu: float = Field(0.0, ge=0)
    effective_steps: Literal["norms", "steps"] = "norms"

    @model_validator(mode="after")
    def _normalisable(self) -> FedNovaSettings:
        if self.optimizer.without_rate().model_copy(update={"weight_decay": 0.0, "decayed": "all"}) != PLAIN:
            name = self.optimizer.name
            raise ValueError(
                f"optimizer = {name!r}: FedNova's ‖a_i‖₁ is known for SGD alone, with strategy.momentum and strategy.mu"
            )
        if self.mu and (self.lr_scale or self.schedule.varies):
            option = "lr_scale" if self.lr_scale else "schedule"
            raise ValueError(
                f"{option} and mu = {self.mu:g} exclude each other: a_i would change with the learning rate"
            )
        return self

    def norm(self, steps: int) -> float:
        """‖a_i‖₁ after so many steps: the sum of how far a gradient of 1 has moved w, in units of η, k steps later."""
        if not (self.momentum or self.mu):
            return float(steps)
        pull, total = self.optimizer.rate(self.lr) * self.mu, 0.0
        moved = velocity = 0.0
        for k in range(steps):
            velocity = self.momentum * velocity + (k == 0) - pull * moved
            moved += velocity
            total += abs(moved)
        return total


class FedNova(SGD):
    """A client's part of FedNova (Wang, Liu, Liang, Joshi, Poor 2020, arXiv 2007.07481).

    After τ_i local steps w^t - w_i = η Σ_k a_{i,k} g_i(w_{i,k}), so d_i = (w^t - w_i) / (η ‖a_i‖₁) is a mean of
    gradients whatever the number of steps. ‖a_i‖₁ is τ_i for SGD, Σ_k (1 - m^(τ_i - k)) / (1 - m) with momentum m, and
    (1 - (1 - ηµ)^τ_i) / (ηµ) with a proximal term µ. Instead of d_i the client sends w^t - η d_i, which is a model: so
    its batch-norm statistics are averaged as everybody's.

    Differs from the paper: not at all. Under momentum and a proximal term together a_i is what steps of both come to,
    where its authors' code adds one norm to the other.
    """

    settings_type: ClassVar[type[Settings]] = FedNovaSettings
    settings: FedNovaSettings

    @classmethod
    def unused(cls, settings: Settings) -> dict[str, str]:
        """Which number of steps counts, where there is one."""
        assert isinstance(settings, FedNovaSettings)
        more = settings.momentum or settings.mu
        return {} if more else {"effective_steps": "‖a_i‖₁ is τ_i without momentum and mu"}

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        """Begin from the global model, and remember it as w^t."""
        w = received["w"]
        return {"w": w, "anchor": w, **self.optimizer.init(w)}

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        """One step of SGD on the loss, or with µ on the loss and the proximal term."""
        w, mu = state["w"], self.settings.mu
        g = grad(w, batch)
        return self.move(state, g.add_(w - state["anchor"], alpha=mu) if mu else g)

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        """Send w^t - η d_i."""
        w = state["anchor"]
        return {"w": w - (w - state["w"]) / self.settings.norm(count.steps)}, {}
