"""What all tests share: where numbers come from, who runs beside whom, and one Ray."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import hypothesis
import numpy as np
import pytest
import torch

torch.set_num_threads(1)

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

# What a script starts in the background ignores Ctrl-C, and so does all that it starts; tests send it.
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = {
        "data": None if os.environ.get("FEDTL_DATA") else "FEDTL_DATA does not name a folder with the image data sets",
        "gpu": None if torch.cuda.is_available() else "no CUDA device is at hand",
    }
    for item in items:
        for marker, reason in reasons.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
    if hasattr(config, "workerinput"):  # in a process of pytest-xdist's
        _share_out(items)


def _share_out(items: list[pytest.Item]) -> None:
    """Say which tests one process runs after each other (``--dist loadgroup``), and which of those begin first.

    All that use Ray do, as they share one; and all that deploy, which mostly wait. Those take longest. Otherwise the
    tests of a file do, as they share what its fixtures have made.
    """
    first = {"deploy": 0, "ray": 1}
    names = {item: _group(item) for item in items}
    items.sort(key=lambda item: first.get(names[item], len(first)))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(names[item]))


def _group(item: pytest.Item) -> str:
    if item.get_closest_marker("deploy"):
        return "deploy"
    if item.get_closest_marker("ray") or "ray_session" in getattr(item, "fixturenames", ()):
        return "ray"
    return item.path.stem


@pytest.fixture(autouse=True)
def _the_same_random_numbers_each_time() -> None:
    """Whichever tests ran before in this process."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)


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
