"""Server optimisers: the mean of the uploads as a pseudo-gradient step (Reddi et al. 2021, arXiv 2003.00295).

Differs from Flower's FedAdam, FedYogi and FedAdagrad, by default: those begin with v = 0, where the paper has
v = τ², and FedAdam corrects for bias, which the paper's Algorithm 2 does not. ``initial_v = 0`` and
``bias_correction = true`` give Flower's numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, SerializeAsAny, field_validator

from fedtl.choice import Choice, ConfigError, Registry, resolve, shown, validate

Vector = NDArray[np.float32]
OptimizerState = dict[str, Vector]

SERVER_OPTIMIZERS: Registry = {
    "momentum": "fedtl.strategies.server_optimizer:Momentum",
    "adagrad": "fedtl.strategies.server_optimizer:Adagrad",
    "adam": "fedtl.strategies.server_optimizer:Adam",
    "yogi": "fedtl.strategies.server_optimizer:Yogi",
}


class ServerOptimizer(Choice):
    """How the server moves along Δ = mean - w."""

    lr: float = Field(1.0, gt=0)

    def step(self, w: Vector, delta: Vector, state: OptimizerState, round: int) -> Vector:
        """The next w ``[d]``; ``state`` is changed in place and survives between rounds."""
        raise NotImplementedError


class Momentum(ServerOptimizer):
    """FedAvgM (Hsu et al. 2019, arXiv 1909.06335): m ← βm + Δ; w ← w + η m."""

    momentum: float = Field(0.9, ge=0, lt=1)

    def step(self, w: Vector, delta: Vector, state: OptimizerState, round: int) -> Vector:
        """One step along the accumulated Δ."""
        m = self.momentum * state["m"] + delta if "m" in state else delta
        state["m"] = m
        return w + np.float32(self.lr) * m


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

    def second_moment(self, v: Vector, square: Vector) -> Vector:
        """The next v, given Δ²."""
        raise NotImplementedError

    def step(self, w: Vector, delta: Vector, state: OptimizerState, round: int) -> Vector:
        """One adaptive step."""
        first_v = self.tau**2 if self.initial_v is None else self.initial_v
        m = self.beta1 * state.get("m", np.zeros_like(w)) + (1 - self.beta1) * delta
        v = self.second_moment(state.get("v", np.full_like(w, first_v)), delta**2)
        state["m"], state["v"] = m, v
        return np.asarray(w + self.rate(round) * m / (np.sqrt(v) + self.tau), np.float32)

    def rate(self, round: int) -> float:
        """η of this round."""
        return self.lr


class Adagrad(Adaptive):
    """FedAdagrad: v ← v + Δ²."""

    def second_moment(self, v: Vector, square: Vector) -> Vector:
        """The sum of squares."""
        return v + square


class Yogi(Adaptive):
    """FedYogi: v ← v - (1 - β2) Δ² sign(v - Δ²)."""

    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.99, ge=0, lt=1)

    def second_moment(self, v: Vector, square: Vector) -> Vector:
        """A mean of squares that forgets additively."""
        return np.asarray(v - (1 - self.beta2) * square * np.sign(v - square), np.float32)


class Adam(Adaptive):
    """FedAdam: v ← β2 v + (1 - β2) Δ²; bias_correction is Flower's, not the paper's."""

    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.99, ge=0, lt=1)
    bias_correction: bool = False

    def second_moment(self, v: Vector, square: Vector) -> Vector:
        """A mean of squares that forgets exponentially."""
        return np.asarray(self.beta2 * v + (1 - self.beta2) * square, np.float32)

    def rate(self, round: int) -> float:
        """η, or with bias correction η √(1 - β2^(t+1)) / (1 - β1^(t+1))."""
        if not self.bias_correction:
            return self.lr
        return float(self.lr * np.sqrt(1 - self.beta2 ** (round + 1)) / (1 - self.beta1 ** (round + 1)))


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
