"""Plain local SGD: FedAvg's client."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fedtl.clients.contract import ClientUpdate, Gradient, State
from fedtl.clients.settings import Settings
from fedtl.losses.batch import Batch
from fedtl.optimizers import local
from fedtl.optimizers.settings import OptimizerSettings
from fedtl.optimizers.stepper import Stepper

PLAIN = local.SGD(name="sgd")


class SGDSettings(Settings, OptimizerSettings):
    """Options of local training by an optimiser, SGD if no other is named.

    Attributes:
        momentum: heavy-ball momentum within a round, as in ``torch.optim.SGD``; starts anew each round.
        weight_decay: adds ``weight_decay * w`` to the gradient.
    """

    momentum: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _one_momentum(self) -> SGDSettings:
        for key in ("momentum", "weight_decay"):
            if (value := getattr(self, key)) and "optimizer" in self.model_fields_set and self.optimizer != PLAIN:
                name = self.optimizer.name
                raise ValueError(
                    f"{key} = {value:g} is of the plain SGD that needs no optimizer, and optimizer.name = {name!r}: "
                    f"leave {key} out (an optimizer has a weight_decay of its own, and 'sgd' a momentum)"
                )
        return self


class SGD(ClientUpdate[SGDSettings]):
    """w ← w - η ∇f_i(w; batch), or another optimiser's step (McMahan et al. 2017, ClientUpdate of Algorithm 1)."""

    settings_type: ClassVar[type[Settings]] = SGDSettings

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        """One step of SGD."""
        return self.move(state, grad(state["w"], batch))

    def move(
        self, state: State, g: Tensor, of: str = "w", by: Stepper | None = None, decay: Tensor | None = None
    ) -> State:
        """One step of the vector ``of`` along its gradient ``g``, which is used up.

        As in torch, the gradient is clipped before weight decay and momentum.

        Args:
            state: has the vector.
            g: of the vector's shape.
            of: its name.
            by: the optimiser; the method's if None.
            decay: the factor by which each number of the vector is added to its gradient, of its shape; 0 if None.
        """
        options, velocity = self.settings, "velocity" if of == "w" else f"velocity_{of}"
        stepper = by or self.optimizer
        g = stepper.clipped(g)
        if decay is not None:
            g.add_(decay * state[of])
        if options.weight_decay:
            g.add_(state[of], alpha=options.weight_decay)
        if options.momentum:
            g = state[velocity].mul_(options.momentum).add_(g) if velocity in state else g
            state = {**state, velocity: g}
        return stepper.step(state, g, of, clipped=True)

    def where_moving(self, state: State, estimate: Tensor, before: Tensor) -> Tensor:
        """What was estimated by dividing a round's move by its learning rate.

        Where a schedule has brought the rate to 0 no step tells anything, and it stays as it was ``before``.
        """
        rate = self.optimizer.rate(state)
        return torch.where(rate == 0, before, estimate) if isinstance(rate, Tensor) else estimate
