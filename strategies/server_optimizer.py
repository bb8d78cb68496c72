"""Server optimisers: the mean of the uploads as a pseudo-gradient step (Reddi et al. 2021, arXiv 2003.00295).

Differs from Flower's FedAdam, FedYogi and FedAdagrad, by default: those begin with v = 0, where the paper has
v = τ², and FedAdam corrects for bias, which the paper's Algorithm 2 does not. ``initial_v = 0`` and
``bias_correction = true`` give Flower's numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import BaseModel, Field, SerializeAsAny, field_validator
from torch import Tensor

from fedtl.choice import Choice, ConfigError, Registry, resolve, shown, validate
from fedtl.server.exchange import Vectors

SERVER_OPTIMIZERS: Registry = {
    "momentum": "fedtl.strategies.server_optimizer:Momentum",
    "adagrad": "fedtl.strategies.server_optimizer:Adagrad",
    "adam": "fedtl.strategies.server_optimizer:Adam",
    "yogi": "fedtl.strategies.server_optimizer:Yogi",
}


class ServerOptimizer(Choice):
    """How the server moves along Δ = mean - w."""

    lr: float = Field(1.0, gt=0)

    def step(self, state: Vectors, delta: Tensor, round: int) -> Vectors:
        """The server's state with the next ``"w"`` ``[P]`` and what the optimiser remembers."""
        raise NotImplementedError


class Momentum(ServerOptimizer):
    """FedAvgM (Hsu et al. 2019, arXiv 1909.06335): m ← βm + Δ; w ← w + η m."""

    momentum: float = Field(0.9, ge=0, lt=1)

    def step(self, state: Vectors, delta: Tensor, round: int) -> Vectors:
        """One step along the accumulated Δ."""
        m = self.momentum * state["m"] + delta if "m" in state else delta
        return {**state, "w": state["w"] + self.lr * m, "m": m}


class Adaptive(ServerOptimizer):
    """m ← β1 m + (1 - β1) Δ; v by the kind; w ← w + η m / (√v + τ) (Algorithm 2 of Reddi et al.).

    Attributes:
        tau: τ, the degree of adaptivity.
        initial_v: v before the first round; τ² if not given.
    """

    lr: float = Field(0.1, gt=0)
    beta1: float = Field(0.0, ge=0, lt=1)
    tau: float = Field(1e-3, gt=0)
    initial_v: float | None = Field(None, ge=0)

    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        """The next v, given Δ²."""
        raise NotImplementedError

    def step(self, state: Vectors, delta: Tensor, round: int) -> Vectors:
        """One adaptive step."""
        w, first_v = state["w"], self.tau**2 if self.initial_v is None else self.initial_v
        m = self.beta1 * state.get("m", torch.zeros_like(w)) + (1 - self.beta1) * delta
        v = self.second_moment(state.get("v", torch.full_like(w, first_v)), delta**2)
        return {**state, "w": w + self.rate(round) * m / (root(v) + self.tau), "m": m, "v": v}

    def rate(self, round: int) -> float:
        """η of this round."""
        return self.lr


def root(v: Tensor) -> Tensor:
    """√v, correctly rounded: torch's float32 root is not, and differs between processors."""
    return v.double().sqrt().float()


class Adagrad(Adaptive):
    """FedAdagrad: v ← v + Δ²."""

    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        """The sum of squares."""
        return v + square


class Yogi(Adaptive):
    """FedYogi: v ← v - (1 - β2) Δ² sign(v - Δ²)."""

    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.99, ge=0, lt=1)

    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        """A mean of squares that forgets additively."""
        return v - (1 - self.beta2) * square * torch.sign(v - square)


class Adam(Adaptive):
    """FedAdam: v ← β2 v + (1 - β2) Δ²; bias_correction is Flower's, not the paper's."""

    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.99, ge=0, lt=1)
    bias_correction: bool = False

    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        """A mean of squares that forgets exponentially."""
        return self.beta2 * v + (1 - self.beta2) * square

    def rate(self, round: int) -> float:
        """η, or with bias correction η √(1 - β2^(t+1)) / (1 - β1^(t+1))."""
        if not self.bias_correction:
            return self.lr
        return float(self.lr * math.sqrt(1 - self.beta2 ** (round + 1)) / (1 - self.beta1 ** (round + 1)))


class AveragingSettings(BaseModel):
    """What strategies that average uploads offer besides: a server optimiser, ``[strategy.server]``."""

    server: SerializeAsAny[ServerOptimizer] | Literal["none"] = "none"

    @field_validator("server", mode="before")
    @classmethod
    def _read(cls, table: Any) -> Any:
        if table == "none" or isinstance(table, ServerOptimizer):
            return table
        table = {"name": table} if isinstance(table, str) else table
        if not isinstance(table, Mapping):
            raise ConfigError(
                f"strategy.server = {shown(table)}: give a table, as [strategy.server] name = 'adam', or a name"
            )
        kind = resolve(SERVER_OPTIMIZERS, table.get("name"), "strategy.server.name")
        if not (isinstance(kind, type) and issubclass(kind, ServerOptimizer)):
            raise ConfigError(
                f"strategy.server.name = {shown(table['name'])}: it is no subclass of "
                "fedtl.strategies.server_optimizer.ServerOptimizer"
            )
        return validate(kind, table, "strategy.server")
