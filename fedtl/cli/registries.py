"""Every registry of parts, by what ``fedtl list`` calls its kind."""

from __future__ import annotations

from collections.abc import Mapping

from fedtl.choice import Registry
from fedtl.config.tracking import TRACKERS
from fedtl.data import DATASETS
from fedtl.data.partitions import PARTITIONS
from fedtl.losses.objective import TERMS
from fedtl.metrics.registry import BY_TASK
from fedtl.models import MODELS
from fedtl.models.adapter_settings import ADAPTERS
from fedtl.optimizers import OPTIMIZERS, SCHEDULES, SERVER_OPTIMIZERS
from fedtl.strategies import STRATEGIES
from fedtl.tasks import TASKS

REGISTRIES: Mapping[str, Registry] = {
    "strategies": STRATEGIES,
    "optimizers": OPTIMIZERS,
    "server-optimizers": SERVER_OPTIMIZERS,
    "schedules": SCHEDULES,
    "partitions": PARTITIONS,
    "datasets": DATASETS,
    "models": MODELS,
    "adapters": ADAPTERS,
    "terms": TERMS,
    "tasks": TASKS,
    "metrics": {name: path for rows in [*BY_TASK.values()][::-1] for name, path in rows.items()},
    "trackers": TRACKERS,
}
