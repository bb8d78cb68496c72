"""Where a sweep's runs are trained: what its conductor asks of any such place, and is told by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from fedtl.config.schema import Config


@dataclass(frozen=True)
class Job:
    """A run that is to be trained.

    Attributes:
        key: its folder relative to the study's, which tells it from the others.
        folder: the run's.
        config: its tables.
        asks: whether it asks after each scored round if it should go on.
    """

    key: str
    folder: Path
    config: Mapping[str, Any]
    asks: bool = False


class Scored(NamedTuple):
    """A round that a run has finished.

    Attributes:
        key: the run's.
        round: its number.
        scores: by name, each metric's mean over clients; empty where the round is not scored.
        marks: by name, over which part of the clients, of those means that need a mark.
    """

    key: str
    round: int
    scores: Mapping[str, Mapping[str, float]]
    marks: Mapping[str, str] = {}


class Ended(NamedTuple):
    """A run that is at its end.

    Attributes:
        key: the run's.
        seconds: that its process worked on it.
        failure: why it failed, in a sentence; empty where it did not.
        pruned: whether it was told to stop.
        lost: whether its process ended, and not the run.
    """

    key: str
    seconds: float
    failure: str = ""
    pruned: bool = False
    lost: bool = False


class Observer(Protocol):
    """Whoever hears what runs do."""

    def scored(self, news: Scored) -> bool:
        """A run has finished a round; whether it is to go on, for those that ask."""

    def ended(self, news: Ended) -> None:
        """A run is at its end."""


class Pool(Protocol):
    """Trains runs."""

    @property
    def size(self) -> int:
        """How many at once."""

    @property
    def free(self) -> int:
        """How many could begin now."""

    def fitted(self, config: Config) -> Config:
        """A run's config as it is trained here; the numbers are the same."""

    def start(self, job: Job) -> None:
        """Begin a run; there must be one free."""

    def wait(self, timeout: float, observer: Observer) -> None:
        """Wait at most so many seconds for news, and pass them on."""

    def close(self) -> None:
        """End all; a run that is going on is left as it stands."""


def in_one_process(config: Config) -> Config:
    """The same experiment with all clients in the process that runs it; on CPUs its bits are the same."""
    simulation = config.simulation.model_copy(update={"grid": "in-process", "address": None})
    return config.model_copy(update={"simulation": simulation})
