"""Optimisers and learning-rate schedules, written once for clients and server.

An optimiser is a chain of gradient transformations (:mod:`~fedtl.optimizers.chain`): pure functions of tensors, for
one vector or for a stack of them, so that a step can be traced.
"""

from __future__ import annotations

from fedtl.choice import Registry

OPTIMIZERS: Registry = {
    "adagrad": "fedtl.optimizers.local:Adagrad",
    "adam": "fedtl.optimizers.local:Adam",
    "adamw": "fedtl.optimizers.local:AdamW",
    "sgd": "fedtl.optimizers.local:SGD",
    "yogi": "fedtl.optimizers.local:Yogi",
}
"""Of clients."""

SERVER_OPTIMIZERS: Registry = {
    "adagrad": "fedtl.optimizers.server:FedAdagrad",
    "adam": "fedtl.optimizers.server:FedAdam",
    "momentum": "fedtl.optimizers.server:FedAvgM",
    "yogi": "fedtl.optimizers.server:FedYogi",
}

SCHEDULES: Registry = {
    "constant": "fedtl.optimizers.schedules:Constant",
    "cosine": "fedtl.optimizers.schedules:Cosine",
    "cyclical": "fedtl.optimizers.schedules:Cyclical",
    "exponential": "fedtl.optimizers.schedules:Exponential",
    "step": "fedtl.optimizers.schedules:Step",
}
