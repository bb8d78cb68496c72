"""Every registry of parts, by what ``fedtl list`` calls its kind."""

from __future__ import annotations

from collections.abc import Mapping

from fedtl.choice import Registry
from fedtl.config.tracking import TRACKERS
from fedtl.data import DATASETS
from fedtl.data.partitions import PARTITIONS
from fedtl.losses.objective import TERMS
from fedtl.metrics import METRICS
from fedtl.models import MODELS
from fedtl.optimizers import OPTIMIZERS, SCHEDULES, SERVER_OPTIMIZERS
from fedtl.strategies import STRATEGIES

REGISTRIES: Mapping[str, Registry] = {
    "strategies": STRATEGIES,
    "optimizers": OPTIMIZERS,
    "server-optimizers": SERVER_OPTIMIZERS,
    "schedules": SCHEDULES,
    "partitions": PARTITIONS,
    "datasets": DATASETS,
    "models": MODELS,
    "terms": TERMS,
    "metrics": METRICS,
    "trackers": TRACKERS,
}
