from __future__ import annotations

import os
from collections.abc import Iterator

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reasons = {
        "data": None if os.environ.get("FEDTL_DATA") else "FEDTL_DATA does not name a folder with the image data sets",
        "gpu": None if torch.cuda.is_available() else "no CUDA device is at hand",
    }
    for item in items:
        for marker, reason in reasons.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray for all tests: it takes seconds to start. "local": it joins no other that runs on this machine."""
    ray = pytest.importorskip("ray")
    if ray.is_initialized():
        yield
        return
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
