"""The keys of ``[strategy]`` that choose an optimiser and its learning rates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field, SerializeAsAny, field_validator

from fedtl.choice import read_choice
from fedtl.optimizers import OPTIMIZERS, SCHEDULES, SERVER_OPTIMIZERS
from fedtl.optimizers.local import SGD, Optimizer
from fedtl.optimizers.schedules import Constant, Schedule
from fedtl.optimizers.server import ServerOptimizer


class OptimizerSettings(BaseModel):
    """What methods with local steps offer besides.

    Attributes:
        optimizer: of each client; a table, or a name alone.
        clip_norm: the greatest norm of a client's gradient, over all of its vector; any if not given.
        schedule: of the learning rate over the rounds; a table, or a name alone.
        lr_scale: factors of the learning rate by the names of the model's parts: "head", "features", "batch-norm", a
            submodule's name, or that of a term's own module, as "dann_discriminator".
    """

    optimizer: SerializeAsAny[Optimizer] = SGD(name="sgd")
    clip_norm: float | None = Field(None, gt=0)
    schedule: SerializeAsAny[Schedule] = Constant(name="constant")
    lr_scale: dict[str, float] = Field(default_factory=dict)

    @field_validator("optimizer", mode="before")
    @classmethod
    def _read_optimizer(cls, table: Any) -> Optimizer:
        return read_choice(Optimizer, OPTIMIZERS, table, "strategy.optimizer", "{ name = 'adam' }")

    @field_validator("schedule", mode="before")
    @classmethod
    def _read_schedule(cls, table: Any) -> Schedule:
        return read_choice(Schedule, SCHEDULES, table, "strategy.schedule", "{ name = 'cosine' }")

    @field_validator("lr_scale", mode="before")
    @classmethod
    def _positive_factors(cls, table: Any) -> Any:
        if not isinstance(table, Mapping):
            raise ValueError("should be a table of parts and factors, as { head = 10.0 }")
        for part, factor in table.items():
            if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < float("inf"):
                hint = "; to leave a part as it is, name it in strategy.frozen" if factor == 0 else ""
                raise ValueError(f"the factor of {part!r} should be a number greater than 0, as 10.0{hint}")
        return table


class AveragingSettings(BaseModel):
    """What strategies that average uploads offer besides: a server optimiser, ``[strategy.server]``.

    Attributes:
        server: the optimiser, for which the mean of the uploads is a pseudo-gradient; "none" to take the mean itself.
    """

    server: SerializeAsAny[ServerOptimizer] | Literal["none"] = "none"

    @field_validator("server", mode="before")
    @classmethod
    def _read_server(cls, table: Any) -> Any:
        if table == "none":
            return table
        return read_choice(
            ServerOptimizer, SERVER_OPTIMIZERS, table, "strategy.server", "[strategy.server] name = 'adam'"
        )
