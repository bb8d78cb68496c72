"""What a run works with: devices, and how many actors."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from fedtl.choice import ConfigError
from fedtl.config.schema import Config


@dataclass(frozen=True)
class Resources:
    """What a run works with, decided from its config and the machine or cluster at hand.

    Attributes:
        actors: how many Ray actors, at most.
        elastic: whether there are only as many of them as a cluster has room for at the moment.
        num_cpus, num_gpus: what each asks for.
        worker_device, driver_device: where clients train, and where the server scores.
        notes: what is otherwise than it was asked for.
    """

    actors: int
    elastic: bool
    num_cpus: float
    num_gpus: float
    worker_device: str
    driver_device: str
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: Config, busy: int) -> Resources:
        """Decide; ``busy`` is how many clients train in a round, at most, so that no actor is idle.

        Raises:
            ConfigError: the config asks for what neither this machine nor a cluster that is joined can have.
        """
        simulation, gpus = config.simulation, torch.cuda.device_count() if torch.cuda.is_available() else 0
        on_ray = simulation.grid == "ray"
        joins = on_ray and _joins_a_cluster(simulation.address)
        if config.device == "cuda" and not gpus and not joins:
            raise ConfigError("device = 'cuda': no CUDA device is at hand here; use 'auto' or 'cpu'")
        if simulation.grid != "in-process":
            _check_can_be_had(config, gpus, joins if on_ray else _joins_a_cluster(None))
        if config.device == "cpu":
            gpus = 0
        driver = "cuda" if gpus else "cpu"
        if not on_ray:
            return cls(1, False, 1, 0, driver, driver)
        if joins and config.device != "cpu":
            gpus = _gpus_of_cluster(simulation.address)
        elastic = joins and simulation.actors == "auto"
        actors, notes = min(busy if joins else gpus or cores(), busy), list[str]()
        if simulation.actors != "auto":
            actors = min(simulation.actors, busy)
            if actors < simulation.actors:
                train = "1 client trains" if busy == 1 else f"{busy} clients train"
                there = "is 1 actor" if actors == 1 else f"are {actors} actors"
                notes.append(f"simulation.actors = {simulation.actors}: at most {train} in a round, so there {there}")
        if simulation.num_gpus != "auto":
            share = simulation.num_gpus
        elif gpus:
            share = min(1.0, gpus if elastic else gpus / actors)
        else:  # on a cluster, a GPU may still come
            share = 1.0 if config.device == "cuda" else 0.0
        device = "cuda" if share > 0 else "cpu"
        return cls(actors, elastic, simulation.num_cpus, share, device, driver, tuple(notes))


def _check_can_be_had(config: Config, gpus: int, joins: bool) -> None:
    """Check what each actor asks for; a cluster that is joined may yet get it."""
    num_cpus, num_gpus = config.simulation.num_cpus, config.simulation.num_gpus
    if num_gpus != "auto":
        if num_gpus and config.device == "cpu":
            raise ConfigError(
                f"simulation.num_gpus = {num_gpus:g}: with device = 'cpu' no client trains on a GPU; leave one of "
                "them out"
            )
        if not num_gpus and config.device == "cuda" and config.simulation.grid == "ray":
            raise ConfigError(
                "simulation.num_gpus = 0: with device = 'cuda' each actor needs a GPU or a share of one; leave one of "
                "them out"
            )
        if num_gpus > gpus and not joins:
            there = "is no GPU here" if not gpus else f"{'is' if gpus == 1 else 'are'} only {gpus} here"
            raise ConfigError(f"simulation.num_gpus = {num_gpus:g}: there {there}; leave it out")
    if num_cpus > cores() and not joins:
        raise ConfigError(
            f"simulation.num_cpus = {num_cpus:g}: there {'is' if cores() == 1 else 'are'} only {cores()} here, too "
            "few for a single actor"
        )


def _joins_a_cluster(address: str | None) -> bool:
    """Whether Ray actors would run on a Ray that runs already."""
    try:
        from fedtl.grid import cluster
    except ModuleNotFoundError:
        return False  # without Ray; whoever needs it will say so
    return cluster.joins(address)


def _gpus_of_cluster(address: str | None) -> int:
    from fedtl.grid import cluster

    with cluster.connected(address):
        return int(cluster.gpus())


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
