"""FedAvg with a server optimiser, by the names of the papers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import SerializeAsAny, field_validator

from fedtl.clients.settings import Settings
from fedtl.optimizers import server
from fedtl.optimizers.server import ServerOptimizer
from fedtl.optimizers.settings import AveragingSettings
from fedtl.strategies.fedavg import FedAvg, FedAvgSettings


class FedOptSettings(FedAvgSettings):
    """FedAvg's options, and those of the method's own optimiser.

    Attributes:
        server: the method's own optimiser, for which the mean of the uploads is a pseudo-gradient; its options need no
            name, and another optimiser is another method.
    """

    server: SerializeAsAny[ServerOptimizer]

    @field_validator("server", mode="before")
    @classmethod
    def _read_server(cls, table: Any) -> Any:
        own = cls.model_fields["server"].default.name
        if isinstance(table, Mapping) and "name" not in table:
            table = {"name": own, **table}
        chosen = AveragingSettings._read_server(table)
        if getattr(chosen, "name", chosen) != own:
            raise ValueError(f"should be {own!r}, which this method is FedAvg with; take strategy.name = 'fedavg'")
        return chosen


class FedAvgMSettings(FedOptSettings):
    """FedAvg's options; ``server`` has the momentum β (0.9), the learning rate η (1), and Nesterov's form."""

    server: SerializeAsAny[ServerOptimizer] = server.FedAvgM(name="momentum")


class FedAdagradSettings(FedOptSettings):
    """FedAvg's options; ``server`` has η, τ, β1 and the initial v."""

    server: SerializeAsAny[ServerOptimizer] = server.FedAdagrad(name="adagrad")


class FedAdamSettings(FedOptSettings):
    """FedAvg's options; ``server`` has η, τ, β1, β2 and the initial v."""

    server: SerializeAsAny[ServerOptimizer] = server.FedAdam(name="adam")


class FedYogiSettings(FedOptSettings):
    """FedAvg's options; ``server`` has η, τ, β1, β2 and the initial v."""

    server: SerializeAsAny[ServerOptimizer] = server.FedYogi(name="yogi")


class FedAvgM(FedAvg):
    """FedAvgM: FedAvg with momentum at the server (Hsu, Qi, Brown 2019, arXiv 1909.06335).

    v ← β v + Δw and w ← w - η v, with Δw = Σ_i (n_i / n) (w - w_i). β and η stand in ``[strategy.server]``.

    Differs from the paper: not at all by default; its η is 1. Flower's reproduction of its experiments takes Nesterov's
    step, w ← w - η (Δw + β v): ``server.nesterov = true``.
    """

    settings_type: ClassVar[type[Settings]] = FedAvgMSettings


class FedAdagrad(FedAvg):
    """FedAdagrad: FedAvg with Adagrad at the server (Reddi et al. 2021, arXiv 2003.00295, Algorithm 2).

    m ← β1 m + (1 - β1) Δ, v ← v + Δ² and w ← w + η m / (√v + τ), element by element, with
    Δ = Σ_i (n_i / n) w_i - w; m begins with 0 and v with τ². η, β1 and τ stand in ``[strategy.server]``.

    Differs from the paper: clients count by their samples, as in its experiments; ``weighting = "uniform"`` for the
    algorithm's plain mean. Its authors' code begins with v = 0: ``server.initial_v = 0``.
    """

    settings_type: ClassVar[type[Settings]] = FedAdagradSettings


class FedAdam(FedAvg):
    """FedAdam: FedAvg with Adam at the server (Reddi et al. 2021, arXiv 2003.00295, Algorithm 2).

    m ← β1 m + (1 - β1) Δ, v ← β2 v + (1 - β2) Δ² and w ← w + η m / (√v + τ), element by element, with
    Δ = Σ_i (n_i / n) w_i - w; m begins with 0 and v with τ². η, β1, β2 and τ stand in ``[strategy.server]``.

    Differs from the paper: clients count by their samples, as in its experiments; ``weighting = "uniform"`` for the
    algorithm's plain mean. Its authors' code begins with v = 0 and corrects for bias, as Keras: set
    ``server.initial_v = 0`` and ``server.bias_correction = "keras"``.
    """

    settings_type: ClassVar[type[Settings]] = FedAdamSettings


class FedYogi(FedAvg):
    """FedYogi: FedAvg with Yogi at the server (Reddi et al. 2021, arXiv 2003.00295, Algorithm 2).

    m ← β1 m + (1 - β1) Δ, v ← v - (1 - β2) Δ² sign(v - Δ²) and w ← w + η m / (√v + τ), element by element, with
    Δ = Σ_i (n_i / n) w_i - w; m begins with 0 and v with τ². η, β1, β2 and τ stand in ``[strategy.server]``.

    Differs from the paper: clients count by their samples, as in its experiments; ``weighting = "uniform"`` for the
    algorithm's plain mean. Its authors' code begins with v = 0 and corrects for bias, as Keras: set
    ``server.initial_v = 0`` and ``server.bias_correction = "keras"``.
    """

    settings_type: ClassVar[type[Settings]] = FedYogiSettings
