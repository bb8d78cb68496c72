"""The Ray that actors run on: one of our own on this machine, or one that runs already, perhaps on many."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from fedtl.choice import ConfigError

REACHABLE_WITHIN = 10.0
"""Seconds that a cluster's head has to accept a connection; Ray itself would try for many minutes."""


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
class Connection:
    """What :func:`connect` found.

    Attributes:
        ours: whether the call connected this process, which must therefore end the connection.
        started: whether it started that Ray as well.
    """

    ours: bool
    started: bool


def connect(address: str | None, cpus: float = 0, environment: Mapping[str, str] | None = None) -> Connection:
    """Make sure that this process is connected to a Ray.

    Args:
        address: of a cluster's head, ``host:port``, or ``auto``; None for a Ray of our own, unless the environment
            variable ``RAY_ADDRESS`` gives one or this process is connected already.
        cpus: of a Ray of our own.
        environment: what the processes of a Ray of our own begin with.

    Raises:
        ConfigError: nothing answers there.
    """
    if ray.is_initialized():
        return Connection(ours=False, started=False)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    at = _address(address)
    if at is not None and at != "auto":
        _check_reachable(at)
    try:
        with _environment({} if at else environment or {}):
            ray.init(
                # "local": without it Ray would join any cluster that it finds on this machine.
                address=at or "local",
                num_cpus=None if at else max(1, round(cpus)),
                include_dashboard=False if at is None else None,
                configure_logging=True,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
    except (ConnectionError, RuntimeError) as error:
        if at is None:
            raise
        raise ConfigError(f"simulation.address = {at!r}: Ray cannot join this cluster: {_one_line(error)}") from error
    return Connection(ours=True, started=at is None)


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


def _address(given: str | None) -> str | None:
    address = given or os.environ.get("RAY_ADDRESS") or None
    return None if address == "local" else address


def _check_reachable(address: str) -> None:
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not port.isdigit():
        raise ConfigError(f"simulation.address = {address!r}: give a cluster's head as host:port, or 'auto'")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACHABLE_WITHIN).close()
    except OSError as error:
        raise ConfigError(
            f"simulation.address = {address!r}: no Ray answers there ({error.strerror or error})"
        ) from None


def _one_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
