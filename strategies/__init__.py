"""Methods, server side: one file each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedtl.choice import ConfigError, Registry, resolve, shown, validate

if TYPE_CHECKING:
    from fedtl.clients.settings import Settings
    from fedtl.strategies.strategy import Strategy

STRATEGIES: Registry = {
    "fedavg": "fedtl.strategies.fedavg:FedAvg",
    "fedavg-finetune": "fedtl.strategies.finetune:FedAvgFineTune",
    "feddf": "fedtl.strategies.feddf:FedDF",
    "fedprox": "fedtl.strategies.fedprox:FedProx",
    "local": "fedtl.strategies.local:Local",
    "pfedme": "fedtl.strategies.pfedme:PFedMe",
}


def strategy_type(name: object) -> type[Strategy]:
    """The class of a method, by its short name or by ``"package.module:Class"``."""
    from fedtl.strategies.strategy import Strategy

    found = resolve(STRATEGIES, name, "strategy.name")
    if not (isinstance(found, type) and issubclass(found, Strategy)):
        raise ConfigError(f"strategy.name = {shown(name)}: it is no subclass of fedtl.strategies.strategy.Strategy")
    return found


def read_strategy(table: Mapping[str, Any]) -> Settings:
    """Read the ``[strategy]`` table as its method's options."""
    return validate(strategy_type(table.get("name")).settings_type, table, "strategy")
