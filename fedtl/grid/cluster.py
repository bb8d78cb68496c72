"""The Ray that actors run on: one of our own on this machine, or one that runs already, perhaps on many."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from inspect import signature
from math import ceil
from typing import Any

import grpc
import ray

from fedtl.choice import ConfigError
from fedtl.failure import RunError

REACHABLE_WITHIN = 10.0
"""Seconds that a cluster's head has to accept a connection; Ray itself would try for many minutes."""

WORKER_ENVIRONMENT = {
    # One thread an actor: clients are the parallelism, and more threads would change the order of sums.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # Vectors of a few 100 kB come and go with every client; glibc would ask the kernel for each anew.
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**28),
    # Replies up to this many bytes travel in the answer itself, in half the time of Ray's shared memory; for
    # megabytes it would be the other way round. Ray's own limit is 100 KiB.
    "RAY_max_direct_call_object_size": str(2**19),
    # Actors go on as fast as this process does, which waits for them; Ray would let everything else go first.
    "RAY_worker_niceness": "0",
}
"""What actors' processes begin with. Where this process starts Ray, they inherit it: asked of Ray as a runtime
environment it would cost a second, as the processes that Ray begins with would not do."""

OPEN_TO_NETWORK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""The environment variable by which Ray is told whether other machines may reach it."""


UNUSED_HELPERS = {"no_monitor": True, "include_log_monitor": False}
"""Of Ray's own parameters those by which a Ray that starts here does without helpers; a version need not know them."""


@dataclass(frozen=True)
class Needs:
    """What one actor asks Ray for."""

    cpus: float = 1.0
    gpus: float = 0.0

    def __str__(self) -> str:
        return f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")


def joins(address: str | None) -> bool:
    """Whether actors run on a Ray that runs already: one that is given, or that this process uses."""
    return _address(address) is not None or ray.is_initialized()


@dataclass(frozen=True)
class ClusterConnection:
    """What :func:`connect` found.

    Attributes:
        ours: whether the call connected this process, which must therefore end the connection.
        started: whether it started that Ray as well.
    """

    ours: bool
    started: bool


def connect(address: str | None, cpus: float = 0, environment: Mapping[str, str] | None = None) -> ClusterConnection:
    """Make sure that this process is connected to a Ray.

    Args:
        address: of a cluster's head, ``host:port``, or ``auto``; None for a Ray of our own, unless the environment
            variable ``RAY_ADDRESS`` gives one or this process is connected already.
        cpus: of a Ray of our own.
        environment: what the processes of a Ray of our own begin with.

    Raises:
        ConfigError: nothing answers there, or a Ray of another version.
        RunError: a Ray of our own cannot start.
    """
    if ray.is_initialized():
        return ClusterConnection(ours=False, started=False)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    at = _address(address)
    if at is not None and at != "auto":
        check_reachable(at)
    quiet: dict[str, Any] = {"configure_logging": True, "logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if at is None:
            with _environment(environment or {}), on_loopback(), without_helpers():
                # "local": without it Ray would join any cluster that it finds on this machine.
                ray.init(address="local", num_cpus=max(1, ceil(cpus - 1e-6)), include_dashboard=False, **quiet)
        else:
            ray.init(address=at, **quiet)
    # It raises whatever the step that fails does: OSError, ValueError, its own errors, a bare Exception.
    except Exception as error:
        ray.shutdown()  # or what of it has started would stay
        if at is None:
            raise RunError(
                f"Ray cannot start on this machine: {_one_line(error)}; simulation.grid = 'in-process' needs none"
            ) from error
        raise ConfigError(f"simulation.address = {at!r}: Ray cannot join this cluster: {_one_line(error)}") from error
    return ClusterConnection(ours=True, started=at is None)


@contextmanager
def on_loopback() -> Iterator[None]:
    """Let a Ray that starts here listen on this machine alone, as Ray does of itself on macOS and Windows.

    On Linux its ports would be open to the network. Who sets :data:`OPEN_TO_NETWORK` decides for itself.
    """
    from ray._private import ray_constants

    if OPEN_TO_NETWORK in os.environ:
        yield
        return
    # Ray reads the variable when it is imported, which has been; the processes that it starts import it anew.
    before = ray_constants.ENABLE_RAY_CLUSTER
    with _environment({OPEN_TO_NETWORK: "0"}):
        ray_constants.ENABLE_RAY_CLUSTER = False
        try:
            yield
        finally:
            ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def without_helpers() -> Iterator[None]:
    """Let a Ray that starts here do without three processes that nobody asks: 150 MiB, and seconds until it is there.

    These are its autoscaler's monitor and the reader of its logs, which ``ray start`` has options for, and the
    dashboard's server, which otherwise begins even where there is to be no dashboard.
    """
    try:
        parameter: Any = import_module("ray._private.parameter")
        services: Any = import_module("ray._private.services")
        usual, server = parameter.RayParams, services.start_api_server
        known = signature(usual.__init__).parameters
    except (ImportError, AttributeError, ValueError):  # a Ray that has them elsewhere starts with its helpers
        yield
        return
    without = {name: value for name, value in UNUSED_HELPERS.items() if name in known}
    parameter.RayParams = partial(usual, **without)
    services.start_api_server = lambda *_, **__: (None, None)  # no address and no process, as where it could not start
    try:
        yield
    finally:
        parameter.RayParams, services.start_api_server = usual, server


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """A connection to a Ray that runs already, for the time of a question."""
    connection = connect(address)
    try:
        yield
    finally:
        if connection.ours:
            ray.shutdown()


def gpus() -> float:
    """How many GPUs the Ray that this process is connected to has in all."""
    return sum(node.get("GPU", 0.0) for node in _nodes())


def room(needs: Needs) -> int:
    """How many actors the nodes that are alive have room for, as if nothing else ran on them."""
    return sum(_fits(node, needs) for node in _nodes())


def size() -> str:
    """What the Ray that this process is connected to has, in words."""
    nodes = _nodes()
    cpus = sum(node.get("CPU", 0.0) for node in nodes)
    return f"{len(nodes)} node{'s' * (len(nodes) != 1)} with {cpus:g} CPUs and {gpus():g} GPUs in all"


def _nodes() -> list[dict[str, float]]:
    """What each node that is alive has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _fits(resources: dict[str, float], needs: Needs) -> int:
    asked = {"CPU": needs.cpus, "GPU": needs.gpus}
    # A share such as 1/3 does not fit three times without the small number.
    return min(int(resources.get(kind, 0) / amount + 1e-6) for kind, amount in asked.items() if amount)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Let processes that are started here have these environment variables as well."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _address(host: str | None) -> str | None:
    address = host or os.environ.get("RAY_ADDRESS") or None
    return None if address == "local" else address


def check_reachable(address: str) -> None:
    """Check that a Ray answers at ``host:port``, before Ray itself tries for minutes.

    Raises:
        ConfigError: the address is of another form, or no Ray answers there.
    """
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not port.isdigit():
        raise ConfigError(f"simulation.address = {address!r}: give a cluster's head as host:port, or 'auto'")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACHABLE_WITHIN).close()
    except OSError as error:
        raise ConfigError(
            f"simulation.address = {address!r}: no Ray answers there ({error.strerror or error})"
        ) from None
    if os.environ.get("RAY_USE_TLS") not in (None, "0"):
        return  # Ray's certificates are its own business
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(REACHABLE_WITHIN)
        except grpc.FutureTimeoutError:
            raise ConfigError(
                f"simulation.address = {address!r}: what answers there is no Ray; give the port of the cluster's head"
            ) from None


def _one_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
