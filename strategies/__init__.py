"""Methods, server side: one file each for those whose server does more than average."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from fedtl.choice import ConfigError, Registry, resolve, shown, validate

if TYPE_CHECKING:
    from fedtl.clients.contract import ClientUpdate
    from fedtl.clients.settings import Settings
    from fedtl.strategies.contract import Strategy

STRATEGIES: Registry = {
    "afl": "fedtl.strategies.afl:AFL",
    "apfl": "fedtl.clients.apfl:APFL",
    "central": "fedtl.strategies.central:Central",
    "ditto": "fedtl.clients.ditto:Ditto",
    "fedadagrad": "fedtl.strategies.fedopt:FedAdagrad",
    "fedadam": "fedtl.strategies.fedopt:FedAdam",
    "fedavg": "fedtl.strategies.fedavg:FedAvg",
    "fedavg-finetune": "fedtl.clients.finetune:FineTune",
    "fedavgm": "fedtl.strategies.fedopt:FedAvgM",
    "fedbabu": "fedtl.clients.fedbabu:FedBABU",
    "fedbn": "fedtl.clients.fedbn:FedBN",
    "fedcp": "fedtl.strategies.fedcp:FedCP",
    "feddbe": "fedtl.strategies.feddbe:FedDBE",
    "feddc": "fedtl.strategies.feddc:FedDC",
    "feddf": "fedtl.strategies.feddf:FedDF",
    "feddyn": "fedtl.strategies.feddyn:FedDyn",
    "fedlc": "fedtl.clients.fedlc:FedLC",
    "fednova": "fedtl.strategies.fednova:FedNova",
    "fedntd": "fedtl.clients.fedntd:FedNTD",
    "fedpac": "fedtl.strategies.fedpac:FedPAC",
    "fedper": "fedtl.clients.fedper:FedPer",
    "fedprox": "fedtl.clients.fedprox:FedProx",
    "fedrep": "fedtl.clients.fedrep:FedRep",
    "fedrod": "fedtl.clients.fedrod:FedRoD",
    "fedrod-hyper": "fedtl.strategies.fedrodhyper:FedRoDHyper",
    "fedsam": "fedtl.strategies.fedsam:FedSAM",
    "fedyogi": "fedtl.strategies.fedopt:FedYogi",
    "gpfl": "fedtl.strategies.gpfl:GPFL",
    "lg-fedavg": "fedtl.clients.lgfedavg:LGFedAvg",
    "local": "fedtl.clients.local:Local",
    "moon": "fedtl.clients.moon:Moon",
    "per-fedavg": "fedtl.clients.perfedavg:PerFedAvg",
    "pfedme": "fedtl.strategies.pfedme:PFedMe",
    "qfedavg": "fedtl.strategies.qfedavg:QFedAvg",
    "scaffold": "fedtl.strategies.scaffold:Scaffold",
}
"""A method is its server's class, or its client update's alone where the server is plain averaging."""

BASELINES = ("local", "fedavg")
"""Methods that others are held against client by client: no federation, and one model for all."""

EXAMPLE = "fedavg"
"""The method that stands in an example of something else."""

GROUPS: Mapping[str, tuple[str, ...]] = {
    "Baselines that comparisons want": ("central", "local", "fedavg", "fedavg-finetune"),
    "Averaging and drift: one model for all": (
        *("afl", "fedadagrad", "fedadam", "fedavgm", "feddc", "feddyn", "fedlc", "fednova", "fedntd", "fedprox"),
        *("fedsam", "fedyogi", "moon", "qfedavg", "scaffold"),
    ),
    "A model of one's own beside the global one": ("apfl", "ditto", "per-fedavg", "pfedme"),
    "Parts of the model stay at each client": (
        *("fedbabu", "fedbn", "fedcp", "feddbe", "fedpac", "fedper", "fedrep", "fedrod", "fedrod-hyper", "gpfl"),
        "lg-fedavg",
    ),
    "Distillation at the server": ("feddf",),
}
"""How ``fedtl list`` groups the methods; what is in no group stands behind, and names of no method are passed over."""


def strategy_type(name: object) -> type[Strategy]:
    """The class of a method's server, by its short name or by ``"package.module:Class"``."""
    from fedtl.clients.contract import ClientUpdate
    from fedtl.strategies.contract import Strategy

    method = resolve(STRATEGIES, name, "strategy.name")
    if isinstance(method, type) and issubclass(method, ClientUpdate):
        return _averaging(method)
    if not (isinstance(method, type) and issubclass(method, Strategy)):
        raise ConfigError(
            f"strategy.name = {shown(name)}: it is no subclass of fedtl.strategies.contract.Strategy, nor of "
            "fedtl.clients.contract.ClientUpdate"
        )
    return method


@functools.cache
def _averaging(update: type[ClientUpdate[Any]]) -> type[Strategy]:
    """The server that averages what a client update uploads, with or without an optimiser of its own."""
    from fedtl.optimizers.settings import AveragingSettings
    from fedtl.strategies.contract import Strategy
    from fedtl.strategies.fedavg import FedAvg

    settings = update.settings_type
    if update.uploads() and ([*update.sums] != ["w"] or update.rows):
        raise ConfigError(
            f"strategy.name: {update.__name__} uploads more than 'w', and plain averaging knows of nothing else; name "
            "a subclass of fedtl.strategies.contract.Strategy that has it as its client_update"
        )
    server = FedAvg if update.uploads() else Strategy
    if update.uploads():
        settings = _subclass((settings, AveragingSettings), __doc__=settings.__doc__, __module__=settings.__module__)
    name, doc = update.__name__, update.__doc__
    averaging: type[Strategy] = _subclass((server,), name, client_update=update, settings_type=settings, __doc__=doc)
    return averaging


def _subclass(bases: tuple[type, ...], name: str | None = None, **body: Any) -> Any:
    return types.new_class(name or bases[0].__name__, bases, exec_body=lambda namespace: namespace.update(body))


def read_strategy(table: Mapping[str, Any]) -> Settings:
    """Read the ``[strategy]`` table as its method's options."""
    settings = strategy_type(table.get("name")).settings_type
    return validate(settings, table, "strategy", partial(_owners, settings))


def _owners(settings: type[Settings], option: str) -> str:
    """The methods that have an option, in words, of many three; and what says the same under one that has it not."""
    names = [name for name in STRATEGIES if option in strategy_type(name).settings_type.model_fields]
    words = ", ".join([*names[:3], *(["others"] if len(names) > 3 else [])])
    if option in ("momentum", "weight_decay") and "optimizer" in settings.model_fields:
        value = {"momentum": "0.9", "weight_decay": "1e-4"}[option]
        words += f'; here the optimiser has it, as strategy.optimizer = {{ name = "sgd", {option} = {value} }}'
    return words
