"""What all tests share: where numbers come from, who runs beside whom, and one Ray."""

from __future__ import annotations

import functools
import gc
import json
import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedtl.engine.choice import Choices
    from tests.warm_actors import WarmActors

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Processes that tests start share two processors with other tests: threads of theirs would wait for one another, and
# Ray's workers, which by default let everybody else go first, would hardly begin.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_worker_niceness", "0")

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


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Keep the garbage collector from looking, again and again, at what stays to the end: torch, and all tests."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = {
        "data": None if os.environ.get("FEDTL_DATA") else "FEDTL_DATA does not name a folder with the image data sets",
        "gpu": None if torch.cuda.is_available() else "no CUDA device is at hand",
    }
    for item in items:
        for marker, reason in reasons.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
    if hasattr(config, "workerinput"):  # a process of pytest-xdist's: in the order in which they are to be handed out
        items.sort(key=lambda item: [*MARKS, ""].index(_mark_of(item.path)))


# Several processes (pytest --numprocesses).

MARKS = {
    "deploy": ("pytest.mark.deploy",),
    "ray": ("ray_session", "warm_actors"),
    "a Ray of its own": ("pytest.mark.ray",),
}
"""Files with one of these words are one process's, one after another, and begin first, as they take longest.

What deploys waits most of the time, and all that use ``ray_session`` share it and its actors. Any other file is some
process's as a whole, as its tests share what its fixtures have made.
"""


@functools.cache
def _mark_of(file: Path) -> str:
    """One of :data:`MARKS` if some test of a file has it, or nothing.

    Out of the text: the process that hands out tests collects none, and sees no marks.
    """
    text = file.read_text(encoding="utf-8")
    return next((mark for mark, words in MARKS.items() if any(word in text for word in words)), "")


@pytest.hookimpl(optionalhook=True)  # where pytest-xdist is not installed there is none
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class ByFileOrMark(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, *_ = nodeid.split("::", 1)
            return _mark_of(config.rootpath / file) or file

    config.option.loadscopereorder = False  # not by the number of tests: as collected
    return ByFileOrMark(config, log)


@pytest.fixture(autouse=True)
def _the_same_random_numbers_each_time() -> None:
    """Whichever tests ran before in this process.

    Not ``torch.manual_seed``: without a GPU it keeps a formatted traceback of each call, which takes longer than many a
    test.
    """
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)


@pytest.fixture(autouse=True)
def _nobody_waits_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut would take a test's runs with the test; tests/unit/test_durable.py looks at who waits."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr("fedtl.disk.durable.settle_all", lambda _: None)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray for all tests: it takes seconds to start. "local": it joins no other that runs on this machine."""
    ray = pytest.importorskip("ray")
    if ray.is_initialized():
        yield
        return
    from fedtl.grid import cluster
    from fedtl.grid.ray import WORKER_ENVIRONMENT

    with pytest.MonkeyPatch.context() as patch, cluster.without_helpers():
        for name, value in WORKER_ENVIRONMENT.items():
            patch.setenv(name, value)
        ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def _actors(ray_session: None) -> WarmActors:
    from tests.warm_actors import WarmActors

    return WarmActors()


@pytest.fixture
def engines_chosen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of the same experiment are given the engine that the first of them chose.

    Half the time of a short run goes into trying out how it is best trained. For tests that compare runs, and change
    nothing of what is tried out.
    """
    from fedtl.assemble.parts import Assembly

    choose = Assembly.choose_engines

    def choose_once(assembly: Assembly, device: str) -> Choices:
        key = json.dumps([assembly.config.tables(), device], sort_keys=True, default=str)
        if key not in _CHOSEN:
            _CHOSEN[key] = choose(assembly, device)
        return _CHOSEN[key]

    monkeypatch.setattr(Assembly, "choose_engines", choose_once)


_CHOSEN: dict[str, Choices] = {}


@pytest.fixture
def warm_actors(_actors: WarmActors, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs on Ray train on actors that have begun for an earlier test: see :mod:`tests.warm_actors`."""
    _actors.lend_to_grids(monkeypatch)
